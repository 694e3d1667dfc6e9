"""What meters whose sources are asked which windows were touched have to say of that."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from aggregator.core.shown import counted, shown

if TYPE_CHECKING:
    from aggregator.config import Meter
    from aggregator.ledger.figures import TouchedFigures


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
