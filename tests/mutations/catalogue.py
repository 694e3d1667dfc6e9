"""The mistakes: where each is made, and which tests must notice it.

A mistake is a piece of code that stands once in its file, and what stands there instead. `tests/tidy/test_mutations.py`
holds the catalogue to the code as it is.
"""

from typing import NamedTuple


class Mistake(NamedTuple):
    """One mistake, made by replacing `right` by `wrong` in a file."""

    name: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]

    def made_in(self, text: str) -> str:
        """Return the file's text with the mistake in it."""
        assert text.count(self.right) == 1, (
            f"{self.name}: {self.right!r} stands {text.count(self.right)} times"
        )
        return text.replace(self.right, self.wrong)


MISTAKES: tuple[Mistake, ...] = (
    Mistake(
        "a pass commits under an epoch that is over",
        "aggregator/ledger/passes.py",
        " where id = %(meter_id)s and epoch = %(epoch)s and lease_owner = %(owner)s\n   for update",
        " where id = %(meter_id)s and lease_owner = %(owner)s\n   for update",
        ("tests/postgres/test_leases.py",),
    ),
    Mistake(
        "a pass is committed into a stopped ledger",
        "aggregator/ledger/passes.py",
        "        if stopped is not None:\n            raise LedgerStopped(stopped)\n",
        "",
        ("tests/postgres/test_pin.py::test_a_pass_into_a_stopped_ledger_writes_nothing",),
    ),
    Mistake(
        "delivery goes on although a settlement lost rows",
        "aggregator/delivery.py",
        "in_time = began < hold.until and settled == len(outcomes)",
        "in_time = began < hold.until",
        (
            "tests/postgres/test_delivery.py::test_a_claim_that_lost_rows_to_another_process_sends_nothing_more",
        ),
    ),
    Mistake(
        "a stretch counts as heard although stopping cut it short",
        "aggregator/intake.py",
        "            if self._stopping.is_set():\n                break  # it may not have been taken whole\n",
        "",
        ("tests/postgres/test_intake.py::test_a_stretch_that_stopping_cut_short_is_not_noted_as_heard",),
    ),
    Mistake(
        "a figure of zero proves a cancellation at once",
        "aggregator/cancelling.py",
        "wanted.seen_at is not None and had_time and figure == ZERO",
        "wanted.seen_at is not None and figure == ZERO",
        ("tests/postgres/test_cancelling.py::test_a_figure_of_zero_proves_nothing_right_after_the_try",),
    ),
    Mistake(
        "a host's clock may be an hour off",
        "aggregator/ledger/clock.py",
        "abs(ahead) <= self._skew",
        "abs(ahead) <= self._skew + dt.timedelta(hours=1)",
        ("tests/postgres/test_clocks.py::test_a_host_whose_clock_is_wrong_reads_nothing",),
    ),
    Mistake(
        "the daemon lets a host's clock be an hour off",
        "aggregator/wiring/__init__.py",
        "CLOCK_SKEW = timedelta(seconds=60)",
        "CLOCK_SKEW = timedelta(seconds=3600)",
        ("tests/postgres/test_clocks.py::test_every_part_that_is_put_together_asks_the_same_clock",),
    ),
    Mistake(
        "a commit does not wait for the disk",
        "aggregator/ledger/database.py",
        "       set_config('synchronous_commit', 'on', true),\n",
        "",
        (
            "tests/postgres/test_session_settings.py::test_what_we_rely_on_is_set_with_every_transaction[database]",
        ),
    ),
    Mistake(
        "settling a part of a claim does not renew the rest",
        "aggregator/ledger/outbox.py",
        '            connection.execute(RENEW_CLAIM, {"claim": claim, "until": at + self._hold})\n',
        "",
        ("tests/postgres/test_delivery.py::test_settling_a_part_of_a_claim_renews_the_rest",),
    ),
    Mistake(
        "a process forgets the count that it has seen itself",
        "aggregator/heartbeat.py",
        "and seen.order > written.order",
        "and seen.order < written.order",
        ("tests/core/test_heartbeat.py::test_a_file_that_was_put_back_does_not_lower_the_count",),
    ),
    Mistake(
        "the file beside the ledger is not on disk",
        "aggregator/heartbeat.py",
        "        file.flush()\n        os.fsync(file.fileno())\n",
        "        file.flush()\n",
        ("tests/core/test_heartbeat.py::test_the_count_is_on_disk_before_anybody_goes_on",),
    ),
    Mistake(
        "the name of the file beside the ledger is not on disk",
        "aggregator/heartbeat.py",
        "    _sync(path.parent)\n",
        "",
        ("tests/core/test_heartbeat.py::test_the_count_is_on_disk_before_anybody_goes_on",),
    ),
    Mistake(
        "a claim is not counted beside the ledger before it is sent",
        "aggregator/ledger/outbox.py",
        "            self._pin.noted(beat)\n",
        "            pass\n",
        ("tests/postgres/test_pin.py::test_a_claim_counts_before_anything_leaves",),
    ),
)
