"""Assets for Dagster, one per meter: made by a pass over all of them, or partition by partition by a backfill.

Dagster tries a failed step again as its retry policy says, unless a `Failure` forbids it
(https://docs.dagster.io/guides/build/ops/op-retries). Here that is so for what needs a person. What the log warns of is a
warning in the run's log. Meters of a pass that failed elsewhere are materialized all the same.
"""

import datetime as dt
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aggregator.orchestrators.process import AGGREGATOR, Command, CommandFailed, TryAgain, needs_extra

try:
    import dagster
except ImportError as error:
    raise ImportError(needs_extra("dagster")) from error

RETRY_POLICY = dagster.RetryPolicy(max_retries=3, delay=60)
"""For what may pass by itself."""


def meter_assets(
    meters: Sequence[str],
    *,
    config: str | os.PathLike[str],
    command: Sequence[str] = AGGREGATOR,
    env: Mapping[str, str] | None = None,
    partitions: dagster.TimeWindowPartitionsDefinition | None = None,
    retry_policy: dagster.RetryPolicy = RETRY_POLICY,
) -> dagster.AssetsDefinition:
    """Return an asset `aggregator/METER` for each meter, with figures of its latest pass as metadata.

    Without `partitions` all are made by one `run --once`, which needs no dates; with them each partition by a `backfill` of
    its time window. A meter that is configured and not named here is billed as well by `run --once`, and has no asset.
    """
    names = list(meters)

    @dagster.multi_asset(
        name="aggregator",
        specs=[
            dagster.AssetSpec(
                dagster.AssetKey(["aggregator", name]),
                group_name="aggregator",
                skippable=True,
                kinds={"aggregator"},
            )
            for name in names
        ],
        partitions_def=partitions,
        retry_policy=retry_policy,
        can_subset=partitions is not None,
    )
    def aggregator_meters(context: dagster.AssetExecutionContext) -> Iterator[Any]:
        chosen, words = names, ["run", "--once"]
        if partitions is not None:
            selected = {key.path[-1] for key in context.selected_asset_keys}
            chosen = [name for name in names if name in selected]
            words = ["backfill", *chosen, *_range(context)]
        try:
            answer = Command(*words, config=config, command=command, env=env).run(context.log.log)
        except CommandFailed as failed:
            yield from _materialized(chosen, failed.answer)
            raise dagster.Failure(str(failed), allow_retries=isinstance(failed, TryAgain)) from failed
        yield from _materialized(chosen, answer)
        if unknown := [name for name in chosen if name not in _figures(answer)]:
            raise dagster.Failure(
                f"{', '.join(unknown)}: no such meter in {config}. Correct `meters` of `meter_assets`.",
                allow_retries=False,
            )

    return aggregator_meters


def _range(context: dagster.AssetExecutionContext) -> list[str]:
    """Return the time window of a run's partition as options, in UTC: its key is in the partitions' own zone.

    Dagster takes a key between two partitions for the next one, so it is refused. Raises Failure.
    """
    if context.partition_keys != [context.partition_key]:
        raise dagster.Failure(
            f"There is no partition {context.partition_key}: choose one that Dagster lists.",
            allow_retries=False,
        )
    window = context.partition_time_window
    return ["--from", _instant(window.start), "--to", _instant(window.end)]


def _instant(at: dt.datetime) -> str:
    return at.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")


def _figures(answer: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the figures of each meter by its name, as `run --once` has them; `backfill` has a list."""
    found = answer.get("meters", {})
    return found if isinstance(found, dict) else {each["meter"]: each for each in found}


def _materialized(names: Sequence[str], answer: Mapping[str, Any]) -> Iterator[dagster.MaterializeResult]:
    """Yield what was made of each meter that did not fail."""
    figures_of = _figures(answer)
    for name in names:
        figures = figures_of.get(name, {"error": "not told of"})
        if "error" not in figures:
            yield dagster.MaterializeResult(
                asset_key=dagster.AssetKey(["aggregator", name]),
                metadata={key: value for key, value in figures.items() if value is not None},
            )
