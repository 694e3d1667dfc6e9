"""Processor time by process, as the kernel tells it (man7.org/linux/man-pages/man5/proc_pid_stat.5.html): Linux alone.

What waits costs nothing here, nor does what runs beside it, so that these figures hold on a machine that is busy with other
things. Only the cache and the clock of the processor are shared.
"""

import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PARENT, USER, REAPED_KERNEL = 1, 11, 14
"""Where `stat` has the parent, and the four times: of the process by user and kernel, and the same of ended children."""


def tree_seconds(root: int) -> float:
    """Return what a process and all below it have used, those that have ended and were waited for included."""
    stats = {
        int(path.parent.name): found for path in Path("/proc").glob("[0-9]*/stat") if (found := _stat(path))
    }
    members, grown = {root}, True
    while grown:
        below = {pid for pid, (parent, _) in stats.items() if parent in members} - members
        members |= below
        grown = bool(below)
    return sum(stats[pid][1] for pid in members if pid in stats) / TICKS


def _stat(path: Path) -> tuple[int, int] | None:
    """Return a process's parent and its ticks; None if it is gone."""
    try:
        words = path.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(words[PARENT]), sum(map(int, words[USER : REAPED_KERNEL + 1]))
