"""What the dimensions of a query come to: how many combinations one window has, and whether any row lacks a value. Pure."""

from collections.abc import Sequence

from aggregator.core import dimensions
from aggregator.core.model import Meter, Reading, Span
from aggregator.core.shown import counted
from aggregator.trial.findings import Finding, Kind, Severity, error, warning

MUCH = 2
"""A window with more than one in so many of the combinations that a meter may have is worth a word: others have more."""


def judged(readings: Sequence[Reading], meter: Meter, window: Span) -> list[Finding]:
    """Judge the combinations of one window of a meter that has dimensions."""
    if not meter.dimensions or not readings:
        return []
    found = {each.dimensions for each in readings if each.dimensions}
    lacking = [each for each in readings if each.dimensions is None]
    said = []
    if lacking:
        reason = next(each.reason for each in lacking if each.reason)
        said.append(
            warning(
                Kind.UNMAPPED,
                f"{counted(len(lacking), 'row')} of {window} have no combination of {_names(meter)} ({reason}), so they are "
                "unmapped and billed to nobody",
            )
        )
    if len(found) > meter.max_combinations:
        said.append(error(Kind.COMBINATIONS, dimensions.too_many(meter.name, found, meter.max_combinations)))
    elif found:
        many = len(found) * MUCH > meter.max_combinations
        text = (
            f"{window} has {counted(len(found), 'combination')} of {_names(meter)}, and each is an event of its own per "
            f"customer; the limit for all is {meter.max_combinations:,} (`max_combinations`)"
        )
        said.append(Finding(Kind.COMBINATIONS, Severity.WARNING if many else Severity.NOTE, text))
    return said


def _names(meter: Meter) -> str:
    return " and ".join(f"`{name}`" for name in meter.dimensions)
