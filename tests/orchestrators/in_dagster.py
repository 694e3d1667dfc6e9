"""The assets, materialized by the real Dagster."""

import dagster

from aggregator.orchestrators.dagster import meter_assets
from tests.orchestrators.cases import CASES, METERS, RETRIES, example, report, stand_in, tell
from tests.orchestrators.real import METER, billed, real

AT_ONCE = dagster.RetryPolicy(max_retries=RETRIES)


def materialized(result: dagster.ExecuteInProcessResult) -> set[str]:
    """Return the meters whose assets a run has materialized."""
    return {
        event.asset_key.path[-1] for event in result.get_asset_materialization_events() if event.asset_key
    }


def main() -> None:
    """Go through every case, through partitions, and once through the real command."""
    tell(f"Dagster {dagster.__version__}")
    for case in CASES:
        with stand_in(case.codes) as program:
            assets = meter_assets(
                METERS, config="aggregator.yaml", command=program.command, retry_policy=AT_ONCE
            )
            result = dagster.materialize([assets], raise_on_error=False)
            report(case, program, ended_well=result.success)
            told = {1: {"api_requests"}, 2: set()}.get(case.codes[-1] or 0, set(METERS))
            told = set() if case.codes[0] == 2 else told
            assert materialized(result) == told, (case, materialized(result))
    partitioned()
    with stand_in((0,)) as program:
        assets = meter_assets(
            [*METERS, "misspelt"], config="a.yaml", command=program.command, retry_policy=AT_ONCE
        )
        result = dagster.materialize([assets], raise_on_error=False)
        assert (result.success, materialized(result)) == (False, set(METERS))
        tell("  an asset without a meter: failed, and the others are materialized")
    defs = example("dagster")["defs"]
    assert isinstance(defs, dagster.Definitions)
    dagster.Definitions.validate_loadable(defs)
    with real() as (config, command):
        assets = meter_assets([METER], config=config, command=command)
        result = dagster.materialize([assets])
        [event] = result.get_asset_materialization_events()
        figures = {key: value.value for key, value in event.materialization.metadata.items()}
        billed({"outcome": "done", "meters": {METER: figures}})


def partitioned() -> None:
    """A partition's key is local time, and what is asked for is its time window in UTC."""
    hours = dagster.HourlyPartitionsDefinition(start_date="2026-11-01-00:00", timezone="Europe/Paris")
    for chosen in (METERS, METERS[1:]):
        with stand_in((0,)) as program:
            assets = meter_assets(METERS, config="aggregator.yaml", command=program.command, partitions=hours)
            keys = [dagster.AssetKey(["aggregator", name]) for name in chosen]
            result = dagster.materialize([assets], partition_key="2026-11-20-10:00", selection=keys)
            assert result.success
            assert materialized(result) == set(chosen)
            [call] = program.calls()
            assert call[:-3] == [
                "backfill",
                *chosen,
                "--from",
                "2026-11-20T09:00:00Z",
                "--to",
                "2026-11-20T10:00:00Z",
            ]
            tell(f"  partition 2026-11-20-10:00 in Paris: {' '.join(call[:-3])}")
    with stand_in((0,)) as program:
        assets = meter_assets(METERS, config="aggregator.yaml", command=program.command, partitions=hours)
        assert not dagster.materialize(
            [assets], partition_key="2026-11-20-10:30", raise_on_error=False
        ).success
        assert program.calls() == []
        tell("  partition 2026-11-20-10:30, which does not exist: failed, and nothing was asked for")


if __name__ == "__main__":
    main()
