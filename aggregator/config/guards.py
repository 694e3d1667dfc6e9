"""The guards of a meter against too much, as the file describes them."""

import re
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationInfo, WithJsonSchema

from aggregator.config.block import Block
from aggregator.config.values import plain_number, refuse


def _units(value: object) -> object:
    units = plain_number(value, r"\d{1,30}(\.\d{1,12})?")
    if not units:
        raise refuse("must be a number of units above 0, in plain digits, such as `100000`")
    return units


Units = Annotated[
    Decimal,
    BeforeValidator(_units),
    PlainSerializer(lambda units: f"{units.normalize():f}", return_type=str),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0},
                {"type": "string", "pattern": r"^[\d_]{1,40}(\.\d{1,12})?$"},
            ]
        }
    ),
]


def _times(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"\d{1,9}(\.\d{1,6})?\s*x", value.strip()):
        times = Decimal(value.strip().removesuffix("x").strip())
        if times > 1:
            return times
    raise refuse("must say how many times what was usual, above `1x`, such as `10x`")


Times = Annotated[
    Decimal,
    BeforeValidator(_times),
    PlainSerializer(lambda times: f"{times.normalize():f}x", return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^\d{1,9}(\.\d{1,6})?\s*x$"}),
]

COMPARING = ("max_change", "max_total_change", "unusual_zero")


def _goes_with_a_comparison(units: Decimal | None, info: ValidationInfo) -> Decimal | None:
    """Tell what it is for; without it a customer who used 1 and uses 10 would wait for a person."""
    given = [key for key in COMPARING if info.data.get(key)]
    if units is None and given:
        raise refuse(
            f"is missing, and `{given[0]}` needs it: say up to how many units in a window nothing is unusual, such as `1000`"
        )
    if units is not None and not given and all(key in info.data for key in COMPARING):
        raise refuse("does nothing alone: it goes with `max_change`, `max_total_change` or `unusual_zero`")
    return units


class Guards(Block):
    """What is too much to be sent before a person has looked at it."""

    max_per_customer_window: Units | None = Field(
        default=None,
        description=(
            "How many units one customer may use in one window, in all dimensions together; beyond "
            "it, the increase is held."
        ),
        examples=[100000],
    )
    max_change: Times | None = Field(
        default=None,
        description=(
            "How many times their usual usage a customer may use in one window; beyond it, the "
            "increase is held. The usual usage is the highest in a window at the same hour (UTC) in "
            "the four weeks before. Needs `unusual_from`."
        ),
        examples=["10x"],
    )
    max_total_change: Times | None = Field(
        default=None,
        description=(
            "The same for all customers of a window together; beyond it, every increase in that window is held. Needs "
            "`unusual_from`."
        ),
        examples=["3x"],
    )
    unusual_zero: bool = Field(
        default=False,
        description=(
            "Whether to report a customer that had usage at this hour in each of the four weeks "
            "before, and has none now. "
            "Nothing is held for it. Needs `unusual_from`."
        ),
        examples=[True],
    )
    unusual_from: Annotated[Units | None, AfterValidator(_goes_with_a_comparison)] = Field(
        default=None,
        validate_default=True,
        description="Usage of up to this many units in a window is never unusual.",
        examples=[1000],
    )
