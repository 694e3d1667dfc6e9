"""Folders of Parquet and CSV files that are a source's tables, as the configuration describes them."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo

from aggregator.config.block import Block
from aggregator.config.values import NAME_PATTERN, NAME_RULE, refuse

COLUMN_TYPES = "text, boolean, integer, bigint, decimal(p,s), double, date, timestamp, timestamptz, uuid"
COLUMN_TYPE = re.compile(
    r"text|boolean|integer|bigint|double|date|timestamp|timestamptz|uuid|decimal\((\d{1,2}), ?(\d{1,2})\)"
)
MOST_DIGITS = 38
"""Of a decimal number in DuckDB (duckdb.org/docs/current/sql/data_types/numeric)."""

IN_MEMORY = ("duckdb://", "duckdb:///", "duckdb:///:memory:")
"""URLs that name no database."""

KINDS_OF_FILES = (".parquet", ".csv", ".csv.gz")


def _path(path: str) -> str:
    if not path.startswith("/"):
        raise refuse("must be the full path of files on this machine, such as `/var/lib/usage/**/*.parquet`")
    if not path.endswith(KINDS_OF_FILES):
        raise refuse("must end in `.parquet`, `.csv` or `.csv.gz`, which says what the files are")
    return path


def _column_types(columns: dict[str, str]) -> dict[str, str]:
    for column, kind in columns.items():
        found = COLUMN_TYPE.fullmatch(kind)
        if found is None:
            raise refuse(f"has a type that is not known: write one of {COLUMN_TYPES}", column)
        if found[1] and not int(found[2]) <= int(found[1]) <= MOST_DIGITS:
            raise refuse(f"has {MOST_DIGITS} digits at most, and no more decimals than digits", column)
    return columns


def _one_character(delimiter: str) -> str:
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise refuse('must be one character, such as `;`, or a tab: `"\\t"`')
    return delimiter


class SourceFiles(Block):
    """Files of one form that are one table of a source."""

    path: Annotated[str, AfterValidator(_path)] = Field(
        description=(
            "Full path of the files, with `*` for any name and `**` for any folders. Its ending says what they are: "
            "`.parquet`, `.csv` or `.csv.gz`."
        ),
        examples=["/var/lib/usage/**/*.parquet"],
    )
    columns: Annotated[dict[str, str], AfterValidator(_column_types)] = Field(
        default={},
        description=f"Types of columns: {COLUMN_TYPES}. A column of CSV files that is not named is text.",
        examples=[{"quantity": "decimal(30,6)", "used_at": "timestamptz"}],
    )
    optional: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(),
        description="Columns that some files may lack; they are NULL there.",
        examples=[["region"]],
    )
    delimiter: Annotated[str, AfterValidator(_one_character)] = Field(
        default=",", description="What separates the columns of CSV files.", examples=[";"]
    )


def files_of_duckdb(files: dict[str, SourceFiles], info: ValidationInfo) -> dict[str, SourceFiles]:
    """Refuse names that are none, and a URL of another database."""
    for name in files:
        if not re.fullmatch(NAME_PATTERN, name):
            raise refuse(f"is no name of a table: use {NAME_RULE}", name)
    url = info.data.get("url")
    named = url.get_secret_value().partition("?")[0] if isinstance(url, SecretStr) else IN_MEMORY[0]
    if files and named not in IN_MEMORY:
        raise refuse("are read by DuckDB: write `url: duckdb://`")
    return files
