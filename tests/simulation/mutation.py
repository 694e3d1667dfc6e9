"""How a bug is made on purpose: a small patch of the real core or shells, or of the ledger in memory, and its name."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

Patch = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Mutant:
    """One bug."""

    name: str
    says: str
    patch: Patch


MUTANTS: list[Mutant] = []


def mutant(says: str) -> Callable[[Callable[[], Sequence[tuple[object, str, object]]]], None]:
    """Register a bug by what it does: a list of (owner, name, replacement)."""

    def register(make: Callable[[], Sequence[tuple[object, str, object]]]) -> None:
        @contextmanager
        def patch() -> Iterator[None]:
            with ExitStack() as stack:
                for owner, name, new in make():
                    before = vars(owner)[name]
                    setattr(owner, name, new)
                    stack.callback(setattr, owner, name, before)
                yield

        MUTANTS.append(Mutant(make.__name__, says, patch))

    return register
