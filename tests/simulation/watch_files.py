"""What must be true of files: each event in one of them at most, with one content, and no file ever rewritten."""

import json
from collections.abc import Callable
from hashlib import sha256

from aggregator.model import Event
from tests.simulation.memory import Tables
from tests.simulation.names import outward
from tests.simulation.place import Place

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

    def written(self, event: Event) -> None:
        """Look at an event that is about to be written down."""
        self._leaving(event)
        self.place.told.setdefault(event.identifier, outward(event))

    def published(self, name: str, content: bytes) -> None:
        """Look at a file that has just been given its name, or was to be."""
        before = self._content.setdefault(name, content)
        self._require(before == content, "a file is never rewritten", name)
        self._require(
            self.place.files[name] == before, "a file is never rewritten", name, "is something else"
        )
        for line in content.decode().splitlines():
            identifier = json.loads(line)["identifier"]
            lies = self.file_of.setdefault(identifier, name)
            self._require(lies == name, "an event is in one file", identifier, "is in", lies, "and", name)

    def at_the_end(self, tables: Tables) -> None:
        """When all is quiet every file that was begun is written, and what lies there is what the ledger says."""
        left = [claim for claim, row in tables.files.items() if row.written_at is None]
        self._require(not left, "it comes to rest", "files that were begun and left:", left)
        names = {row.name: row.sha256 for row in tables.files.values()}
        there = {name: sha256(content).hexdigest() for name, content in self.place.files.items()}
        self._require(names == there, "the files are those that the ledger has", names, "and", there)
        self._require(self.place.imported == self.place.files, "every file is imported once, as it is")
