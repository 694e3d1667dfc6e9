"""Folders of Parquet and CSV files, shown to queries as views, each under the name that its source gives it.

Rules
- Which files there are is settled once per read, and a file that changes meanwhile ends it: all queries of a span see one
  state.
- Nothing is guessed. A CSV column has the type it is declared with, and text that is not plainly of that type is refused;
  what a folder is called (`customer=007`) is text. Parquet types are the files' own, and must agree.
- A column that some files lack is no column of NULLs: a query that needs it is refused, unless it is declared as optional.
- Columns are found by the names in each file's first line: DuckDB would take them by their place.
"""

import csv
import glob
import gzip
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from aggregator.source.dialects import first_line

PATTERN = re.compile(r"[*?\[\]]")
"""What a pattern is made of. DuckDB takes a file's own name for a pattern as well."""

EXACT = re.compile(r"(?:U?(?:TINY|SMALL|BIG|HUGE)?INT|U?INTEGER|DECIMAL\(\d+,\d+\))")
INSTANTS = {"TIMESTAMP", "TIMESTAMP_NS", "TIMESTAMP_MS", "TIMESTAMP_S"}
"""Types that become one without a loss: counts of any size, and instants without a zone."""

TABLES = (("_delta_log", "Delta Lake"), (".hoodie", "Hudi"), ("metadata/version-hint.text", "Iceberg"))
"""What lies in a folder whose files are no table by themselves: some of them have been replaced or deleted."""

SIGNATURES = """
select columns, list(file_name order by file_name)
  from (select file_name,
               list([name, coalesce(duckdb_type, type, ''), coalesce(num_children, 0)::varchar]
                    order by column_id) as columns
          from parquet_schema($1)
         group by file_name)
 group by columns
"""

CSV_FORM = (
    "auto_detect = false, header = true, quote = '\"', escape = '\"', nullstr = '', buffer_size = 4194304"
)
"""DuckDB takes 32 MB at a time otherwise, for each of its threads."""

PLAIN = {
    "boolean": "(?i)true|false|t|f|yes|no|1|0",
    "double": r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?",
    "uuid": "[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}",
    "date": r"\d{4}-\d\d-\d\d",
    "timestamp": r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?)?",
    "timestamptz": r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)? ?(Z|UTC|[+-]\d\d(:?\d\d)?)",
    "integer": r"[+-]?\d+(\.0*)?",
    "bigint": r"[+-]?\d+(\.0*)?",
}
"""Text that has one meaning as a type. DuckDB rounds 1.5 to an integer, drops the offset of a `timestamp`, and takes a
`timestamptz` without an offset for the session's time."""

MEANT = {
    "timestamp": "no time without an offset; declare it as timestamptz if it has one",
    "timestamptz": "no instant with an offset; declare it as timestamp if it has none, and `timezone: UTC` if that is UTC",
}


class Unfit(Exception):
    """Files do not make one table, as they are declared."""


class Changed(OSError):
    """A file is not what it was when the read began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Files that are one table. `path` is a pattern; its ending says what they are."""

    path: str
    columns: Mapping[str, str] = field(default_factory=dict)
    """Types by name: all columns of CSV files that are not text, any of Parquet files."""
    optional: frozenset[str] = frozenset()
    delimiter: str = ","

    @property
    def are_csv(self) -> bool:
        """Whether these are CSV files, packed or not."""
        return self.path.endswith((".csv", ".csv.gz"))


class Stamp(NamedTuple):
    """By what a file is known to be the same."""

    size: int
    changed: int
    inode: int


class Part(NamedTuple):
    """Files that have the same columns, which are known by their names and DuckDB's types."""

    columns: dict[str, str]
    paths: list[str]
    folders: tuple[str, ...]
    """Which of the columns are in the folders' names."""


