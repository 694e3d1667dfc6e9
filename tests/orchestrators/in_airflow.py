"""The operator, run by the real Airflow with a database of its own."""

import datetime as dt
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import airflow
from airflow.sdk import DAG

from aggregator.orchestrators.airflow import AggregatorOperator
from tests.orchestrators.cases import CASES, RETRIES, example, report, stand_in, tell
from tests.orchestrators.real import billed, real

NAME, TASK, OPERATOR = "bill_usage", "pass", "OPERATOR"
DAG_FILE = "from tests.orchestrators.in_airflow import made\n\ndag = made()  # a DAG\n"
"""Airflow wants to read a DAG from its folder itself, also to run it by hand."""


def made() -> DAG:
    """Return a DAG of one task, with what a variable holds for its operator."""
    words = json.loads(os.environ.get(OPERATOR, '{"config": "aggregator.yaml"}'))
    with DAG(NAME, schedule=None, start_date=dt.datetime(2026, 11, 1, tzinfo=dt.UTC)) as dag:
        AggregatorOperator(task_id=TASK, retry_delay=dt.timedelta(0), **words)
    return dag


def one_run(**operator: Any) -> tuple[bool, Any]:
    """Run the DAG by hand until it has ended; return whether it ended well, and the task's XCom."""
    os.environ[OPERATOR] = json.dumps(operator)
    run = made().test()
    [task] = run.get_task_instances()
    return run.state == "success", task.xcom_pull(task_ids=TASK)


def main() -> None:
    """Go through every case, and once through the real command."""
    os.dup2(2, 1)  # where Airflow has its log
    programs, home = Path(sys.executable).parent, Path(os.environ["AIRFLOW_HOME"])
    subprocess.run([programs / "airflow", "db", "migrate"], check=True, stdout=sys.stderr, timeout=300)
    (home / "dags").mkdir()
    (home / "dags" / "bill_usage.py").write_text(DAG_FILE)
    tell(f"Airflow {airflow.__version__}")
    for case in CASES:
        with stand_in(case.codes) as program:
            well, answer = one_run(config="aggregator.yaml", command=program.command, retries=RETRIES)
            report(case, program, ended_well=well)
            assert (answer is None) != well
            assert program.calls()[0] == ["run", "--once", "--json", "--config", "aggregator.yaml"]
            if well:
                assert answer["meters"]["api_requests"]["planned"] == 18, json.dumps(answer)
    assert isinstance(example("airflow")["dag"], DAG)
    with real() as (config, command):
        well, answer = one_run(config=str(config), command=command)
        assert well
        billed(answer)


if __name__ == "__main__":
    main()
