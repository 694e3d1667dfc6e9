"""Usage that is kept apart by a dimension, in one name: here the tables of everybody have `cus_1#m2` for what customer cus_1
used of model m2, as if each combination were a customer. So whatever is to hold of a customer is asked of each combination.

Where a word goes between the real code and its surroundings, a name becomes a customer with dimensions, and back.
"""

from collections.abc import Iterable

from aggregator.core.dimensions import Dimensions
from aggregator.core.model import Change, Event, Reading

DIMENSION = "model"
SIGN = "#"


def named(customer: str, dimensions: Dimensions) -> str:
    """Return the name of what a customer used of a combination."""
    return f"{customer}{SIGN}{dimensions[0][1]}" if dimensions else customer


def customer_of(name: str) -> str:
    """Return whose it is."""
    return name.partition(SIGN)[0]


def dimensions_of(name: str) -> Dimensions:
    """Return of which combination it is."""
    value = name.partition(SIGN)[2]
    return ((DIMENSION, value),) if value else ()


def name_of(word: Change | Event) -> str:
    """Return the name that a change or an event goes by here."""
    return named(word.customer, word.dimensions)


def shown(readings: Iterable[Reading]) -> list[Reading]:
    """Return readings as a query gives them, with a column for the dimension."""
    return [
        each
        if each.customer is None or SIGN not in each.customer
        else each._replace(customer=customer_of(each.customer), dimensions=dimensions_of(each.customer))
        for each in readings
    ]
