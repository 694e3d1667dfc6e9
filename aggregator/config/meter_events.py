"""What a meter's events look like where they go, as the file describes it: to Stripe, and to Metronome."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo

from aggregator.config.block import Block
from aggregator.config.values import refuse


def _differs_from_customer_key(value_key: str, info: ValidationInfo) -> str:
    if value_key == info.data.get("customer_key"):
        raise refuse("is the same as `customer_key`: the customer and the quantity need a key each")
    return value_key


def _no_count(formula: str) -> str:
    """A summary of a thousand requests would count as one."""
    if formula == "count":
        raise refuse(
            "is `count`, which counts each event as one, and ours are summaries: use a meter that sums, and `formula: sum`"
        )
    return formula


class EventName(Block):
    """A Stripe meter for some combinations of dimensions."""

    event_name: str = Field(
        min_length=1,
        max_length=100,
        description="The event name of that Stripe meter.",
        examples=["tokens_large_input"],
    )
    where: dict[str, str] = Field(
        description=(
            "The values of dimensions whose events go there; a dimension that is not named may have any, and `{}` takes all."
        ),
        examples=[{"model": "large", "token_type": "input"}],
    )


def _each_can_be_reached(names: tuple[EventName, ...]) -> tuple[EventName, ...]:
    for index, each in enumerate(names):
        for before in names[:index]:
            if before.where.items() <= each.where.items():
                raise refuse(
                    f"has `{each.event_name}` behind `{before.event_name}`, which takes all of its events: put the narrower "
                    "one first, or leave one out"
                )
    return names


EventNames = Annotated[tuple[EventName, ...], Field(strict=False), AfterValidator(_each_can_be_reached)]


class StripeEvent(Block):
    """What a meter is at Stripe; it must agree with the meter there, which `aggregator meters apply` can create."""

    event_name: str = Field(
        default="",
        min_length=1,
        max_length=100,
        description="The event name of the Stripe meter. Left out: the name of this meter.",
        examples=["api_requests"],
    )
    customer_key: str = Field(
        default="stripe_customer_id",
        min_length=1,
        max_length=100,
        description="The payload key that holds the customer, as in the Stripe meter's customer mapping.",
        examples=["stripe_customer_id"],
    )
    value_key: Annotated[str, AfterValidator(_differs_from_customer_key)] = Field(
        default="value",
        min_length=1,
        max_length=100,
        description="The payload key that holds the quantity, as in the Stripe meter's value settings.",
        examples=["value"],
    )
    display_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=250,
        description="What people read at Stripe. Left out: the event name; one that is there already stays.",
        examples=["API requests"],
    )
    formula: Annotated[Literal["sum", "last", "count"], AfterValidator(_no_count)] = Field(
        default="sum",
        description="How Stripe makes a bill of the events: their `sum`, or the `last` one, as for seats.",
        examples=["sum"],
    )
    event_time_window: Literal["hour", "day"] | None = Field(
        default=None,
        description=(
            "For a pre-aggregated Stripe meter: in each customer's UTC hour or day, only the newest event counts. "
            "Recommended for new meters: sending an event a second time can never bill it twice. `window` must be a "
            "whole multiple of it."
        ),
        examples=["hour"],
    )
    dimension_keys: dict[str, str] = Field(
        default={},
        description=(
            "The payload keys of `dimensions`, where they differ from the names: as the Stripe meter declares them in its "
            "`dimension_payload_keys`, if the account has such."
        ),
        examples=[{"model": "llm_model"}],
    )
    event_names: EventNames = Field(
        default=(),
        description=(
            "Stripe meters for combinations of `dimensions`, the first that fits counts. Events whose combination has none "
            "are refused, and can be sent once it has. Left out: all go to `event_name`."
        ),
        examples=[[{"event_name": "tokens_large_input", "where": {"model": "large", "token_type": "input"}}]],
    )

    @property
    def names(self) -> tuple[str, ...]:
        """Every event name under which events may go."""
        return tuple(dict.fromkeys((self.event_name, *(each.event_name for each in self.event_names))))


def _apart_from_the_quantity(properties: dict[str, str], info: ValidationInfo) -> dict[str, str]:
    if info.data.get("quantity_property") in properties:
        raise refuse("has the key of `quantity_property`, which holds the quantity: give it another name")
    return properties


class MetronomeEvent(Block):
    """What a meter's events look like at Metronome; a billable metric there sums the quantity."""

    event_type: str = Field(
        default="",
        min_length=1,
        description="The type of its events, as in the metric's event type filter. Left out: the name of this meter.",
        examples=["api_requests"],
    )
    quantity_property: str = Field(
        default="quantity",
        min_length=1,
        description="The property that holds the quantity, as in the metric's aggregation key.",
        examples=["quantity"],
    )
    properties: Annotated[dict[str, str], AfterValidator(_apart_from_the_quantity)] = Field(
        default={},
        description="Properties that are the same on each of its events, for a metric's filters and group keys.",
        examples=[{"region": "eu"}],
    )
    dimension_properties: dict[str, str] = Field(
        default={},
        description="The properties of `dimensions`, where they differ from the names.",
        examples=[{"model": "llm_model"}],
    )
    metric_id: str | None = Field(
        default=None,
        min_length=1,
        description="The billable metric. Left out: the one that sums the quantity of this event type.",
        examples=["13117714-3f05-48e5-a6e9-a66093f13b4d"],
    )
