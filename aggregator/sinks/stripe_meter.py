"""What one of our meters is at Stripe.

Rules
- Dimensions go into the payload, under keys of their own. A Stripe meter that declares those keys prices by them; any other
  adds up what it is sent.
- Or each combination goes to a Stripe meter of its own, as a mapping says. One that is not mapped goes nowhere: it is
  refused with a sentence, and can be sent once it is mapped.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Literal, NamedTuple

from aggregator.core.dimensions import shown
from aggregator.core.model import Event, WriteModel
from aggregator.core.planner import plain


class Mapped(NamedTuple):
    """An event name, and the values of dimensions whose events go under it: those that are not named may be any."""

    event_name: str
    where: Mapping[str, str]


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
    dimensions: Mapping[str, str] = field(default_factory=dict)
    """The payload key of each dimension."""
    event_names: tuple[Mapped, ...] = ()
    """Where combinations go to Stripe meters of their own: the first that fits counts."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every event name under which something of it may have gone; its own is that of events without dimensions."""
        return tuple(dict.fromkeys((self.event_name, *(each.event_name for each in self.event_names))))

    @property
    def needed(self) -> tuple["StripeMeter", ...]:
        """The Stripe meters that there must be for it, each as if it were one of ours."""
        if not self.event_names:
            return (self,)
        names = dict.fromkeys(each.event_name for each in self.event_names)
        return tuple(replace(self, event_name=name, event_names=(), display_name=None) for name in names)

    def name_of(self, event: Event) -> str | None:
        """Return under which event name an event goes; None if its combination is not mapped."""
        if not self.event_names or not event.dimensions:
            return self.event_name
        values = dict(event.dimensions)
        return next(
            (each.event_name for each in self.event_names if each.where.items() <= values.items()), None
        )

    def unmapped(self, event: Event) -> str:
        """Say that the combination of an event is not mapped, and what to do."""
        return (
            f"no event name is mapped for {shown(event.dimensions)}: add one under `stripe.event_names` of the meter "
            f"{event.meter}, then let what was refused go by `aggregator events release`"
        )

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
        said = {self.customer_key: customer, self.value_key: plain(self.quantity(event))}
        for name, value in event.dimensions:
            said[self.dimensions.get(name, name)] = value
        return said