@dataclass(slots=True)
class Listing:
    """The files of one read, and how they were found."""

    stamps: dict[str, Stamp]

    def check(self) -> None:
        """Raise Changed if one of them is not what it was."""
        for path, stamp in self.stamps.items():
            try:
                same = _stamp(path) == stamp
            except FileNotFoundError:
                same = False
            if not same:
                raise Changed(
                    f"{path} was changed while it was read; move files into place once they are whole"
                )


class FileViews:
    """All files of one source. What was found in a file is kept for as long as the file is the same."""

    def __init__(self, files: Mapping[str, Files]) -> None:
        self._files = dict(files)
        self._known: dict[str, tuple[Stamp, tuple[tuple[str, str], ...]]] = {}

    def __bool__(self) -> bool:
        return bool(self._files)

    def listed(self) -> dict[str, Listing]:
        """List the files by the names of their views. Raises OSError where there are none, or one cannot be used."""
        return {name: Listing(_listed(name, files.path)) for name, files in self._files.items()}

    def views(self, ask: "Ask", listings: Mapping[str, Listing]) -> Iterator[str]:
        """Yield the statements that make the views. Raises Unfit where the files do not make one table."""
        for name, files in self._files.items():
            stamps = listings[name].stamps
            inside = self._headers(files, stamps) if files.are_csv else self._types(ask, stamps)
            yield _view(name, files, _parts(name, inside))
        self._known = {path: known for path, known in self._known.items() if self._is_listed(path, listings)}

    def _is_listed(self, path: str, listings: Mapping[str, Listing]) -> bool:
        return any(path in listing.stamps for listing in listings.values())

    def _headers(self, files: Files, stamps: Mapping[str, Stamp]) -> dict[str, tuple[tuple[str, str], ...]]:
        found = {}
        for path, stamp in stamps.items():
            known = self._known.get(path)
            if known is None or known[0] != stamp:
                known = (stamp, tuple((name, "VARCHAR") for name in _header(path, files.delimiter)))
                self._known[path] = known
            found[path] = known[1]
        return found

    def _types(self, ask: "Ask", stamps: Mapping[str, Stamp]) -> dict[str, tuple[tuple[str, str], ...]]:
        new = [path for path, stamp in stamps.items() if self._known.get(path, (None,))[0] != stamp]
        for schema, paths in _signatures(ask, new) if new else ():
            columns = tuple(_top(schema))
            for path in paths:
                self._known[path] = (stamps[path], columns)
        return {path: self._known[path][1] for path in stamps}


def _signatures(ask: "Ask", paths: list[str]) -> list[tuple[Any, ...]]:
    """Raises OSError for what is no Parquet file, or not a whole one yet."""
    try:
        return ask(SIGNATURES, [paths])
    except Exception as error:
        if type(error).__name__ == "InvalidInputException":
            raise OSError(first_line(error)) from None
        raise


Ask = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]


def _listed(name: str, pattern: str) -> dict[str, Stamp]:
    root = Path(os.path.dirname(PATTERN.split(pattern, maxsplit=1)[0]))  # noqa: PTH120 - of `/a/` it is `/a`
    matching = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - DuckDB is given text
    found = [path for path in matching if not _hidden(Path(path), root)]
    stamps = {path: _stamp(path) for path in found if _is(stat.S_ISREG, path)}
    if not stamps:
        raise FileNotFoundError(f"no file matches {pattern} (`files`, {name})")
    for path in stamps:
        if PATTERN.search(path):
            raise OSError(f"{path} has a character in its name that DuckDB takes for a pattern; rename it")
    folders = {folder for path in stamps for folder in Path(path).parents if folder.is_relative_to(root)}
    for folder in sorted(folders | {root, root.parent}):
        for marker, kind in TABLES:
            if _is(stat.S_IFMT, folder / marker):
                raise OSError(
                    f"{folder} is a table of {kind}: files that it has replaced would be counted as well (`files`, "
                    f"{name}); export the rows, or read the table with an engine that knows it"
                )
    return stamps


