"""What one of our meters is at Stripe."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from aggregator.core.model import Event, WriteModel
from aggregator.core.planner import plain


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeMeter:
    """The event name of its meter there, and the payload keys under which that meter looks for customer and quantity.

    docs.stripe.com/billing/subscriptions/usage-based/meters/configure
    """

    event_name: str
    customer_key: str = "stripe_customer_id"
    value_key: str = "value"
    display_name: str | None = None
    """What people read there; None leaves it to whoever made it."""
    formula: Literal["sum", "last"] = "sum"
    event_time_window: Literal["hour", "day"] | None = None
    """Of the events of a customer in one UTC hour or day, only the newest that was received counts."""

    @property
    def write_model(self) -> WriteModel:
        """What an event of ours is to it."""
        if self.formula == "last":
            return WriteModel.LAST
        return WriteModel.DELTA if self.event_time_window is None else WriteModel.OVERWRITE

    @property
    def replaces(self) -> bool:
        """Whether a later event takes the place of an earlier one, so that each says where its window stands."""
        return self.write_model is not WriteModel.DELTA

    def quantity(self, event: Event) -> Decimal:
        """Return the number that Stripe is told: where the window stands if events replace, else by how much more."""
        return event.total if self.replaces else event.delta

    def payload(self, event: Event, customer: str) -> dict[str, str]:
        """Return what is said of the customer, by Stripe's name for it."""
        return {self.customer_key: customer, self.value_key: plain(self.quantity(event))}
