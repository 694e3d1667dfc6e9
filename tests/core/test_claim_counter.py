"""The file beside the ledger: it only counts up, survives what can happen to a file, and says what is wrong with it."""

import datetime as dt
import json
import os
import sys
import threading
from pathlib import Path
from types import FrameType

import pytest

from aggregator.errors import LedgerError
from aggregator.runtime.claim_counter import FILE, HOST, ClaimCount, ClaimCounter

NOON = dt.datetime(2026, 11, 2, 12, tzinfo=dt.UTC)


def count(count: int, generation: int = 0, ledger: str = "ledger-1") -> ClaimCount:
    return ClaimCount(ledger, generation, count, 7_000, NOON)


def test_a_first_start_knows_nothing(tmp_path: Path) -> None:
    """Without a file there is nothing to compare."""
    assert ClaimCounter(tmp_path / "state").known() is None


def test_another_process_reads_what_was_noted(tmp_path: Path) -> None:
    """What one process notes the next one knows, with all that belongs to it."""
    ClaimCounter(tmp_path).note(count(5))
    assert ClaimCounter(tmp_path).known() == count(5)


def test_the_last_claim_is_kept_with_the_count(tmp_path: Path) -> None:
    """By its number, its owner and its instant."""
    noted = count(1)._replace(claim_id=7, owner="a", claimed_at=NOON)
    ClaimCounter(tmp_path).note(noted)
    assert ClaimCounter(tmp_path).known() == noted


def test_a_host_keeps_its_name(tmp_path: Path) -> None:
    """As long as it keeps its state directory; another directory is another host."""
    name = ClaimCounter(tmp_path / "one").host()
    assert name == ClaimCounter(tmp_path / "one").host() is not None
    assert ClaimCounter(tmp_path / "other").host() != name
    (tmp_path / "one" / HOST).write_text("nonsense")
    with pytest.raises(LedgerError, match="damaged"):
        ClaimCounter(tmp_path / "one").host()


def test_a_lower_count_changes_nothing(tmp_path: Path) -> None:
    """Two processes note in any order: the higher count stays."""
    one, other = ClaimCounter(tmp_path), ClaimCounter(tmp_path)
    one.note(count(6))
    other.note(count(5))
    assert ClaimCounter(tmp_path).known() == count(6)


def test_a_higher_generation_stays_whatever_its_count(tmp_path: Path) -> None:
    """After an adoption the count may be lower: a process that has not heard of it does not undo it."""
    old = ClaimCounter(tmp_path)
    old.note(count(100))
    ClaimCounter(tmp_path).replace(count(40, generation=1))
    old.note(count(101))
    assert ClaimCounter(tmp_path).known() == count(40, generation=1)
    assert old.known() == count(40, generation=1)


def test_a_file_that_vanishes_is_written_again(tmp_path: Path) -> None:
    """A process remembers the highest count by itself, and writes it down again with the next one."""
    claim_counter = ClaimCounter(tmp_path)
    claim_counter.note(count(5))
    (tmp_path / FILE).unlink()
    assert claim_counter.known() == count(5)
    claim_counter.note(count(6))
    assert ClaimCounter(tmp_path).known() == count(6)


def test_a_file_that_was_put_back_does_not_lower_the_count(tmp_path: Path) -> None:
    """While a process runs, its own higher count wins over a file of before, and is written down again."""
    claim_counter = ClaimCounter(tmp_path)
    claim_counter.note(count(5))
    before = (tmp_path / FILE).read_bytes()
    claim_counter.note(count(9))
    (tmp_path / FILE).write_bytes(before)
    assert claim_counter.known() == count(9)
    claim_counter.note(count(7))
    assert claim_counter.known() == count(9)
    assert ClaimCounter(tmp_path).known() == count(9)


def test_the_count_is_on_disk_before_anybody_goes_on(tmp_path: Path) -> None:
    """Its content is before it gets its name, and its name before `note` comes back: power may fail at any moment."""
    claim_counter = ClaimCounter(tmp_path)
    claim_counter.note(count(1))
    steps: list[tuple[str, str | None]] = []

    def watch(_: FrameType, event: str, called: object) -> None:
        if event == "c_call" and called in (os.fsync, os.replace):
            beside = tmp_path / "claims.new"
            steps.append((called.__name__, beside.read_text() if beside.exists() else None))

    sys.setprofile(watch)
    try:
        claim_counter.note(count(2))
    finally:
        sys.setprofile(None)
    whole = (tmp_path / FILE).read_text()
    assert steps == [("fsync", whole), ("replace", whole), ("fsync", None)]
    assert json.loads(whole)["claims_made"] == 2


WITHOUT_A_CLAIM = (
    '{"ledger_id": "a", "generation": 0, "claims_made": 5, "cluster": 7, "at": "2026-11-01T00:00+00:00"}'
)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"claims_made": 5}', '{"ledger_id": 1, "generation": "x"}', WITHOUT_A_CLAIM]
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    """What cannot be read is never taken for a first start: the message names the file and what to do."""
    (tmp_path / FILE).write_text(text)
    with pytest.raises(LedgerError, match=r"claims\.json is damaged.*remove the file"):
        ClaimCounter(tmp_path).known()


def test_a_directory_that_cannot_be_written_is_found_at_the_start(tmp_path: Path) -> None:
    """A state directory that cannot exist is named before anything is sent, and refused where it is needed."""
    (tmp_path / "file").write_text("in the way")
    claim_counter = ClaimCounter(tmp_path / "file" / "state")
    assert "cannot be written" in (claim_counter.unusable() or "")
    with pytest.raises(LedgerError, match="nothing is sent"):
        claim_counter.note(count(1))
    assert ClaimCounter(tmp_path / "fine").unusable() is None


def test_the_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    """While many note, whoever reads finds a whole file, and the count never falls."""
    writing = [ClaimCounter(tmp_path) for _ in range(3)]
    writing[0].note(count(1))
    done = threading.Event()
    seen: list[int] = []

    def watch() -> None:
        while not done.is_set():
            seen.append(json.loads((tmp_path / FILE).read_text())["claims_made"])

    def keep_noting(claim_counter: ClaimCounter, first: int) -> None:
        for number in range(first, 150, 3):
            claim_counter.note(count(number))

    watching = threading.Thread(target=watch)
    watching.start()
    threads = [threading.Thread(target=keep_noting, args=(each, at)) for at, each in enumerate(writing, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    watching.join()
    assert seen == sorted(seen)
    assert ClaimCounter(tmp_path).known() == count(149)
