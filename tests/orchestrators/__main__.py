"""Runs each recipe in the real orchestrator, in an environment of its own below `.peers/`.

    python -m tests.orchestrators [airflow] [dagster] [prefect]

The first time takes some minutes, since each installs a hundred packages. It is no part of CI.
"""

import os
import subprocess
import sys
import tempfile
import tomllib

from bench.checkouts import HOME
from bench.peers.environments import environment

ALL = ("airflow", "dagster", "prefect")
SECONDS = 900


def requirements(name: str) -> list[str]:
    """Return what the extra of an orchestrator asks for."""
    extras = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return list(extras[name])


def main() -> None:
    """Run those that were named, or all; exit with 1 if one of them does something else than it must."""
    names = sys.argv[1:] or ALL
    if unknown := set(names) - set(ALL):
        raise SystemExit(f"tests.orchestrators: {', '.join(unknown)}: choose from {', '.join(ALL)}")
    failed = []
    for name in names:
        programs = environment(name, requirements(name))
        with tempfile.TemporaryDirectory() as home, tempfile.TemporaryFile("w+") as log:
            variables = {
                "PYTHONPATH": str(HOME),
                "HOME": home,
                "AIRFLOW_HOME": home,
                "DAGSTER_HOME": home,
                "PREFECT_HOME": home,
                "DO_NOT_TRACK": "1",
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            }
            ran = subprocess.run(
                [programs / "python", "-m", f"tests.orchestrators.in_{name}"],
                cwd=home,
                env=os.environ | variables,
                stderr=log,
                timeout=SECONDS,
                check=False,
            )
            if ran.returncode:
                failed.append(name)
                log.seek(0)
                print(log.read()[-5_000:], file=sys.stderr)
    if failed:
        raise SystemExit(f"tests.orchestrators: {', '.join(failed)} failed")


if __name__ == "__main__":
    main()
