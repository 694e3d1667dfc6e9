"""What one of our meters is at Metronome."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class MetronomeMeter:
    """The type of its events, the property that holds the quantity, and properties that are the same on each event.

    docs.metronome.com, design usage events.
    """

    event_type: str
    quantity_property: str = "quantity"
    properties: Mapping[str, str] = field(default_factory=dict)
    metric_id: str | None = None
    """The billable metric that sums it; None looks it up by event type and property."""
    window: dt.timedelta = dt.timedelta(hours=1)
    """How long its windows are: Metronome shows no less than an hour."""

    @property
    def sent(self) -> dict[str, str | None]:
        """Return every property of its events; None stands for the quantity, which differs."""
        return {self.quantity_property: None, **self.properties}