def _is(kind: Callable[[int], object], path: str | Path) -> bool:
    """Tell whether there is something of a kind. Raises OSError where nobody may look, as `Path` does up to Python 3.13.

    What is left out without a word would not be billed.
    """
    try:
        return bool(kind(os.stat(path).st_mode))  # noqa: PTH116 - a thousand files are asked again and again
    except (FileNotFoundError, NotADirectoryError):
        return False


def _hidden(path: Path, root: Path) -> bool:
    """Tell whether a name on the way begins with `_` or `.`, as that of what is still being written does by convention."""
    return any(part.startswith(("_", ".")) for part in path.relative_to(root).parts)


def _stamp(path: str) -> Stamp:
    found = os.stat(path)  # noqa: PTH116 - a thousand files are asked again and again
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ino)


def _header(path: str, delimiter: str) -> list[str]:
    """Return the names in the first line of a CSV file."""
    with (gzip.open if path.endswith(".gz") else open)(path, "rt", encoding="utf-8-sig", newline="") as file:
        try:
            names = next(csv.reader(file, delimiter=delimiter, strict=True), [])
        except (csv.Error, UnicodeDecodeError, EOFError) as error:
            raise OSError(f"the first line of {path} cannot be read: {error}") from None
    if not names or not all(names):
        raise OSError(f"the first line of {path} does not name its columns")
    return names


