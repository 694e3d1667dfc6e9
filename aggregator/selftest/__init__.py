"""`aggregator selftest`: the real daemon is killed again and again, and what is billed is compared with what was used.

schedule.py   where and when each daemon is killed
world.py      one application database, one ledger, one sandbox, and the daemons between them
load.py       usage that is written meanwhile
watch.py      every booked event, held against what the source had said by then
past.py       months that were billed long ago, and are archived meanwhile
killing.py    the kills, and the quiet end
verdict.py    what it came to
report.py     how it is told
proof.py      all of it, in order

It stands on everything below, and runs the daemon as a process. Only the command imports it. Begin with `proof`.
"""

from aggregator.selftest.proof import run_selftest

__all__ = ["run_selftest"]
