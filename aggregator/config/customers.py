"""Mappings from the application's own keys to billing customers, as the configuration describes them."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo

from aggregator.config.block import Block
from aggregator.config.durations import parse_duration
from aggregator.config.query import listing_query
from aggregator.config.values import Duration, at_least, at_most, refuse


def _listing(query: str) -> str:
    try:
        return listing_query(query)
    except ValueError as error:
        raise refuse(str(error)) from None


def _one_of_two(file: Path | None, info: ValidationInfo) -> Path | None:
    query, source = info.data.get("query"), info.data.get("source")
    if file is not None and (query is not None or source is not None):
        raise refuse("is read by itself: take `source` and `query` out, or `file`")
    if file is None and (query is None) != (source is None):
        raise refuse("is left out, so both are needed: `source`, and the `query` that runs on it")
    if file is None and query is None and not {"query", "source"} - info.data.keys():
        raise refuse(
            "is missing: give `source` and `query`, or `file` with a CSV file of columns key, customer, name"
        )
    return file


class CustomerMapping(Block):
    """Where it stands which billing customer each of the application's own keys belongs to."""

    source: str | None = Field(
        default=None,
        description="The source that `query` runs on, by its name under `sources:`.",
        examples=["app"],
    )
    query: Annotated[str, AfterValidator(_listing)] | None = Field(
        default=None,
        description=(
            "One select that gives, for every key, `key`, `customer` (NULL as long as there is none) and, if you like, "
            "`name`. `${...}` is not replaced in here."
        ),
        examples=["select id as key, stripe_customer_id as customer, name from account"],
    )
    file: Annotated[
        Annotated[Path, Field(strict=False)] | None, Field(validate_default=True), AfterValidator(_one_of_two)
    ] = Field(
        default=None,
        description=(
            "CSV file, instead of `source` and `query`: its first line names the columns `key`, `customer` and, if you "
            "like, `name`. Relative to this file."
        ),
        examples=["customers.csv"],
    )
    every: Annotated[
        Duration, at_least("10s"), at_most("1d", "customers would wait for their ids for days")
    ] = Field(
        default=parse_duration("5m"),
        description="How often it is read.",
        examples=["5m"],
    )
    moved: Literal["future", "all"] = Field(
        description=(
            "What happens when a key's customer changes. `future`: windows that have begun stay "
            "with the old customer, later ones go to the new one. `all`: everything that the sinks "
            "still take moves to the new customer, and the meter's `decreases` applies to the old "
            "one. Has no default."
        ),
        examples=["future"],
    )
