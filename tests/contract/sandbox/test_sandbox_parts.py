"""The small parts on their own: forms, values, the command, and what the package leans on."""

import subprocess
import sys
from decimal import Decimal

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from aggregator.sandbox import RunningSandbox
from aggregator.sandbox.__main__ import command
from aggregator.sandbox.errors import ApiError
from aggregator.sandbox.form import parse_form
from aggregator.sandbox.values import plain, read_value, significant_digits, total
from tests.contract.sandbox.sandbox_calls import call


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("", {}),
        ("a=1&b=", {"a": "1", "b": ""}),
        ("payload[value]=25&payload[who]=cus_a", {"payload": {"value": "25", "who": "cus_a"}}),
        ("payload%5Bvalue%5D=a%3A1+b", {"payload": {"value": "a:1 b"}}),
        ("a[b][c]=1&a[b][d]=2", {"a": {"b": {"c": "1", "d": "2"}}}),
        ("expand[]=x&expand[]=y", {"expand": ["x", "y"]}),
        ("a[b][]=x", {"a": {"b": ["x"]}}),
    ],
)
def test_bracket_keys_make_a_tree(text: str, tree: object) -> None:
    """As Stripe's libraries write them, escaped or not."""
    assert parse_form(text) == tree


@pytest.mark.parametrize("text", ["a=1&a[b]=2", "a[]=1&a[b]=2", "a[b]=1&a[]=2", "&".join(["a=1"] * 501)])
def test_a_form_that_contradicts_itself_is_refused(text: str) -> None:
    """One name in two shapes, or more fields than anybody needs."""
    with pytest.raises(ApiError) as refusal:
        parse_form(text)
    assert refusal.value.status == 400


@given(st.lists(st.decimals(-(10**14), 10**14, places=6)))
def test_a_total_of_any_values_is_exact(values: list[Decimal]) -> None:
    """It equals the sum in whole millionths, and its plain form reads back as itself."""
    whole = sum(int(value.scaleb(6)) for value in values)
    assert total(values) == Decimal(whole).scaleb(-6)
    assert read_value(plain(total(values))) == total(values)


@pytest.mark.parametrize(
    ("text", "digits"), [("0", 0), ("-0.00", 0), ("007", 1), ("-1.50", 3), ("100", 3), ("0.00012", 2)]
)
def test_digits_are_counted_after_leading_zeros(text: str, digits: int) -> None:
    """Sign, point and leading zeros are no digits; trailing zeros are."""
    assert significant_digits(text) == digits


@pytest.mark.parametrize(
    ("value", "text"), [("1E+3", "1000"), ("2.50", "2.5"), ("-0.0", "0"), ("1E-7", "0.0000001"), ("10", "10")]
)
def test_values_are_shown_in_plain_digits(value: str, text: str) -> None:
    """No exponent, no zeros at the end, no minus zero."""
    assert plain(Decimal(value)) == text


def test_a_number_of_absurd_length_is_no_value() -> None:
    """A hundred characters are read, one more is not."""
    assert read_value("1" * 100) is not None
    assert read_value("1" * 101) is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--meter", "a:max"], "Write event_name:formula"),
        (["--port", "99999"], "99999"),
        (["--latency", "-1"], "-1"),
    ],
)
def test_the_command_refuses_what_it_cannot_use(arguments: list[str], words: str) -> None:
    """It names the option and the value."""
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert words in result.output


def test_the_command_tells_when_its_port_is_taken(sandbox: RunningSandbox) -> None:
    """And what to do about it."""
    port = sandbox.url.rpartition(":")[2]
    result = CliRunner().invoke(command, ["--port", port])
    assert result.exit_code == 1
    assert "Choose another --port" in result.output


def test_the_sandbox_brings_in_nothing_else_of_the_package() -> None:
    """It shares no code with what is checked against it."""
    script = "import sys, aggregator.sandbox.__main__; print(*(n for n in sys.modules if n.startswith('aggregator')))"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert [
        name for name in loaded if name != "aggregator" and not name.startswith("aggregator.sandbox")
    ] == []


def test_a_fault_of_the_sandbox_itself_is_still_json(sandbox: RunningSandbox) -> None:
    """Bytes that are no text in a path or a query do not break it."""
    assert call(sandbox.url, "GET", "/v1/billing/meters/%FF%FE").status == 404
    assert call(sandbox.url, "GET", "/v1/customers?email=%FF").status == 200
