"""Sinks, and what else reaches a service, made for one test and closed at its end."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, TypeVar


class Closes(Protocol):
    """What is to be closed."""

    def close(self) -> None:
        """Give back what it holds."""
        ...


T = TypeVar("T", bound=Closes)


@contextmanager
def making(kind: Callable[..., T], **usual: Any) -> Iterator[Callable[..., T]]:
    """Lend what makes one at an address as `usual`, but for what is said then; close all of them at the end."""
    with ExitStack() as made:

        def make(url: str, **said: Any) -> T:
            one = kind(**{"api_base": url, **usual, **said})
            made.callback(one.close)
            return one

        yield make
