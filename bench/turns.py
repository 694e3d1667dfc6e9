"""Processes that measure one checkout each, asked in turns: a line to it, a line from it."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.checkouts import Checkout, python_of

Ask = Callable[[str], str]


@contextmanager
def asked_by_lines(side: Checkout, module: str, *arguments: str) -> Iterator[Ask]:
    """Run a module of `bench/` over a checkout until the end of the block; what is given sends a line for an answer."""
    call = [str(python_of(side.root)), "-m", module, *arguments]
    with subprocess.Popen(
        call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=side.place, env=side.environment
    ) as process:
        given, said = process.stdin, process.stdout
        assert given is not None
        assert said is not None

        def ask(line: str) -> str:
            print(line, file=given, flush=True)
            answer = said.readline()
            assert answer, "the measuring process ended; it says why above"
            return answer

        yield ask
        given.close()
