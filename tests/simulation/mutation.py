"""How a bug is made on purpose: a small patch of the real core or shells, or of the ledger in memory, and its name."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from types import FunctionType
from typing import Any

Patch = Callable[[], AbstractContextManager[None]]
Places = Sequence[tuple[object, str]]
Made = Sequence[tuple[object, str, Any]]
"""A bug: owner, name and what takes its place there."""


@dataclass(frozen=True)
class Mutant:
    """One bug."""

    name: str
    says: str
    patch: Patch
    places: Callable[[], Places]
    """What the patch replaces: owner and name."""


MUTANTS: list[Mutant] = []


@contextmanager
def made(patches: Made) -> Iterator[None]:
    """Make a bug for a while."""
    with ExitStack() as stack:
        for owner, name, new in patches:
            stack.callback(setattr, owner, name, vars(owner)[name])
            setattr(owner, name, new)
        yield


def mutant(says: str) -> Callable[[Callable[[], Sequence[tuple[object, str, object]]]], None]:
    """Register a bug by what it does: a list of (owner, name, replacement)."""

    def register(make: Callable[[], Sequence[tuple[object, str, object]]]) -> None:
        MUTANTS.append(
            Mutant(
                make.__name__,
                says,
                lambda: made(make()),
                lambda: [(owner, name) for owner, name, _ in make()],
            )
        )

    return register


@contextmanager
def watching() -> Iterator[Callable[[], set[str]]]:
    """Watch the code as it is; what is yielded returns the mutants of which something was called meanwhile.

    What is not a plain function (a constant, a property) cannot be watched, and counts as called.
    """
    called, unseen = set[tuple[int, str]](), set[str]()
    places: dict[str, list[tuple[int, str]]] = {}
    with ExitStack() as stack:
        for each in MUTANTS:
            keys = [(id(owner), name) for owner, name in each.places()]
            for (owner, name), key in zip(each.places(), keys, strict=True):
                before = vars(owner)[name]
                if hasattr(before, "__wrapped_to_watch__"):
                    continue
                if not isinstance(before, FunctionType):
                    unseen.add(each.name)
                    continue
                setattr(owner, name, _telling(before, key, called))
                stack.callback(setattr, owner, name, before)
            places[each.name] = keys
        yield lambda: unseen | {name for name, keys in places.items() if called.intersection(keys)}


def _telling(real: FunctionType, key: tuple[int, str], called: set[tuple[int, str]]) -> Callable[..., Any]:
    @wraps(real)
    def call(*args: Any, **named: Any) -> Any:
        called.add(key)
        return real(*args, **named)

    call.__dict__["__wrapped_to_watch__"] = True
    return call
