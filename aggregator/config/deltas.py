"""How a meter is read by a cursor, as the file describes it."""

import datetime as dt
import re
from typing import Annotated, Protocol, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationInfo, WithJsonSchema

from aggregator.config.block import Block
from aggregator.config.query import RECOUNT_PARAMETERS, UPTO_PARAMETERS
from aggregator.config.values import Duration, at_least, at_most, iso, query_with, read_instant, refuse


def _cursor(value: object) -> int | dt.datetime:
    """Read a whole number or an instant."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,30}", value.strip()):
        return int(value)
    if isinstance(value, dt.date) or (isinstance(value, str) and re.match(r"\s*\d{4}-\d\d", value)):
        return read_instant(value)
    raise refuse(
        "must be a whole number or an instant, as the column `cursor` is. Text, such as a ULID, is made before its "
        "transaction begins, and in an order that no database keeps: use the instant at which a row was written"
    )


StartAfter = Annotated[
    int | dt.datetime,
    BeforeValidator(_cursor),
    PlainSerializer(
        lambda value: iso(value) if isinstance(value, dt.datetime) else value, return_type=int | str
    ),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string"}]}),
]


def _goes_with_recount(query: str | None, info: ValidationInfo) -> str | None:
    if "recount" not in info.data:
        return query
    if query is None and info.data["recount"] is not None:
        raise refuse("is missing, and `recount` needs it: the select that gives whole windows up to `:upto`")
    if query is not None and info.data["recount"] is None:
        raise refuse("is given without `recount`: say how far back windows are counted anew, such as `7d`")
    return query


class Deltas(Block):
    """Where a cursor begins, how far it may go, and what finds the rows that it missed."""

    start_after: StartAfter = Field(
        description=(
            "The cursor of the last row that should not count: `0` to count all rows of a table "
            "with ids. Rows up to it are never billed, so it has no default. It has no effect once "
            "a row has been read."
        ),
        examples=[0],
    )
    upto_query: Annotated[str, query_with(*UPTO_PARAMETERS)] = Field(
        description=(
            "One select of one value: the cursor at which the next stretch of rows after `:after` ends, NULL if there is "
            "none. Its limit says how many rows are read at once."
        ),
        examples=[
            "select max(id) from (select id from usage where id > :after order by id limit 100000) as next"
        ],
    )
    lag: Annotated[Duration, at_least("1s"), at_most("1d", "usage is to be billed soon")] | None = Field(
        default=None,
        description=(
            "How long to wait until every row with a smaller cursor has certainly been committed: "
            "longer than your longest transaction. Needed wherever the database does not show which "
            "transactions are open."
        ),
        examples=["10m"],
    )
    recount: (
        Annotated[Duration, at_least("1h"), at_most("35d", "Stripe refuses usage older than that")] | None
    ) = Field(
        default=None,
        description=(
            "How far back `recount_query` counts windows again, once a day, to find rows that the "
            "cursor missed or that have changed since."
        ),
        examples=["7d"],
    )
    recount_query: Annotated[
        Annotated[str, query_with(*RECOUNT_PARAMETERS)] | None, AfterValidator(_goes_with_recount)
    ] = Field(
        default=None,
        validate_default=True,
        description=(
            "One select that returns whole windows from `:start` to before `:end`, with `window`, "
            "and counts the rows up to the cursor `:upto`."
        ),
        examples=[
            (
                "select customer, count(*) as quantity, date_trunc('hour', used_at) as window from usage "
                "where used_at >= :start and used_at < :end and id <= :upto group by 1, 3"
            )
        ],
    )


def goes_with_deltas(deltas: Deltas | None, info: ValidationInfo) -> Deltas | None:
    """Refuse the block without `read: deltas`, and that without the block."""
    by_cursor = info.data.get("read") == "deltas"
    if by_cursor and deltas is None:
        raise refuse("is missing, and `read: deltas` needs it: say `start_after` and `upto_query`")
    if deltas is not None and "read" in info.data and not by_cursor:
        raise refuse("is given without `read: deltas`: add that, or remove the block")
    return deltas


class Formula(Protocol):
    """How a bill is made of events."""

    @property
    def formula(self) -> str: ...  # noqa: D102


Event = TypeVar("Event", bound=Formula)


def adds_up(event: Event, info: ValidationInfo) -> Event:
    """Refuse a bill of the last number where what is read is added up."""
    if info.data.get("read") == "deltas" and event.formula == "last":
        raise refuse("has `formula: last`, and what `read: deltas` reads is added up: use `read: windows`")
    return event


def reads_windows(key: str, why: str) -> AfterValidator:
    """Refuse a key that says something of queries for whole windows."""

    def check(value: object, info: ValidationInfo) -> object:
        if value and info.data.get("read") == "deltas":
            raise refuse(f"does not go with `read: deltas`, {why}: remove `{key}`")
        return value

    return AfterValidator(check)
