"""The recipes for Airflow, Dagster and Prefect, tried with the real ones: `python -m tests.orchestrators`."""
