"""A flow for Prefect 3: one pass over every meter, whose answer is its result.

Prefect tries a failed task again as often as its `retries` say, if its `retry_condition_fn` agrees
(https://docs.prefect.io/v3/how-to-guides/workflows/retries). Here that is so only for what may pass by itself. What the log
warns of is a warning in the run's log; a state of that kind Prefect does not have.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from aggregator.orchestrators.process import AGGREGATOR, Command, TryAgain, needs_extra

try:
    from prefect import flow, get_run_logger, task
except ImportError as error:
    raise ImportError(needs_extra("prefect")) from error

RETRIES = 3
RETRY_DELAY_SECONDS = 60
"""Long enough for a sink that asked for a pause; the next pass of the schedule would be in time as well."""


def may_pass_by_itself(_task: object, _run: object, state: Any) -> bool:
    """Tell Prefect whether a failed run is worth another try."""
    return isinstance(state.result(raise_on_failure=False), TryAgain)


@task(
    name="aggregator run --once",
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=may_pass_by_itself,
)
def one_pass(
    config: str, command: Sequence[str] = AGGREGATOR, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Make one pass, and return the answer of `run --once --json`. Raises TryAgain, PersonNeeded."""
    return Command("run", "--once", config=config, command=command, env=env).run(get_run_logger().log)


@flow(name="aggregator")
def aggregator_flow(config: str, command: list[str] | None = None) -> dict[str, Any]:
    """Read every meter, send what is due, and return `outcome`, `meters` and `sinks`. Raises TryAgain, PersonNeeded.

    Secrets are none of its parameters, which Prefect shows: they come from the worker's environment, or from files that the
    configuration names. In a flow of your own, `one_pass.with_options(retries=...)` tries more or less often.
    """
    answer: dict[str, Any] = one_pass(config, tuple(command or AGGREGATOR))
    return answer
