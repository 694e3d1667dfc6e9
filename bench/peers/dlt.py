"""dlt (dlthub.com): a pipeline in Python, to a destination that is a function.

It has no destination for Stripe, so the function calls Stripe's own SDK once for each row: what dlt's page on such
destinations is for (dlthub.com/docs/dlt-ecosystem/destinations/destination). One file of rows is one job, and its rows go
one after the other. Its own record of the load lies in its working directory.
"""

from pathlib import Path

from bench.figures import Figure
from bench.peers.environments import environment
from bench.peers.work import EVENT, KEY, QUERY, Work, timed

NAME = "dlt 1.31.0, Stripe's SDK"
REQUIREMENTS = ("dlt==1.31.0", "psycopg2-binary==2.9.13", "stripe==16.1.0")
PIPELINE = Path(__file__).with_name("dlt_pipeline.py")


def measure(on: Work) -> Figure:
    """Send every row once."""
    programs = environment("dlt", REQUIREMENTS)
    call = [str(programs / "python"), "-P", str(PIPELINE), on.source, on.server, KEY, EVENT, QUERY]
    surroundings = {"HOME": str(on.directory), "RUNTIME__DLTHUB_TELEMETRY": "false"}
    return timed(NAME, on, call, surroundings)