def _top(schema: Sequence[Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Yield the columns of a Parquet file; what a nested one is made of goes with it, as its type."""
    position = 1
    while position < len(schema):
        name, kind, children = schema[position]
        end = position + 1
        left = int(children)
        while left:
            left += int(schema[end][2]) - 1
            end += 1
        nested = ", ".join(f"{each[0]} {each[1]}" for each in schema[position + 1 : end])
        yield name, f"nested ({nested})" if nested else kind
        position = end


def _parts(name: str, inside: Mapping[str, tuple[tuple[str, str], ...]]) -> list[Part]:
    """Put files together that have the same columns, those of their folders' names included."""
    found: dict[tuple[object, ...], Part] = {}
    for path, columns in inside.items():
        folders = tuple(each.partition("=")[0] for each in Path(path).parts[:-1] if "=" in each)
        part = found.get((columns, folders))
        if part is None:
            part = found[columns, folders] = _part(name, path, columns, folders)
        part.paths.append(path)
    return list(found.values())


def _part(name: str, path: str, columns: tuple[tuple[str, str], ...], folders: tuple[str, ...]) -> Part:
    names = [column.lower() for column, _ in columns]
    twice = [column for column in names if names.count(column) > 1]
    if twice:
        raise Unfit(f"`files`, {name}: {path} has a column `{twice[0]}` more than once")
    both = [folder for folder in folders if folder.lower() in names]
    if both and len(both) < len(folders):
        raise Unfit(
            f"`files`, {name}: `{both[0]}` is a column of {path} and also in its folders' names, and they have others "
            "beside it: leave it out of one of the two"
        )
    own = dict(columns)
    return Part(own, [], ()) if both else Part(own | dict.fromkeys(folders, "VARCHAR"), [], folders)


def _view(name: str, files: Files, parts: Sequence[Part]) -> str:
    """Return the statement that makes a view of files. It is made of the configuration and of names that are quoted."""
    types = _types_of(name, files, parts)
    selects = [
        f"select {', '.join(_expression(files, types, column, part) for column in types)}\n  from {_reader(files, part)}"  # noqa: S608
        for part in parts
    ]
    return f"create temp view {_quoted(name)} as\n" + "\nunion all\n".join(selects)


def _types_of(name: str, files: Files, parts: Sequence[Part]) -> dict[str, str | None]:
    """Return all columns, by the names that come first, with the types that are declared."""
    declared = {column.lower(): kind for column, kind in files.columns.items()}
    optional = {column.lower() for column in files.optional}
    found: dict[str, str | None] = {}
    seen: dict[str, tuple[str, str]] = {}
    for part in parts:
        for column, kind in part.columns.items():
            key = column.lower()
            before = seen.setdefault(key, (kind, part.paths[0]))
            if key not in declared and not _agree(before[0], kind):
                raise Unfit(
                    f"`files`, {name}: column `{column}` is {before[0]} in {before[1]} and {kind} in {part.paths[0]}: "
                    "declare its type under `columns`"
                )
            if key in declared and _loses(kind, declared[key]):
                raise Unfit(
                    f"`files`, {name}: column `{column}` is {kind} in {part.paths[0]}, and {declared[key]} would cut it "
                    "off: declare as many decimals as it has"
                )
            found.setdefault(key, declared.get(key))
    for key in [*declared, *optional]:
        if key not in found and key not in optional:
            raise Unfit(f"`files`, {name}: no file has the column `{key}`, such as {parts[0].paths[0]}")
        found.setdefault(key, declared.get(key, "text"))
    return found


def _agree(one: str, other: str) -> bool:
    return one == other or bool(EXACT.fullmatch(one) and EXACT.fullmatch(other)) or {one, other} <= INSTANTS


def _loses(kind: str, declared: str) -> bool:
    """Tell whether a type has more decimals than the one it is to become."""
    scales = [re.fullmatch(r"(?i)decimal\(\d+, ?(\d+)\)", each) for each in (kind, declared)]
    if scales[0] is None:
        return False
    if scales[1] is None:
        return declared in {"integer", "bigint"} and int(scales[0][1]) > 0
    return int(scales[0][1]) > int(scales[1][1])


def _expression(files: Files, types: Mapping[str, str | None], key: str, part: Part) -> str:
    own = {column.lower(): column for column in part.columns}
    kind = types[key]
    if key not in own:
        if key in {column.lower() for column in files.optional}:
            return (
                f"cast(null as {kind or 'varchar'}) as {_quoted(key)}" if kind else f"null as {_quoted(key)}"
            )
        missing = (
            f"column `{key}` is not in {part.paths[0]}, among others of its table: name it under `optional`, if it is "
            "NULL there"
        )
        return f"error({_text(missing)}) as {_quoted(key)}"
    column = _quoted(own[key])
    has = part.columns[own[key]]
    if has == "TIMESTAMP_NS":
        # Cut off, not rounded: half a microsecond before the hour is before the hour.
        column = f"make_timestamp(epoch_ns({column}) // 1000)"
    if kind is None or kind == "text":
        return f"{column}::varchar as {_quoted(key)}" if kind else f"{column} as {_quoted(key)}"
    if has == "VARCHAR":
        return f"{_checked(column, key, kind)} as {_quoted(key)}"
    return f"cast({column} as {kind}) as {_quoted(key)}"


def _checked(column: str, name: str, kind: str) -> str:
    """Return the value of a text as a type, or the complaint that it is not plainly of that type."""
    meant = MEANT.get(kind, f"no plain {kind}")
    plain = PLAIN.get(kind, "")
    if (scale := re.fullmatch(r"decimal\(\d+, ?(\d+)\)", kind)) is not None:
        plain = rf"[+-]?\d+(\.\d{{0,{scale[1]}}}0*)?"
        meant = f"no plain number with at most {scale[1]} decimals"
    complaint = f"{_text(f'column `{name}` holds ')} || left({column}, 40) || {_text(f', which is {meant}')}"
    return (
        f"case when {column} is null then null when regexp_full_match(trim({column}), {_text(plain)}) "
        f"then cast(trim({column}) as {kind}) else error({complaint}) end"
    )


def _reader(files: Files, part: Part) -> str:
    listed = f"[{', '.join(map(_text, part.paths))}]"
    folders = f"hive_partitioning = {str(bool(part.folders)).lower()}, hive_types_autocast = false"
    if not files.are_csv:
        return f"read_parquet({listed}, {folders})"
    columns = ", ".join(f"{_text(each)}: 'VARCHAR'" for each in part.columns if each not in part.folders)
    return f"read_csv({listed}, columns = {{{columns}}}, delim = {_text(files.delimiter)}, {CSV_FORM}, {folders})"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
