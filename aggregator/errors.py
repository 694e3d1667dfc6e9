"""Every error we raise on purpose, by what the reader must do about it.

    AggregatorError                 base: its text is a message for a person
    ├── ConfigError                 the configuration is wrong: edit the file (carries every problem at once)
    ├── UsageError                  the command was called with arguments that cannot be served
    ├── SourceError                 an application database did not answer as it must
    │   ├── SourceUnreachable       it may pass by itself: try again later
    │   ├── QueryRejected           it will not pass by itself: mend the query or its rows
    │   └── QueryTimedOut           it asks too much at once: make it cheaper, or allow it more time
    ├── LedgerError                 our own database
    │   ├── LedgerUnreachable       it may pass by itself: try again later
    │   ├── LedgerOutdated          its schema is not ours: migrate
    │   ├── ClocksApart             this host's clock or the ledger's is wrong: set it right, and all goes on by itself
    │   ├── MeterRefused            a configured meter would bill again what this ledger billed: correct the configuration
    │   ├── LedgerStopped           it was wound back or copied, or a sink changed its account: adopt
    │   │   └── LedgerFailedOver    its server may lack the latest commits: adopt, or say that nothing was lost
    │   ├── LeaseLost               another process holds the meter now: nothing was written
    │   ├── MonthClosed             windows are asked for whose month is archived: nothing of them is read or billed any more
    │   └── ArchiveError            an archive cannot be written or read: make room, or bring the file back
    ├── SinkError                   where events go
    │   ├── AccountRefused          one of the accounts that customers name does not let us in: its owner must act
    │   ├── SinkCrowded             it has more to say than fits one answer: ask for less at once
    │   ├── SinkHalted              the sink refuses us as a whole (key, permission, wrong address): a person must act
    │   │   └── SinkUnreadable      the key may not read there what was counted
    │   ├── SinkUnreachable         it may pass by itself: try again later
    │   ├── CustomerUnknown         the sink has no figures of one customer; it has of the others
    │   ├── NoOverview              it gives no quick look at a customer: the figures that prove something are read instead
    │   ├── MetersMixed             it adds several meters up in one figure, so that none of them has one
    │   └── MeterMissing            the sink has no such meter, so it has counted nothing of it
    ├── PlanOutdated                what a plan was made of has changed since: plan again
    └── InvariantBroken             a bug in aggregator: stop rather than bill wrongly

A class's docstring is its message when none is given.
"""

from enum import Enum, auto
from typing import NamedTuple


class Rejected(Enum):
    """As what a query was rejected, where that matters."""

    AS_A_WRITE = auto()  # by the database, before it did anything
    AFTER_IT_RAN = auto()  # by us, for what it returned
    OTHERWISE = auto()


class AggregatorError(Exception):
    """Something went wrong in aggregator."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__)


class Problem(NamedTuple):
    """One thing wrong with the configuration: where it stands, and what to do about it."""

    file: str
    line: int | None
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line is not None else self.file
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class ConfigError(AggregatorError):
    """The configuration cannot be used; correct the file and run `aggregator check`."""

    def __init__(self, problems: list[Problem]) -> None:
        assert problems, "a configuration error names at least one problem"
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


class UsageError(AggregatorError):
    """The command cannot be carried out with these arguments; see its --help."""


class SourceError(AggregatorError):
    """An application database did not answer as it must; run `aggregator check`."""


class SourceUnreachable(SourceError):
    """An application database cannot be reached; it is tried again at the next pass."""


class QueryRejected(SourceError):
    """A usage query does not give what a meter needs; correct the query and run `aggregator check`."""

    def __init__(self, message: str | None = None, *, rejected: Rejected = Rejected.OTHERWISE) -> None:
        self.rejected = rejected
        super().__init__(message)


class QueryTimedOut(SourceError):
    """A usage query took longer than `statement_timeout`; make it cheaper, or allow the source more time."""


class LedgerError(AggregatorError):
    """The ledger did not answer as it must."""


class LedgerUnreachable(LedgerError):
    """The ledger cannot be reached; check `ledger.url` and that Postgres is up."""


class LedgerOutdated(LedgerError):
    """The ledger's schema is not the one this version works with; run `aggregator migrate`."""


class ClocksApart(LedgerError):
    """This host's clock differs from the ledger's, so nothing is read or sent from here; set the wrong one right."""


class LedgerStopped(LedgerError):
    """The ledger is not what it was, so nothing is read or sent; see `aggregator adopt --help`."""


class LedgerFailedOver(LedgerStopped):
    """The ledger's server may lack the latest commits, so nothing is read or sent; see `aggregator adopt --help`."""


class MeterRefused(LedgerError):
    """A meter would bill again what this ledger has billed, by another name or reading; see docs/operations.md."""


class LeaseLost(LedgerError):
    """Another process holds this meter now; nothing was written."""


class MonthClosed(LedgerError):
    """These windows are closed for good, since their month is archived; begin later."""


class ArchiveError(LedgerError):
    """An archive cannot be written or read; see docs/archives.md."""


class SinkError(AggregatorError):
    """A sink did not answer as it must."""


class AccountRefused(SinkError):
    """An account that a customer names does not let us in; let its owner connect it again."""


class SinkCrowded(SinkError):
    """A sink has more to say than fits one answer; it is asked for less at once."""


class SinkHalted(SinkError):
    """A sink refuses us as a whole; correct its key or address, then restart or send SIGHUP."""


class SinkUnreadable(SinkHalted):
    """A sink does not let this key read what it has counted; grant the permission to read."""


class SinkUnreachable(SinkError):
    """A sink cannot be reached; it is tried again later."""


class CustomerUnknown(SinkError):
    """A sink does not know a customer, so it has no figures of it; make the customer known there."""


class NoOverview(SinkError):
    """A sink gives no quick look at a customer; the figures that prove something are read instead."""


class MetersMixed(SinkError):
    """A sink adds several meters up in one figure; give each a figure of its own there."""


class MeterMissing(SinkError):
    """A sink has no such meter; create it there."""


class PlanOutdated(AggregatorError):
    """What a plan was made of has changed since, so nothing was applied; plan again."""


class InvariantBroken(AggregatorError):
    """An invariant does not hold; aggregator stops rather than bill wrongly. Please report this."""
