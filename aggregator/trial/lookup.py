"""Whether customers that a query returned are at its sinks: a few of them are looked up there.

Rules
- A few per meter and sink, from all over the rows; one after the other, and none twice in one run of `check`.
- Not finding one is a warning: it is a sample, and where a test account stands beside real data nobody is found.
- A sink that does not say, whether it may not or cannot, is not asked again: that is worth a note, and no more.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from aggregator.errors import AccountRefused, SinkError, SinkUnreadable
from aggregator.trial import findings
from aggregator.trial.findings import Finding, Kind

MOST = 5
"""How many customers of a meter are looked up at each of its sinks: enough to notice a wrong account or mode."""


@runtime_checkable
class KnowsCustomers(Protocol):
    """A sink that can be asked whether a customer is there. Nothing is made or changed by asking."""

    name: str

    def knows_by_name(self, customer: str) -> bool:
        """Say whether the far side can be asked about what is so called: of another form it would give no answer."""
        ...

    def why_unknown(self, customer: str) -> str | None:
        """Say in a sentence why nobody there is so called, or no longer; None if somebody is.

        Raises SinkUnreadable if the key may not ask, AccountRefused if an account that the customer names does not let us
        ask, and any other SinkError if there is no answer.
        """
        ...


class Register:
    """What one sink said of customers, for all meters that feed it."""

    def __init__(self, sink: KnowsCustomers) -> None:
        self.name = sink.name
        self._sink = sink
        self._found: dict[str, str | None] = {}
        self.is_silent = False

    def sample(self, customers: Iterable[str | None]) -> list[str]:
        """Choose whom to look up."""
        if self.is_silent:
            return []
        named = dict.fromkeys(each for each in customers if each is not None)
        return spread([each for each in named if self._sink.knows_by_name(each)], MOST)

    def why_unknown(self, customer: str) -> str | None:
        """Say why a customer is not there; None if it is. Raises SinkError, and from then on the sink is silent."""
        if customer not in self._found:
            try:
                self._found[customer] = self._sink.why_unknown(customer)
            except SinkError:
                self.is_silent = True
                raise
        return self._found[customer]


def spread(each: Sequence[str], most: int) -> list[str]:
    """Return at most so many, evenly from the whole length: the middle of each part."""
    if len(each) <= most:
        return list(each)
    return [each[(2 * number + 1) * len(each) // (2 * most)] for number in range(most)]


def unknown(reasons: Sequence[str], asked: int, sink: str) -> list[Finding]:
    """Judge what came of looking up so many customers: `reasons` has a sentence for each that is not there."""
    if not reasons:
        return []
    said = (
        f"{len(reasons)} of {asked} customers that were looked up at {sink} are not there, so their usage cannot "
        f"be billed: {' '.join(reasons)} Let the query return ids of the account and mode that the key is for, and "
        "leave out customers that you deleted there"
    )
    return [findings.warning(Kind.CUSTOMER_UNKNOWN, said)]


def silent(error: SinkError, sink: str) -> Finding:
    """Say why customers were not looked up (any further): the key may not, or there was no answer."""
    if isinstance(error, SinkUnreadable | AccountRefused):
        return findings.note(
            f"the key of {sink} may not look up customers, so it was not checked whether those of the query exist. "
            f"That is fine: sending does not need it ({error})"
        )
    return findings.note(f"it was not checked whether the customers exist at {sink}: {error}")


def out_of_time(seconds: float, sink: str) -> Finding:
    """Say that the time ran out before all of the sample was looked up."""
    return findings.note(
        f"the {seconds:g} s of the trial ran out before its customers were looked up at {sink}. Allow more with "
        "`--trial-seconds`"
    )
