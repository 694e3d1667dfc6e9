"""How a range that is only looked at is shown: what it would come to per sink, and whom it would move most."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from aggregator.cli.printing import show_rows
from aggregator.core.shown import counted, shown

if TYPE_CHECKING:
    from aggregator.core.forecast import Figures, Forecast

COLUMNS = "sink customer ledger> source> difference> events> to_be_sent> held> refused> carried>"


def show_movers(forecast: "Forecast", limit: int | None) -> None:
    """Print the customers whose usage differs most, in the windows in which it does."""
    movers = _movers(forecast, limit)
    if not movers:
        return
    more = f", the {len(movers):,} that differ most of {forecast.customers:,}"
    show_rows(
        f"customers whose usage differs{more if forecast.customers > len(movers) else ''} (windows that differ only)",
        COLUMNS,
        movers,
    )


def report_sinks(meter: str, forecast: "Forecast") -> Iterator[str]:
    """Say in a line per sink what a meter would come to there."""
    for sink, figures in sorted(forecast.sinks.items()):
        other = {
            "held": figures.held,
            "refused": figures.refused,
            "in shadow": figures.shadow,
            "carried": figures.carried,
        }
        parts = [
            f"{counted(figures.events, 'event')} now",
            f"{shown(figures.sent)} units to be sent",
            *(f"{shown(units)} units {what}" for what, units in other.items() if units),
        ]
        if figures.deferred:
            parts.append(
                f"{counted(figures.deferred, 'window waits', 'windows wait')} for an event that is under way"
            )
        yield f"{meter} to {sink}: {', '.join(parts)}."


def forecast_json(forecast: "Forecast", limit: int | None) -> dict[str, object]:
    """Return what it would come to for programs."""
    return {
        "sinks": {sink: _figures(figures) for sink, figures in sorted(forecast.sinks.items())},
        "customers_differ": forecast.customers,
        "customers": _movers(forecast, limit),
    }


def _movers(forecast: "Forecast", limit: int | None) -> list[dict[str, object]]:
    return [
        {"sink": mover.sink, "customer": mover.customer, **_figures(mover.figures)}
        for mover in forecast.movers(limit)
    ]


def _figures(figures: "Figures") -> dict[str, object]:
    return {
        "ledger": figures.old,
        "source": figures.new,
        "difference": figures.new - figures.old,
        "events": figures.events,
        "to_be_sent": figures.sent,
        "held": figures.held,
        "refused": figures.refused,
        "shadow": figures.shadow,
        "carried": figures.carried,
        "deferred_windows": figures.deferred,
    }
