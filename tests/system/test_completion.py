"""What shells complete, in the shells themselves: each reads the script that the page tells to load, and is asked by TAB."""

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from aggregator.ledger.customer_names import of_new_windows
from aggregator.runtime.clock import monotonic
from tests.system.harness import METER, PATIENCE_SECONDS, World
from tests.system.test_help import completed

SHELLS = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        'eval "$(_AGGREGATOR_COMPLETE=bash_source aggregator)"',
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        'autoload -Uz compinit; compinit -D -u; eval "$(_AGGREGATOR_COMPLETE=zsh_source aggregator)"',
    ),
    "fish": (["fish", "--no-config", "-i"], "_AGGREGATOR_COMPLETE=fish_source aggregator | source"),
}
"""How each is started without anybody's own files, and the line that the page has for it."""

ROOT = Path(__file__).parents[2]


class Terminal:
    """A shell in a terminal of its own: typed to, and read until it shows something."""

    def __init__(self, shell: list[str], directory: Path) -> None:
        self.shown = ""
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            os.chdir(directory)
            kept = {"PATH": path, "HOME": str(directory), "TERM": "dumb", "PS1": "$ ", "LANG": "C.UTF-8"}
            os.execvpe(shell[0], shell, kept)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._terminal, text.encode())

    def until(self, text: str) -> None:
        """Read until the shell shows a text that was not there before; fail with what it did show."""
        seen, end = len(self.shown), monotonic() + PATIENCE_SECONDS
        while text not in self.shown[seen:]:
            assert monotonic() < end, f"{text!r} was not shown: {self.shown!r}"
            if select.select([self._terminal], [], [], 1)[0]:
                self.shown += os.read(self._terminal, 65_536).decode(errors="replace")

    def end(self) -> None:
        """End the shell, whatever it is doing."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._terminal)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_meter_is_completed_by_tab(shell: str, tmp_path: Path) -> None:
    """The beginning of its name is typed, and the shell writes the rest."""
    command, load = SHELLS[shell]
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed; `make tools` does it")
    (tmp_path / "aggregator.yaml").write_text("meters: {requests: {}, storage_gigabytes: {}}\n")
    if (
        shell == "fish"
    ):  # it asks a terminal what it can do before it shows anything: so its own word for TAB is used
        said = subprocess.run(
            [*command[:-1], "-c", f"{load}; complete -C 'aggregator preview stor'"],
            cwd=tmp_path,
            env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE_SECONDS,
        )
        assert said.stdout.split() == ["storage_gigabytes"]
        return
    terminal = Terminal(command, tmp_path)
    try:
        terminal.type(f"{load}; echo lo''aded\n")
        terminal.until("loaded")
        terminal.type("aggregator preview stor\t")
        terminal.until("age_gigabytes")
    finally:
        terminal.end()


def test_the_page_has_the_lines_that_are_tried() -> None:
    """What is loaded here is what docs/operations.md tells people to write; zsh's own begin is usual in its files."""
    page = (ROOT / "docs" / "operations.md").read_text().replace("\\|", "|")
    for shell, (_, load) in SHELLS.items():
        assert f"`{load.rpartition('; ')[2]}`" in page, shell


def test_customers_are_completed_from_the_ledger(world: World) -> None:
    """Those that begin so and had usage lately; none that a shell would have to quote."""
    for customer in ("cus_ada", "cus_bob", "cus b; rm", "other"):
        world.use(customer, 1, 1)
    world.once()
    directory = world.directory
    assert completed("aggregator statement cus_", directory) == ["cus_ada", "cus_bob"]
    assert completed("aggregator statement cus", directory) == ["cus_ada", "cus_bob"]
    assert completed(f"aggregator usage {METER} --customer o", directory) == ["other"]
    assert completed("aggregator events list --customer cus_b", directory) == ["cus_bob"]
    assert world.ledger_url is not None
    assert of_new_windows(world.ledger_url, "", 2) == ["cus b; rm", "cus_ada"]


def test_whatever_is_wrong_nothing_is_completed_and_nothing_said(world: World) -> None:
    """No configuration, a wrong one, a ledger that is not there or has no tables: a key press is no place for an error."""
    line, directory = "aggregator statement cus_", world.directory
    path = directory / "aggregator.yaml"
    with suppress(FileNotFoundError):
        path.unlink()
    assert completed(line, directory) == []
    path.write_text("meters: [")
    assert completed(line, directory) == []
    for url in ("postgresql://nobody@127.0.0.1:1/nowhere", world.source_url, "mysql://x/y"):
        world.config["ledger"]["url"] = url
        world.write()
        assert completed(line, directory) == []
    del world.config["ledger"]["url"]
    world.config["state_dir"] = str(directory / "state")
    world.write()
    assert completed(line, directory) == []
    assert not (directory / "state").exists()
