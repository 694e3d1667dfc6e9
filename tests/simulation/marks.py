"""Coverage marks: how often each rare path was really taken. A proof that never met the danger proves nothing."""

from collections import Counter

RARE = (
    "killed",
    "paused",
    "ledger away",
    "commit committed, answer lost",
    "claim committed, answer lost",
    "settle committed, answer lost",
    "query failed",
    "black hole",
    "sink halted",
    "request delivered late",
    "request delivered twice",
    "never left: the claim may have run out",
    "duplicate after a lost answer",
    "in doubt",
    "takeover during a send",
    "stale settle",
    "lease lost at commit",
    "lease lost in a long read",
    "change deferred",
    "parked event replaced",
    "decrease held",
    "released by a person",
    "refused for good",
    "set aside",
    "carried",
    "backfill",
    "late commit found",
    "empty read",
    "shrink guard held",
    "shrink guard confirmed",
    "waiting for the barrier",
    "barrier given up",
    "window set aside",
    "in doubt, proven present",
    "in doubt, proven absent",
    "in doubt, proven unclear",
    "accepted, proven absent",
    "accepted, proven present",
    "rejected before its answer",
    "rejected after its answer",
    "read back without a name",
    "ledger wound back",
    "restored with requests in flight",
    "stopped",
    "adopted",
    "taken over",
    "said again",
    "newer windows to be said again",
    "newer windows to be said again after a release",
    "another of the customer is ahead",
    "a window of nothing said",
    "an older window arrived last",
    "newest window is listed",
)
"""Every mark that a large run must reach."""


class Marks(Counter[str]):
    """Counts of what was met."""

    def saw(self, what: str) -> None:
        """Count one."""
        self[what] += 1
