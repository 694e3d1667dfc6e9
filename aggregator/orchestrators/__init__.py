"""Passes that an orchestrator starts: Airflow, Dagster or Prefect, a module each, and what they share in `process`.

Rules
- The command runs as a process. An orchestrator takes a `sys.exit` within its own for a crash, with code 0 too.
- Nothing of aggregator is imported but this package, which needs nothing but Python: the command may be installed in an
  environment of its own, beside an orchestrator whose dependencies do not fit ours.
- A module needs the extra of its name, and says so where that is missing.

It stands on nothing, and nothing imports it. Begin with `process`, `Command.run`: how a command ended, and what to do next.
"""
