#!/usr/bin/env bash
# clickhouse-connect 1.12.0: what does it make of a String that is no UTF-8?
#
# Expected: an error, or bytes. A String of ClickHouse holds any bytes, so a key in another encoding is nothing unusual.
# Found: it becomes the text of its hexadecimal digits, without a word. So the key of one byte, ff, and the key of two letters,
# "ff", arrive as the same text, and what two customers used adds up to one. Which values are decoded and which become digits is
# decided value by value, in one column. `query_formats={"String": "bytes"}` gives all of them as bytes.
# (clickhouse.com/docs/integrations/language-clients/python/advanced-querying, "Read formats"; datatypes/string.py.)
#
# The result is put together here as the server sends it, in the format Native
# (clickhouse.com/docs/interfaces/formats/Native): columns, rows, then of each column its name, its type and its values.
#
# Fails if the two keys come apart, or if bytes are not what the read format gives.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check clickhouse-connect==1.12.0
cat >"$work/ask.py" <<'PY'
import clickhouse_connect
from clickhouse_connect.driver.buffer import ResponseBuffer
from clickhouse_connect.driver.query import QueryContext
from clickhouse_connect.driver.transform import NativeTransform


def text(value: bytes) -> bytes:
    return bytes([len(value)]) + value


class Answer:
    """What comes over the wire: one block with one column of three values."""

    exception_tag = None

    def __init__(self) -> None:
        values = (b"\xff", b"ff", b"cus_\xce\xa9")
        self.gen = iter([b"\x01\x03" + text(b"customer") + text(b"String") + b"".join(map(text, values))])

    def close(self) -> None:
        pass


def read(**options: object) -> list[object]:
    result = NativeTransform.parse_response(ResponseBuffer(Answer()), QueryContext("select 1", **options))
    return [row[0] for row in result.result_rows]


found, as_bytes = read(), read(query_formats={"String": "bytes"})
print(f"clickhouse-connect {clickhouse_connect.__version__}: {found}, as bytes {as_bytes}")
assert found == ["ff", "ff", "cus_Ω"], found
assert as_bytes == [b"\xff", b"ff", "cus_Ω".encode()], as_bytes
PY
"$work/venv/bin/python" "$work/ask.py"
echo "as found"
# Output seen:
# clickhouse-connect 1.12.0: ['ff', 'ff', 'cus_Ω'], as bytes [b'\xff', b'ff', b'cus_\xce\xa9']
# as found
