"""What must be true of files: each event in one of them at most, with one content, and no file ever rewritten."""

from collections.abc import Callable, Iterable
from hashlib import sha256

from aggregator.core.model import Event
from tests.simulation.memory import Tables
from tests.simulation.place import Place, identifiers_in

Require = Callable[..., None]


class Filed:
    """Looks at what is written, and at what lies in the place."""

    place: Place

    def __init__(self, leaving: Callable[[Event], None], require: Require) -> None:
        self._leaving = leaving
        self._require = require
        self._content: dict[str, bytes] = {}
        self.file_of: dict[str, str] = {}
        """In which file each identifier lies."""

    def leaves(self, path: str, events: Iterable[Event]) -> None:
        """Look at a file that is about to get its name: until then nothing of it has left."""
        if path not in self.place.files:
            for event in events:
                self._leaving(event)

    def published(self, name: str, content: bytes) -> None:
        """Look at a file that has just been given its name, or was to be."""
        before = self._content.setdefault(name, content)
        self._require(before == content, "a file is never rewritten", name)
        self._require(
            self.place.files[name] == before, "a file is never rewritten", name, "is something else"
        )
        for identifier in identifiers_in(content):
            lies = self.file_of.setdefault(identifier, name)
            self._require(lies == name, "an event is in one file", identifier, "is in", lies, "and", name)

    def put_away(self, path: str, identifiers: Iterable[str]) -> None:
        """Forget a file that a person has taken away."""
        self._content.pop(path, None)
        for each in identifiers:
            del self.file_of[each]

    def adopted(self, tables: Tables) -> None:
        """Right after an adoption, what lies there is known: as written, or as begun."""
        known = {path_of(row.place, row.name) for row in tables.files.values() if row.name is not None}
        for path in self.place.files.keys() - known:
            begun = is_begun(tables, path, self.place.files[path])
            self._require(begun, "the files are those that the ledger has", path, "is not known")

    def at_the_end(self, tables: Tables) -> None:
        """When all is quiet every file that was begun is written, and what lies there is what the ledger says."""
        left = [claim for claim, row in tables.files.items() if row.written_at is None]
        self._require(not left, "it comes to rest", "files that were begun and left:", left)
        names = {path_of(row.place, row.name): row.sha256 for row in tables.files.values()}
        there = {name: sha256(content).hexdigest() for name, content in self.place.files.items()}
        self._require(names == there, "the files are those that the ledger has", names, "and", there)
        self._require(self.place.imported == self.place.files, "every file is imported once, as it is")


def path_of(place: str, name: str | None) -> str:
    """Return where a file lies."""
    return f"{place}/{name}"


def is_begun(tables: Tables, path: str, content: bytes) -> bool:
    """Tell whether the ledger has a file open in that place, of those very events."""
    identifiers = set(identifiers_in(content))
    return any(
        {tables.events[event].identifier for event in tables.claims[claim].events} >= identifiers
        for claim, row in tables.files.items()
        if row.written_at is None and path.startswith(f"{row.place}/")
    )
