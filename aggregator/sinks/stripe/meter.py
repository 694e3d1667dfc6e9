"""What one of our meters is at Stripe."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeMeter:
    """The event name of its meter there, and the payload keys under which that meter looks for customer and quantity.

    docs.stripe.com/billing/subscriptions/usage-based/meters/configure
    """

    event_name: str
    customer_key: str = "stripe_customer_id"
    value_key: str = "value"
