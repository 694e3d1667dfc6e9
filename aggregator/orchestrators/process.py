"""One command of aggregator as a process of its own, and what its end means to whoever retries.

Rules
- What can pass by itself is worth another try (1, 3, or ended by a signal). What a person has to mend is not (2, 4): tried
  again it would end the same way.
- Standard output is the answer, one JSON object. Standard error is the log: each line is passed on with its level, and never
  gets into the answer.
- Whoever is stopped while the command runs stops it too, and waits for it: it hands back what it holds.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import IO, Any, NamedTuple

AGGREGATOR = (sys.executable, "-m", "aggregator")
"""The command, where it is installed beside the orchestrator."""

STOP_SECONDS = 30
"""How long a command that was told to stop may take: it waits up to 20 s for answers that are outstanding."""

WORTH_ANOTHER_TRY = MappingProxyType(
    {
        1: "something failed that may pass by itself",
        3: "events wait for a busy sink",
    }
)

NEEDS_A_PERSON = MappingProxyType(
    {
        2: "the command line or the configuration is wrong: correct it, and try it with `aggregator check`",
        4: "a person is needed: `aggregator status` shows what waits for whom. All else was sent",
    }
)

LEVELS = MappingProxyType({"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50})
"""The names of levels in the log, and their numbers in Python's `logging`."""

Log = Callable[[int, str], None]
"""Takes a line of the log, with its level as Python's `logging` counts."""


class CommandFailed(Exception):
    """A command of aggregator ended with another code than 0."""

    def __init__(self, message: str, code: int, answer: Mapping[str, Any] | None = None) -> None:
        self.code = code
        self.answer = dict(answer or {})
        super().__init__(message)

    def __reduce__(self) -> tuple[type["CommandFailed"], tuple[str, int, dict[str, Any]]]:
        """Come out of a pickle as it went in: orchestrators hand errors from process to process."""
        return type(self), (str(self), self.code, self.answer)


class TryAgain(CommandFailed):
    """It may pass by itself: the same command is worth another try."""


class PersonNeeded(CommandFailed):
    """It does not pass by itself: a person has to do what the message says."""


class Ended(NamedTuple):
    """How a command ended: its exit code, its answer, and the last line it wrote for people, if any."""

    code: int
    answer: dict[str, Any]
    last_words: str


class Command:
    """A command of aggregator that is run once."""

    def __init__(
        self,
        *words: str,
        config: str | os.PathLike[str] | None = None,
        command: Sequence[str] = AGGREGATOR,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Take what follows `aggregator`, the configuration file, the program, and variables that this process lacks."""
        if isinstance(command, str):
            raise TypeError(f"command is a list of words, such as [{command!r}], not a text.")
        chosen = ("--config", os.fspath(config)) if config is not None else ()
        self.words = (*command, *words, "--json", *chosen)
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[str] | None = None

    def run(self, log: Log) -> dict[str, Any]:
        """Run it, pass its log on, and return its answer. Raises TryAgain, PersonNeeded."""
        ended = self._ended(log)
        what = f"`{' '.join(self.words)}` ended with {ended.code}"
        said = f" It said: {ended.last_words}" if ended.last_words else ""
        if ended.code in NEEDS_A_PERSON:
            raise PersonNeeded(f"{what}: {NEEDS_A_PERSON[ended.code]}.{said}", ended.code, ended.answer)
        if ended.code in WORTH_ANOTHER_TRY:
            raise TryAgain(f"{what}: {WORTH_ANOTHER_TRY[ended.code]}.{said}", ended.code, ended.answer)
        if ended.code < 0 or ended.code > 128:
            raise TryAgain(
                f"{what}: a signal ended it. Nothing is lost, and nothing is billed twice.", ended.code
            )
        if ended.code:
            raise PersonNeeded(
                f"{what}, with which aggregator never ends: is it the right program?{said}", ended.code
            )
        if not ended.answer:
            raise PersonNeeded(f"{what} and without an answer: is it the right program?{said}", ended.code)
        return ended.answer

    def terminate(self) -> None:
        """Have it hand back what it holds and end; fit for the handler of a signal, since it waits for nothing."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def _ended(self, log: Log) -> Ended:
        try:
            process = subprocess.Popen(  # noqa: S603 - the words are those of whoever wrote the schedule
                self.words,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise PersonNeeded(
                f"`{self.words[0]}` cannot be started: {error.strerror}. Name the program of aggregator as `command`.",
                127,
            ) from error
        self._process = process
        assert process.stdout is not None
        assert process.stderr is not None
        answers: list[str] = []
        reader = threading.Thread(target=_read, args=(process.stdout, answers), daemon=True)
        reader.start()
        try:
            last_words = _pass_on(process.stderr, log)
            code = process.wait()
        except BaseException:
            _stop(process)
            raise
        finally:
            reader.join()
            process.stdout.close()
            process.stderr.close()
        return Ended(code, _json("".join(answers)) or {}, last_words)


def _stop(process: "subprocess.Popen[str]") -> None:
    """End a process as its own rules have it; kill it if that takes too long."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _read(stream: IO[str], into: list[str]) -> None:
    into.append(stream.read())


def _pass_on(lines: IO[str], log: Log) -> str:
    """Pass on each line of the log with its level; return the last that was said for people, which is no JSON."""
    last_words = ""
    for line in map(str.rstrip, lines):
        if line:
            record = _json(line)
            last_words = line if record is None else last_words
            log(LEVELS.get(str((record or {}).get("level")), LEVELS["info"]), line)
    return last_words


def _json(text: str) -> dict[str, Any] | None:
    """Return the JSON object that a text is; None if it is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def needs_extra(extra: str) -> str:
    """Return what to say where an orchestrator's own package is missing."""
    return f"aggregator.orchestrators.{extra} needs a package that is not installed: pip install 'usage-aggregator[{extra}]'"
