"""How old usage may be for a service to take it: said here once, for the sinks and for whoever tells of it.

Rules
- Each figure is one that the service's own page names. What we count on is less by an hour, so that nothing becomes too old
  on its way.
- A file that somebody uploads ends at Stripe, and so has its limit.
"""

import datetime as dt

MARGIN = dt.timedelta(hours=1)

STRIPE = dt.timedelta(days=35)
"""docs.stripe.com/api/billing/meter-event/create"""

METRONOME = dt.timedelta(days=34)
"""docs.metronome.com/guides/events/send-usage-events"""

FURTHEST = max(STRIPE, METRONOME)
"""What is older can be billed nowhere: nobody asks for it, and nothing needs to be said of it."""


def most_past(sink_type: str) -> dt.timedelta:
    """Return how old usage may be when it is planned for a sink of a type, as the configuration names types."""
    return (METRONOME if sink_type == "metronome" else STRIPE) - MARGIN
