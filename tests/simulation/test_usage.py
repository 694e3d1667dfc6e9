"""Usage adds up at any moment of a life, whatever goes wrong in it: on every line, over all lines, and with every event."""

import random
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from aggregator.core.model import Span
from aggregator.core.usage import By, Usage
from aggregator.ledger.database import Database
from aggregator.ledger.usage import UsageFeed, UsageReport
from tests import usage_by_hand
from tests.conftest import TEMPLATE
from tests.simulation.conditions import DAY, Conditions, cancelling, hearing, in_files, newest, short
from tests.simulation.life import START, Life, outcome
from tests.simulation.postgres import in_postgres

SPAN = Span(START, START + 40 * DAY)
EVERY = 40
"""After each so many transactions the usage is looked at."""

GROUPINGS = (None, *By)


BILLED = {"used", "billed", "under_way", "carried", "unmapped"}
LIVES: tuple[tuple[int, Callable[[Conditions], Conditions], set[str]], ...] = (
    (12, newest, BILLED | {"refused"}),
    (22, in_files, BILLED | {"held"}),
    (43, cancelling, BILLED | {"held", "refused"}),
    (67, hearing, BILLED | {"held", "refused"}),
)
"""Lives by their seeds, with the figures that are met in each at one time or another."""


class Accountant:
    """Looks at the usage of every feed now and then."""

    def __init__(self, connection: psycopg.Connection[Any], database: Database) -> None:
        self._connection = connection
        self._report = UsageReport(database)
        self._calls = 0
        self.met: set[str] = set()

    def after(self, verb: Callable[..., None]) -> Callable[..., None]:
        """Return what is called after each transaction, with a look now and then."""

        def call(*values: Any) -> None:
            verb(*values)
            self._calls += 1
            if self._calls % EVERY == 0:
                self.look()

        return call

    def look(self) -> None:
        """Hold each line against the ledger's rows, and the lines against each other."""
        for feed in self._report.feeds(None, SPAN):
            totals = {by: self._look_at(feed, by) for by in GROUPINGS}
            whole = totals[None]
            self.met.update(name for name, amount in whole._asdict().items() if amount)
            assert totals[By.CUSTOMER] == whole
            if not feed.last:
                assert [totals[by] for by in By] == [whole] * len(By)
                self._carries(feed)

    def _look_at(self, feed: UsageFeed, by: By | None) -> Usage:
        """Look at the lines of one grouping; return their sum."""
        lines = list(self._report.lines(feed, SPAN, by))
        assert lines == usage_by_hand.lines(self._connection, feed, SPAN, by)
        total = Usage()
        for line in lines:
            assert line.usage.used == sum(line.usage[1:]), line
            total = total.plus(line.usage)
        return total

    def _carries(self, feed: UsageFeed) -> None:
        """What a customer carries over all windows is the carry that the planner goes on from."""
        carries = self._connection.execute(
            "select customer, amount from aggregator.carry where feed_id = %s", [feed.id]
        )
        lines = self._report.lines(feed, SPAN, By.CUSTOMER)
        carried = {line.customer: line.usage.carried for line in lines if line.usage.carried}
        assert carried == dict(carries.fetchall())


@pytest.mark.parametrize(("seed", "kind", "figures"), LIVES)
def test_usage_adds_up_at_any_moment(
    seed: int,
    kind: Callable[[Conditions], Conditions],
    figures: set[str],
    create_database: Callable[[str | None], str],
) -> None:
    """After any transaction, each line is what the ledger's rows say, and its figures add up; so do the lines."""
    url = create_database(TEMPLATE)
    conditions = kind(short(random.Random(seed)))
    conditions.fractions, conditions.unmapped, conditions.poison = True, 0.1, 0.1
    with (
        in_postgres(url) as ledger,
        Database(url) as database,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        life = Life(seed, ledger, conditions)
        accountant = Accountant(connection, database)
        life.watch.verb = accountant.after(life.watch.verb)  # type: ignore[method-assign]  # one more who watches
        lived = outcome(life)
        assert lived.rule is None, f"{lived.trace}\n\n{lived.rule}: {lived.facts}"
        accountant.look()
    assert accountant.met == figures
