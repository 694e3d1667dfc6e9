"""What a meter is called outside: one that has another name here by now goes on under the first one for everybody else."""

from aggregator.core.model import Event
from tests.simulation.apart import name_of

AS = "_known_as_"


def renamed(meter: str) -> str:
    """Return a new name for a meter."""
    first, _, number = meter.partition(AS)
    return f"{first}{AS}{int(number or 1) + 1}"


def called(meter: str) -> str:
    """Return by what name the application has its rows, and the service counts it."""
    return meter.partition(AS)[0]


def outward(event: Event) -> Event:
    """Return an event as the service knows it."""
    return event._replace(meter=called(event.meter), customer=name_of(event), dimensions=())
