"""Stripe meters as Terraform writes them: text for the provider `stripe/stripe`. Pure: descriptions in, text out.

Rules
- A meter that the account has comes with an `import` block, which Terraform knows from 1.5 on: it is taken over, and
  nothing is made anew (developer.hashicorp.com/terraform/language/block/import). One that it lacks comes without.
- Of a meter that is there, what is written is what Stripe has, so that a plan of Terraform's finds nothing to change. But
  for the display name, Terraform changes a meter by replacing it, which deactivates the one that bills. Where the
  configuration says something else, a comment says so.
- For the same reason no resource may be destroyed: the provider answers that by deactivating the meter.
- Attributes are those of `stripe_billing_meter`, as the provider documents it
  (github.com/stripe/terraform-provider-stripe, docs/resources/billing_meter.md).
- Strings are escaped as HCL's quoted templates (developer.hashicorp.com/terraform/language/expressions/strings): nothing in
  a name is read as an expression.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from aggregator.sinks.stripe.differences import Comparison, Known
from aggregator.sinks.stripe_meter import StripeMeter

PROVIDER = "stripe/stripe"
RESOURCE = "stripe_billing_meter"
LEAST_PROVIDER = "0.2.2"
"""The version that the provider's own example for meters names; in it, what is nested is a block."""
LEAST_TERRAFORM = "1.5.0"

UNFIT = re.compile(r"[^A-Za-z0-9_-]")

ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


class Exported(NamedTuple):
    """One Stripe meter to be written: what one of ours says, and what the account has."""

    meter: StripeMeter
    comparison: Comparison


def document(exported: Iterable[Exported]) -> str:
    """Return a whole file for one account: what Terraform needs, then a resource for each, in the order given."""
    parts = [_head()]
    taken: set[str] = set()
    for each in exported:
        label = _free(label_of(each.comparison.event_name), taken)
        taken.add(label)
        parts.append("\n".join(_lines(each, label)))
    return "\n\n".join(parts) + "\n"


def label_of(name: str) -> str:
    """Return a name that Terraform takes for a resource, made of an event name.

    It is of letters, digits, underscores and hyphens, and begins with a letter or an underscore
    (developer.hashicorp.com/terraform/language/syntax/configuration, "Identifiers").
    """
    label = UNFIT.sub("_", name)
    return label if label[:1].isalpha() or label[:1] == "_" else f"_{label}"


def quoted(text: str) -> str:
    """Write a string in quotes, so that what is read is the same string, whatever it has in it."""
    text = text.replace("${", "$${").replace("%{", "%%{")
    return '"' + "".join(map(_character, text)) + '"'


def _character(each: str) -> str:
    if each in ESCAPES:
        return ESCAPES[each]
    return each if each.isprintable() or each == " " else _code_point(ord(each))


def _code_point(number: int) -> str:
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"


def _free(label: str, taken: set[str]) -> str:
    """Return a label that no other has: two event names may differ only in what Terraform does not take."""
    free, number = label, 2
    while free in taken:
        free, number = f"{label}_{number}", number + 1
    return free


def _head() -> str:
    return "\n".join(
        (
            "terraform {",
            f'  required_version = ">= {LEAST_TERRAFORM}"',
            "  required_providers {",
            "    stripe = {",
            f"      source  = {quoted(PROVIDER)}",
            f'      version = ">= {LEAST_PROVIDER}"',
            "    }",
            "  }",
            "}",
        )
    )


def _lines(each: Exported, label: str) -> Iterator[str]:
    known = each.comparison.known
    yield f"# Meter {_in_comment(each.comparison.meter)}."
    for difference in each.comparison.differences if known else ():
        yield f"# Differs from the configuration: {_in_comment(difference.what)}. It {_in_comment(difference.text)}"
    if known is not None:
        yield from ("import {", f"  to = {RESOURCE}.{label}", f"  id = {quoted(known.id)}", "}", "")
    yield f'resource "{RESOURCE}" "{label}" {{'
    yield from _attributes(known or _wanted(each.meter))
    yield from ("", "  lifecycle {", "    prevent_destroy = true", "  }", "}")


def _in_comment(text: str) -> str:
    """Keep a text within its line, and leave out what a terminal would obey."""
    return "".join(each if each.isprintable() else "?" for each in " ".join(text.split()))


def _wanted(meter: StripeMeter) -> Known:
    """Return the meter that `aggregator meters apply` would make."""
    return Known(
        id="",
        event_name=meter.event_name,
        display_name=meter.display_name or meter.event_name,
        formula=meter.formula,
        event_time_window=meter.event_time_window,
        customer_key=meter.customer_key,
        value_key=meter.value_key,
        active=True,
        livemode=False,
    )


def _attributes(meter: Known) -> Iterator[str]:
    pairs = {"display_name": meter.display_name, "event_name": meter.event_name}
    if meter.event_time_window is not None:
        pairs["event_time_window"] = meter.event_time_window
    yield from _aligned(pairs, "  ")
    if meter.dimension_keys:
        keys = ", ".join(map(quoted, meter.dimension_keys))
        yield from (
            "",
            "  # Not every version of the provider knows this one; without it, leave the line out.",
        )
        yield f"  dimension_payload_keys = [{keys}]"
    blocks = {
        "default_aggregation": {"formula": meter.formula},
        "customer_mapping": {"type": "by_id", "event_payload_key": meter.customer_key},
        "value_settings": {"event_payload_key": meter.value_key},
    }
    for name, inner in blocks.items():
        yield from ("", f"  {name} {{", *_aligned(inner, "    "), "  }")


def _aligned(pairs: dict[str, str], indent: str) -> Iterator[str]:
    """Write arguments as `terraform fmt` does: with their signs of equality below each other."""
    widest = max(map(len, pairs))
    for name, value in pairs.items():
        yield f"{indent}{name:<{widest}} = {quoted(value)}"
