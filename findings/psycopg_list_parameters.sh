#!/usr/bin/env bash
# psycopg 3.3.9 with its C extension: who turns a list into an array parameter?
#
# Expected: the C extension, as it does with single numbers and texts.
# Found: lists are dumped by Python code, element by element, in psycopg/types/array.py; only the elements go through C.
# Eight lists of 200 values take several times the processor time of one JSON text with the same values, which matters where
# every batch of rows goes to the server as one array per column. (Source: psycopg/types/array.py, class ListDumper.)
#
# Fails if lists are dumped by the extension, or if JSON is no longer at least twice as cheap.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check 'psycopg[binary]==3.3.9'
"$work/venv/bin/python" - <<'PY'
import json
import time

import psycopg
from psycopg.adapt import PyFormat, Transformer

columns = [[f"req_{row}_{column}" for row in range(200)] for column in range(8)]


def cost(work):
    best = float("inf")
    for _ in range(7):
        began = time.process_time()
        for _ in range(20):
            work()
        best = min(best, time.process_time() - began)
    return best


def as_lists():
    transformer = Transformer()
    for column in columns:
        transformer.get_dumper(column, PyFormat.AUTO).dump(column)


def as_json():
    transformer = Transformer()
    text = json.dumps([dict(zip("abcdefgh", row)) for row in zip(*columns)])
    transformer.get_dumper(text, PyFormat.AUTO).dump(text)


transformer = Transformer()
of_list = type(transformer.get_dumper(columns[0], PyFormat.AUTO)).__module__
of_text = type(transformer.get_dumper("a", PyFormat.AUTO)).__module__
ratio = cost(as_lists) / cost(as_json)
print(f"psycopg {psycopg.__version__}, implementation {psycopg.pq.__impl__}")
print(f"a list is dumped by {of_list}, a text by {of_text}")
print(f"eight lists cost {ratio:.1f} times one JSON text")
assert psycopg.pq.__impl__ == "binary"
assert of_list == "psycopg.types.array", of_list
assert of_text.startswith("psycopg_binary"), of_text
assert ratio > 2, ratio
print("as found")
PY
