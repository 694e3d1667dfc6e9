"""`aggregator test`: the tests of each meter's query."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from aggregator.cli.completion import MeterName
from aggregator.cli.exit_codes import ExitCode
from aggregator.cli.options import config_option, json_option, known_meters, load_config
from aggregator.cli.printing import say, show_rows, write_json
from aggregator.core.shown import counted

if TYPE_CHECKING:
    import datetime as dt
    from decimal import Decimal

    from aggregator.config import Config
    from aggregator.config.query_tests import QueryTest
    from aggregator.trial.query_tests import Case, Difference, Place

COLUMNS = "meter test customer window expected> given> reason"
COLUMNS_APART = "meter test customer window dimensions expected> given> reason"
"""Where a meter has dimensions."""


class Tested(NamedTuple):
    """What became of one test. `error` says why it could not be run."""

    meter: str
    test: str
    differences: "Sequence[Difference]" = ()
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the query gave just what is expected."""
        return not self.differences and self.error is None


@click.command()
@click.argument("meters", nargs=-1, type=MeterName(), metavar="[METER]...")
@config_option
@json_option
def test(config_path: Path, *, meters: tuple[str, ...], as_json: bool) -> None:
    """Run the query of each METER, or of all, on the rows of its test cases, in the source's own engine.

    Write tests under the meter's key `tests`. During one statement, a test's rows take the place of the query's tables.
    Nothing is written, and no ledger or sink is needed.

    It exits with 3 if a query does not give the expected result, and with 1 if a test could not be run. So you can use
    it to block a pull request.
    """
    config = load_config(config_path)
    tested = [each for name in known_meters(config, meters) for each in _tested(config, name)]
    if as_json:
        write_json(
            {
                "passed": sum(each.passed for each in tested),
                "tests": [
                    {
                        "meter": each.meter,
                        "test": each.test,
                        "passed": each.passed,
                        "error": each.error,
                        "differences": [
                            found._asdict() | {"dimensions": dict(found.dimensions or ())}
                            for found in each.differences
                        ],
                    }
                    for each in tested
                ],
            }
        )
    else:
        _show(tested)
    if any(each.error is not None for each in tested):
        raise click.exceptions.Exit(ExitCode.FAILED)
    if not all(each.passed for each in tested):
        raise click.exceptions.Exit(ExitCode.WORK_LEFT)


def _show(tested: Sequence[Tested]) -> None:
    from aggregator.core.dimensions import shown

    rows = [
        {
            "meter": each.meter,
            "test": each.test,
            **found._asdict(),
            "dimensions": shown(found.dimensions) if found.dimensions else None,
        }
        for each in tested
        for found in each.differences
    ]
    if rows:
        apart = any(row["dimensions"] is not None for row in rows)
        show_rows("differences", COLUMNS_APART if apart else COLUMNS, rows)
    for each in tested:
        if each.error is not None:
            say(f"{each.meter}, {each.test}: {each.error}")
    if not tested:
        say("No test is configured: put some under `tests` of a meter (docs/queries.md).")
        return
    passed = sum(each.passed for each in tested)
    say(f"{counted(passed, 'test')} of {len(tested)} passed.")


def _tested(config: "Config", name: str) -> Iterator[Tested]:
    """Run the tests of one meter, one after the other."""
    from aggregator.errors import SourceError
    from aggregator.trial.query_tests import differences
    from aggregator.wiring.sources import build_source

    meter = config.meters[name]
    if not meter.tests:
        return
    with closing(build_source(config, meter.source, "aggregator test")) as source:
        for each in meter.tests:
            try:
                counters = meter.read == "counters" if meter.read in ("counters", "gauges") else None
                case = _case(each, meter.window, apart=bool(meter.dimensions))
                found = differences(
                    source, meter.query_text, meter.window, case, meter.dimensions, counters=counters
                )
            except SourceError as error:
                yield Tested(name, each.name, error=str(error))
            else:
                yield Tested(name, each.name, found)


def _case(test: "QueryTest", window: "dt.timedelta", *, apart: bool) -> "Case":
    from aggregator.core.dimensions import of_mapping
    from aggregator.core.model import ZERO, Span
    from aggregator.trial.query_tests import Case, around

    usage: dict[Place, Decimal] = {}
    for each in test.usage:
        place = (
            each.customer,
            each.window,
            None if apart and not each.dimensions else of_mapping(each.dimensions),
        )
        usage[place] = usage.get(place, ZERO) + each.quantity
    span = Span(test.start, test.end) if test.start and test.end else around(usage, window)
    return Case(test.rows, usage, span)
