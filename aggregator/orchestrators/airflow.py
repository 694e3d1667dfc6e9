"""An operator for Airflow 3: one pass over every meter, whose answer becomes the XCom.

Airflow tries a failed task again as often as its `retries` say, whatever the exit code. So what needs a person is raised as
`AirflowFailException`, which ends the task at once
(https://airflow.apache.org/docs/apache-airflow/stable/core-concepts/tasks.html). What the log warns of is a warning in the
task's log; a state of that kind Airflow does not have.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from aggregator.orchestrators.process import AGGREGATOR, Command, PersonNeeded, TryAgain, needs_extra

try:
    from airflow.sdk import BaseOperator
    from airflow.sdk.exceptions import AirflowException, AirflowFailException
except ImportError as error:
    raise ImportError(needs_extra("airflow")) from error


class AggregatorOperator(BaseOperator):
    """Runs `aggregator run --once`. What is due is worked out from the ledger: it takes no dates, and no templates.

    The XCom is the answer of `run --once --json`: `outcome`, `meters`, `sinks`. Raises AirflowException where another try
    may help (exit codes 1 and 3), and AirflowFailException where only a person can (2 and 4).
    """

    def __init__(
        self,
        *,
        config: str | os.PathLike[str],
        command: Sequence[str] = AGGREGATOR,
        env: Mapping[str, str] | None = None,
        **of_every_task: Any,
    ) -> None:
        """Take the configuration file, the program, variables beside those of the worker, and what every operator takes."""
        super().__init__(**of_every_task)
        self.config, self.command, self.env = os.fspath(config), command, env
        self._running: Command | None = None

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - nothing of a pass depends on it
        """Make the pass, and return its answer."""
        self._running = Command("run", "--once", config=self.config, command=self.command, env=self.env)
        try:
            return self._running.run(self.log.log)
        except PersonNeeded as needed:
            raise AirflowFailException(str(needed)) from needed
        except TryAgain as again:
            raise AirflowException(str(again)) from again

    def on_kill(self) -> None:
        """Have the command hand back what it holds."""
        if self._running is not None:
            self._running.terminate()
