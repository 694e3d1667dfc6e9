"""Stripe meters written for Terraform, read back by HashiCorp's own parser: valid names, values as they were."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pygohcl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.sinks.stripe import StripeMeter
from aggregator.sinks.stripe.differences import Known, compare
from aggregator.sinks.stripe.terraform import Exported, document, label_of, quoted
from tests.contract.test_stripe_differences import OURS, THEIRS


def written(*exported: tuple[StripeMeter, Known | None]) -> str:
    """Write meters."""
    return document(
        Exported(ours, compare("ours", ours, theirs, livemode=False)) for ours, theirs in exported
    )


def meters(text: str) -> Mapping[str, Any]:
    """Return the Stripe meters of a file, by their labels."""
    found: Mapping[str, Any] = pygohcl.loads(text)["resource"]["stripe_billing_meter"]
    return found


def test_what_the_account_has_is_imported_as_it_is_there() -> None:
    """By its id; what ours says differently stands in a comment, so that Terraform replaces nothing that bills."""
    ours = replace(OURS, display_name="Calls", event_time_window="hour")
    text = written((ours, THEIRS))
    found = pygohcl.loads(text)
    assert found["import"] == {"id": "mtr_1", "to": "stripe_billing_meter.api_requests"}
    assert meters(text) == {
        "api_requests": {
            "display_name": "API requests",
            "event_name": "api_requests",
            "default_aggregation": {"formula": "sum"},
            "customer_mapping": {"type": "by_id", "event_payload_key": "stripe_customer_id"},
            "value_settings": {"event_payload_key": "value"},
            "lifecycle": {"prevent_destroy": True},
        }
    }
    comments = [line for line in text.splitlines() if line.startswith("# Differs")]
    assert [line.split()[5] for line in comments] == ["event_time_window.", "display_name."]
    assert found["terraform"]["required_providers"]["stripe"]["source"] == "stripe/stripe"
    assert found["terraform"]["required_version"] == ">= 1.5.0"


def test_what_the_account_lacks_is_written_as_configured() -> None:
    """Every setting; without an import, so that Terraform makes it."""
    ours = StripeMeter(
        event_name="seats",
        customer_key="who",
        value_key="much",
        display_name="Seats",
        formula="last",
        event_time_window="day",
    )
    text = written((ours, None))
    assert "import" not in pygohcl.loads(text)
    assert meters(text)["seats"] == {
        "display_name": "Seats",
        "event_name": "seats",
        "event_time_window": "day",
        "default_aggregation": {"formula": "last"},
        "customer_mapping": {"type": "by_id", "event_payload_key": "who"},
        "value_settings": {"event_payload_key": "much"},
        "lifecycle": {"prevent_destroy": True},
    }


def test_the_account_s_dimensions_are_written() -> None:
    """They are an argument that only some versions of the provider have: the line before says so."""
    text = written((OURS, THEIRS._replace(dimension_keys=("model", "kind"))))
    assert meters(text)["api_requests"]["dimension_payload_keys"] == ["model", "kind"]
    assert "Not every version of the provider" in text


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("api_requests", "api_requests"),
        ("api.requests", "api_requests"),
        ("1st", "_1st"),
        ("-x", "_-x"),
        ("Größe", "Gr__e"),
        ("", "_"),
    ],
)
def test_a_label_is_one_that_terraform_takes(name: str, label: str) -> None:
    """Letters, digits, underscores and hyphens, and a letter or an underscore first."""
    assert label_of(name) == label


def test_no_two_resources_have_one_label() -> None:
    """Event names that differ in what Terraform does not take are told apart by a number; each import goes to its own."""
    names = ["a.b", "a b", "a_b", "a_b_2"]
    text = written(
        *(
            (replace(OURS, event_name=name), THEIRS._replace(event_name=name, id=f"mtr_{name}"))
            for name in names
        )
    )
    found = {each["event_name"]: label for label, each in meters(text).items()}
    assert sorted(found) == sorted(names)
    imports = {each["id"]: each["to"] for each in pygohcl.loads(text)["import"]}
    assert imports == {f"mtr_{name}": f"stripe_billing_meter.{label}" for name, label in found.items()}


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_every_text_is_read_as_it_was(text: str) -> None:
    """Quotes, backslashes, control characters, and what would be an expression: `${...}`, `%{...}`."""
    assume_composed(text)
    assert pygohcl.loads(f"x = {quoted(text)}\n") == {"x": text}


def assume_composed(text: str) -> None:
    """Leave out what HCL composes by itself: it keeps strings in Unicode's form NFC."""
    from unicodedata import normalize

    from hypothesis import assume

    assume(normalize("NFC", text) == text and "\0" not in text)


@pytest.mark.parametrize(
    "text", ["${a}", "%{if a}", "$${a}", "$", "%", "$${", "$$${a}", "a\nb", 'a"b', "\\", "\x1b[31m"]
)
def test_nothing_in_a_name_is_an_expression(text: str) -> None:
    """A display name may hold what Terraform would evaluate."""
    theirs = THEIRS._replace(display_name=text)
    assert meters(written((OURS, theirs)))["api_requests"]["display_name"] == text


def test_a_comment_stays_in_its_line() -> None:
    """A name with a line break, or with what a terminal would obey, opens nothing after it."""
    text = written((OURS, THEIRS._replace(display_name='x"\n}\nresource "a" "b" {\n\x1b')), (OURS, None))
    assert sorted(meters(text)) == ["api_requests", "api_requests_2"]
