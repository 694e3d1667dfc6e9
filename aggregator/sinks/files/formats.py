"""What a record of a file looks like. Pure: an event and its meter's settings in, bytes out.

Rules
- The bytes are a function of the event and of its meter's settings: above all no clock goes in.
- Numbers are plain digits: no exponent. A timestamp is whole seconds since 1970.
- A record of a meter is never longer than `around` says, plus its customer as JSON text, its quantity, and its identifier.

The columns and fields are Stripe's: docs.stripe.com/billing/subscriptions/usage-based/recording-usage-csv for the Dashboard,
which knows no identifier, and docs.stripe.com/billing/subscriptions/usage-based/recording-usage-s3 for the import.
"""

import json
import re
from collections.abc import Mapping

from aggregator.core.model import EPOCH, Encoding, Event
from aggregator.core.planner import IDENTIFIER_LENGTH, plain
from aggregator.sinks.stripe_meter import StripeMeter

LONGEST_CUSTOMER = 500
"""Characters. Stripe's ids have 18; what is longer than this is no id, and would make the size of a file a guess."""

LONGEST_DIMENSION = 100 * 4 + 8
"""Bytes of a value with what stands around it: it has 100 characters at most."""

TIMESTAMP_DIGITS = 12
SIGNS = 8
"""Quotes, commas and line ends that a record may have besides what is counted by name."""


class Format:
    """How the events of these meters are written down one after the other."""

    extension: str
    between: bytes
    end: bytes

    def __init__(self, meters: Mapping[str, StripeMeter]) -> None:
        self.meters = meters

    def bundles(self) -> list[dict[str, int]]:
        """Return which meters may share a file, each with the bytes of a record besides what differs."""
        raise NotImplementedError

    def called(self, meter: str) -> str:
        """Return the meter's event name, as it may stand in the name of a file anywhere."""
        return re.sub(r"[^A-Za-z0-9_]+", "_", self.meters[meter].event_name)

    def begin(self, meter: str) -> bytes:
        """Return what stands before the first record, which is one of this meter."""
        raise NotImplementedError

    def record(self, event: Event) -> bytes:
        """Return one record, without its end."""
        raise NotImplementedError

    def misfit(self, event: Event) -> str | None:
        """Say why an event cannot be written; None if it can: what is no customer's id cannot."""
        meter = self.meters[event.meter]
        if meter.name_of(event) is None:
            return meter.unmapped(event)
        if len(event.customer) > LONGEST_CUSTOMER:
            return f"the customer has more than {LONGEST_CUSTOMER} characters, so it is no id of Stripe's"
        return None

    def _named(self, event: Event) -> str:
        name = self.meters[event.meter].name_of(event)
        assert name is not None, "what is not mapped is a misfit"
        return name

    def _quantity(self, event: Event) -> str:
        return plain(self.meters[event.meter].quantity(event))


class JsonFormat(Format):
    """JSON Lines, or with `lines=False` one JSON array with a record per line."""

    def __init__(
        self, meters: Mapping[str, StripeMeter], *, lines: bool, encoding: Encoding = Encoding.NUMBER
    ) -> None:
        super().__init__(meters)
        self.extension = "jsonl" if lines else "json"
        self.between = b"\n" if lines else b",\n"
        self.end = b"\n" if lines else b"\n]\n"
        self._begin = b"" if lines else b"[\n"
        quote = '"' if encoding is Encoding.TEXT else ""
        self._quote = quote
        self._around = {
            (name, event_name): (
                f',"event_name":{_text(event_name)},"payload":{{{_text(meter.customer_key)}:',
                f",{_text(meter.value_key)}:{quote}",
            )
            for name, meter in meters.items()
            for event_name in meter.names
        }

    def bundles(self) -> list[dict[str, int]]:
        """Return all meters together: each record names the keys of its own."""
        fixed = len('{"identifier":"","timestamp":"}}') + TIMESTAMP_DIGITS + SIGNS
        sizes: dict[str, int] = {}
        for (name, _), parts in self._around.items():
            size = fixed + sum(len(part.encode()) for part in parts) + _room(self.meters[name])
            sizes[name] = max(size, sizes.get(name, 0))
        return [sizes] if sizes else []

    def begin(self, meter: str) -> bytes:  # noqa: ARG002 - every record names its own keys
        """Return how the file begins."""
        return self._begin

    def record(self, event: Event) -> bytes:
        """Return one record, as one line."""
        before, middle = self._around[event.meter, self._named(event)]
        keys = self.meters[event.meter].dimensions
        apart = "".join(f",{_text(keys.get(name, name))}:{_text(value)}" for name, value in event.dimensions)
        return (
            f'{{"identifier":{_text(event.identifier)},"timestamp":{_seconds(event)}'
            f"{before}{_text(event.customer)}{middle}{self._quantity(event)}{self._quote}{apart}}}}}"
        ).encode()


