"""How much memory a benchmark took."""

import resource
from pathlib import Path


def peak_megabytes_of(process: int | str) -> float:
    """Return a process's peak, without what it was before `exec`: Linux alone. 0 if it has just ended."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    peak = next((line for line in lines if line.startswith("VmHWM:")), "VmHWM: 0")
    return int(peak.split()[1]) / 1024


def peak_megabytes() -> float:
    """Return this process's own peak. Where the kernel tells, what it was before `exec` does not count."""
    if Path("/proc/self/status").exists():
        return peak_megabytes_of("self")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
