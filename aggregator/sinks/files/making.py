"""From events to the bytes of a file and the name it shall have.

Rules
- The name is a function of the events: their lowest id, so that names sort by when they were planned; their first window;
  how many there are; and a hash of their identifiers, so that two files that hold different events never share a name.
- A file that holds one meter says so by what the meter is counted by, which stays. By what it is called here, a file begun
  before a meter got another name would be written once more under the new one, and imported twice.
- Memory holds one chunk, whatever the number of events.
"""

import datetime as dt
from collections.abc import Callable, Iterable
from hashlib import sha256
from itertools import islice
from typing import BinaryIO

from aggregator.core.model import Event, Written
from aggregator.sinks.files.formats import Format

CHUNK = 5_000
"""Records between two looks at whether to go on: a few hundredths of a second."""

DIGITS_OF_ID = 15
HASH_LENGTH = 16
"""64 bits, beside an id and a count that differ anyway."""


def make(
    file: BinaryIO, events: Iterable[Event], form: Format, may_go_on: Callable[[], bool]
) -> Written | None:
    """Write the events to a file from where it stands, and say what it is; None without events, or if it may not go on."""
    content, identifiers = sha256(), sha256()
    meters: set[str] = set()
    first: Event | None = None
    earliest = latest = dt.datetime.max.replace(tzinfo=dt.UTC)
    records = size = 0

    def put(part: bytes) -> int:
        content.update(part)
        file.write(part)
        return len(part)

    left = iter(events)
    while chunk := list(islice(left, CHUNK)):
        if not may_go_on():
            return None
        if first is None:
            first, earliest, latest = chunk[0], chunk[0].window_start, chunk[0].window_start
            size += put(form.begin(first.meter))
        size += put((form.between if records else b"") + form.between.join(map(form.record, chunk)))
        identifiers.update("".join(f"{event.identifier}\n" for event in chunk).encode())
        records += len(chunk)
        meters.update(event.meter for event in chunk)
        earliest = min(earliest, *(event.window_start for event in chunk))
        latest = max(latest, *(event.window_start for event in chunk))
    if first is None or not may_go_on():
        return None
    size += put(form.end)
    named = (
        f"usage-{first.id:0{DIGITS_OF_ID}d}-{earliest:%Y%m%dT%H%M}Z-{records}",
        *(map(form.called, meters) if len(meters) == 1 else ()),
        identifiers.hexdigest()[:HASH_LENGTH],
    )
    name = f"{'-'.join(named)}.{form.extension}"
    return Written(name, tuple(sorted(meters)), earliest, latest, records, size, content.hexdigest())
