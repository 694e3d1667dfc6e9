"""The flow, run by the real Prefect with a server of its own."""

import prefect
from prefect import flow
from prefect.testing.utilities import prefect_test_harness

from aggregator.orchestrators.prefect import aggregator_flow, one_pass
from tests.orchestrators.cases import CASES, RETRIES, example, report, stand_in, tell
from tests.orchestrators.real import billed, real


@flow
def at_once(config: str, command: list[str]) -> dict[str, object]:
    """As the flow of the package, without a pause between tries."""
    answer: dict[str, object] = one_pass.with_options(retries=RETRIES, retry_delay_seconds=0)(config, command)
    return answer


def main() -> None:
    """Go through every case, and once through the real command."""
    tell(f"Prefect {prefect.__version__}")
    with prefect_test_harness():
        for case in CASES:
            with stand_in(case.codes) as program:
                state = at_once("aggregator.yaml", program.command, return_state=True)
                report(case, program, ended_well=state.is_completed())
                if case.ends_well:
                    assert state.result()["meters"]["api_requests"]["planned"] == 18
                assert program.calls()[0] == ["run", "--once", "--json", "--config", "aggregator.yaml"]
        assert example("prefect")["aggregator_flow"] is aggregator_flow
        with real() as (config, command):
            billed(aggregator_flow(str(config), command))
        wrong = aggregator_flow("nowhere.yaml", command, return_state=True)
        tell(f"  no such configuration: {wrong.name}, {wrong.result(raise_on_failure=False)}")


if __name__ == "__main__":
    main()