class CsvFormat(Format):
    """Rows under a header. With `identified` the identifier comes first; with `alone` a file holds one meter.

    With `guarded`, as for files that people open, no customer is one that a spreadsheet would take for a formula.
    """

    extension = "csv"
    between = b"\n"
    end = b"\n"

    def __init__(
        self, meters: Mapping[str, StripeMeter], *, identified: bool, alone: bool, guarded: bool = False
    ) -> None:
        super().__init__(meters)
        self._customer = unformulated if guarded else str
        self._identified = identified
        self._alone = alone
        self._names = {name: _cell(name) for meter in meters.values() for name in meter.names}

    def bundles(self) -> list[dict[str, int]]:
        """Return meters with the same columns together, or each alone."""
        together: dict[tuple[str, ...], dict[str, int]] = {}
        for name, meter in self.meters.items():
            columns = (*self._payload(name), name if self._alone else "")
            longest = max(len(self._names[each].encode()) for each in meter.names)
            size = longest + TIMESTAMP_DIGITS + SIGNS + _room(meter)
            size -= 0 if self._identified else IDENTIFIER_LENGTH  # it is summed up, and not written
            together.setdefault(columns, {})[name] = size
        return list(together.values())

    def begin(self, meter: str) -> bytes:
        """Return the header."""
        keys = [f"payload_{key}" for key in self._payload(meter)]
        columns = ("timestamp", "event_name", *map(_cell, keys))
        return (",".join(("identifier", *columns) if self._identified else columns) + "\n").encode()

    def record(self, event: Event) -> bytes:
        """Return one row, without its end."""
        customer = _cell(self._customer(event.customer))
        row = f"{_seconds(event)},{self._names[self._named(event)]},{customer},{self._quantity(event)}"
        values = dict(event.dimensions)
        for name in self.meters[event.meter].dimensions:
            row += f",{_cell(self._customer(values[name])) if name in values else ''}"
        return (f"{_cell(event.identifier)},{row}" if self._identified else row).encode()

    def misfit(self, event: Event) -> str | None:
        """Refuse what is no customer's id, and what would not stay on one line."""
        if any(ord(sign) < 32 or ord(sign) == 127 for sign in event.customer):
            return "the customer holds a line break or another control character, which a row of a CSV file cannot"
        lost = {name for name, _ in event.dimensions} - self.meters[event.meter].dimensions.keys()
        if lost:
            return f"it has the dimensions {', '.join(sorted(lost))}, for which the file has no column: put them back"
        return super().misfit(event)

    def _payload(self, meter: str) -> tuple[str, ...]:
        """Return the payload keys of a meter, in the order of their columns."""
        known = self.meters[meter]
        return known.customer_key, known.value_key, *known.dimensions.values()


FORMULA = re.compile("'*[=+\\-@\t\r\uff1d\uff0b\uff0d\uff20]")
"""How a cell begins that spreadsheets compute (owasp.org/www-community/attacks/CSV_Injection), or one that we guarded."""


def unformulated(text: str) -> str:
    """Put an apostrophe before what a spreadsheet would take for a formula: there it is read as text."""
    return f"'{text}" if FORMULA.match(text) else text


def as_given(cell: str) -> str:
    """Return what `unformulated` made a cell of."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def _room(meter: StripeMeter) -> int:
    """Return the bytes that the dimensions of a record may take, at most."""
    return sum(len(key.encode()) + LONGEST_DIMENSION for key in meter.dimensions.values())


def _seconds(event: Event) -> int:
    return int((event.at - EPOCH).total_seconds())


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _cell(value: str) -> str:
    """Quote what would otherwise be read as something else (RFC 4180)."""
    plainly = value == value.strip() and not any(sign in value for sign in ',"\r\n')
    return value if plainly and value else '"' + value.replace('"', '""') + '"'
