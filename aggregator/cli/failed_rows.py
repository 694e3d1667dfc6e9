"""The rows that Stripe did not take, as it gives them back: the records of our file, or of some of it, and what it adds.

A row is known by its identifier; one of a file for the Dashboard, which has none, by its customer and its timestamp.
"""

import csv
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from aggregator.errors import UsageError
from aggregator.ledger.outbox.uploads import Row
from aggregator.sinks.files.formats import as_given


def failed_rows(path: Path, customer_keys: Collection[str]) -> list[Row]:
    """Read a CSV, JSON or JSON Lines file. Raises UsageError for a row that cannot be ours, and for a file without one."""
    try:
        text = path.read_text("utf-8-sig").lstrip()
        rows = [_row(record, number, path, customer_keys) for number, record in enumerate(_records(text), 1)]
    except ValueError as error:
        raise UsageError(f"{path} is neither CSV nor JSON in UTF-8: {error}.") from error
    if not rows:
        raise UsageError(f"{path} holds no row.")
    return rows


def _records(text: str) -> Iterable[Any]:
    if text.startswith("["):
        return list(json.loads(text))
    if text.startswith("{"):
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    return csv.DictReader(text.splitlines())


def _row(record: Any, number: int, path: Path, customer_keys: Collection[str]) -> Row:
    fields = _flat(record) if isinstance(record, Mapping) else {}
    if fields.get("identifier"):
        return Row(fields["identifier"], None, None)
    customer = next((fields[name] for key in customer_keys if (name := f"payload_{key}") in fields), None)
    timestamp = fields.get("timestamp", "")
    if not customer or not timestamp.isdigit():
        raise UsageError(
            f"Row {number} of {path} has neither an `identifier` nor a customer and a `timestamp`: leave the columns as "
            "they were in the file."
        )
    return Row(None, as_given(customer), int(timestamp))


def _flat(record: Mapping[Any, Any]) -> dict[str, str]:
    """Return the fields as the columns of a CSV have them."""
    payload = record.get("payload")
    nested = (
        {f"payload_{key}": value for key, value in payload.items()} if isinstance(payload, Mapping) else {}
    )
    return {str(key): str(value) for key, value in {**record, **nested}.items() if value is not None}
