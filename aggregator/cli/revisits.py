"""What meters whose sources are asked which windows were touched have to say of that."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from aggregator.core.shown import counted, shown

if TYPE_CHECKING:
    from aggregator.config import Meter
    from aggregator.ledger.figures import RevisitCost, TouchedFigures


def report(touched: "Iterable[TouchedFigures]", meters: "Mapping[str, Meter]") -> Iterator[str]:
    """Say up to when what was touched has been read again, and what full readings found beyond, of meters that ask."""
    asking = {each.name for each in meters.values() if each.changed is not None}
    for each in (each for each in touched if each.meter in asking):
        missed = "full readings found nothing beyond that"
        if each.missed_at is not None:
            missed = (
                f"full readings found {counted(each.missed, 'window')} missed by `changed`, the last time at "
                f"{shown(each.missed_at)}"
            )
        yield f"{each.meter} reads again what its source names as touched, up to {shown(each.since)}; {missed}."


HEAVY_SECONDS = 60.0
"""From how much of the source's time a day on it is said that there is another way."""


def costs(found: "Iterable[RevisitCost]", meters: "Mapping[str, Meter]") -> Iterator[tuple[str, str]]:
    """Say by meter what revisits of old windows cost per day, by the days on which there were any."""
    for meter, days, readings, rows, seconds in found:
        if meter not in meters:
            continue
        text = (
            f"revisits of old windows cost its source {seconds / days:.1f} s a day, for {rows / days:,.0f} rows in "
            f"{readings / days:.1f} readings"
        )
        if (
            meters[meter].changed is None
            and meters[meter].read == "windows"
            and seconds / days > HEAVY_SECONDS
        ):
            text += ": with `changed`, it says itself which were touched; see docs/revisits.md"
        yield meter, text
