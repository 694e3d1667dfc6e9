"""Values kept on disk in the order they came: for what is too much for memory, and must not hold a transaction open."""

import pickle
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, Generic, Self, TypeVar

T = TypeVar("T")


class DiskList(Generic[T]):
    """Keeps values on disk in the order they came, to be read any number of times. A context manager."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=1 << 20)  # noqa: SIM115 - closed in __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def keep(self, values: Iterable[T]) -> None:
        """Write all values down."""
        for value in values:
            pickle.dump(value, self._file)

    def all(self) -> Iterator[T]:
        """Yield every value; not two at a time."""
        self._file.seek(0)
        while True:
            try:
                yield pickle.load(self._file)  # noqa: S301 - our own, from a file without a name
            except EOFError:
                return
