"""`aggregator demo`: the main job, shown on a product that could be yours.

product.py     the application's database
traffic.py     rows that keep arriving in it
processes.py   the demo's directory, and the processes that work in it
live.py        watching the daemon
story.py       how it is told
scenes.py      all of it, in order
aggregator.yaml   the configuration, with places for what differs from run to run

It stands on everything below; the selftest, which has the same kind of processes, and the command import it. Begin with
`scenes`.
"""

from aggregator.demo.processes import DemoFailed
from aggregator.demo.scenes import run_demo

__all__ = ["DemoFailed", "run_demo"]
