"""A Metronome sink in the configuration: what it may say, and what is said of mistakes."""

import datetime as dt
from pathlib import Path

import pytest

from aggregator.config import MetronomeSink, load
from aggregator.errors import ConfigError

ENV = {"TOKEN": "tok_secret"}
RIGHT = """
sources:
  app: {url: "sqlite:///app.db"}
sinks:
  metronome:
    type: metronome
    api_key: ${TOKEN}
    quantity_encoding: text
meters:
  calls:
    source: app
    sinks: [metronome]
    window: 1h
    start_at: 2026-11-01T00:00Z
    query: select customer, 1 as quantity from used where at >= :start and at < :end
"""
TWIN = """
  twin:
    source: app
    sinks: [metronome]
    window: 1h
    start_at: 2026-11-01T00:00Z
    query: select customer, 1 as quantity from used where at >= :start and at < :end
"""


def complaints(directory: Path, text: str) -> list[str]:
    """What is said of a file, without its name and line."""
    path = directory / "aggregator.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, ENV)
    return [f"{problem.path}: {problem.message}" for problem in caught.value.problems]


def loaded(directory: Path, text: str) -> MetronomeSink:
    """The sink of a file that is right."""
    path = directory / "aggregator.yaml"
    path.write_text(text)
    sink = load(path, ENV).sinks["metronome"]
    assert isinstance(sink, MetronomeSink)
    return sink


def test_the_least_that_is_right(tmp_path: Path) -> None:
    """Token and encoding only; the rest has the documented defaults, and the token shows itself nowhere."""
    sink = loaded(tmp_path, RIGHT)
    assert sink.api_key_revealed() == "tok_secret"
    assert "tok_secret" not in repr(sink) + sink.model_dump_json()
    assert (sink.quantity_encoding, sink.self_test_customer, sink.api_base) == ("text", None, None)
    assert (sink.rate_limit, sink.timeout, sink.max_in_flight) == (None, dt.timedelta(seconds=10), 16)
    assert sink.events_per_second == 5_000
    event = load(tmp_path / "aggregator.yaml", ENV).meter("calls").metronome
    assert (event.event_type, event.quantity_property, event.properties) == ("calls", "quantity", {})
    assert event.metric_id is None


@pytest.mark.parametrize(
    ("more", "rate"),
    [
        ("api_base: http://127.0.0.1:12111/metronome", 100_000),
        ("api_base: http://localhost:1\n    rate_limit: 70", 70),
        ("api_base: https://metronome.example.com", 5_000),
        ("rate_limit: 20000", 20_000),
    ],
)
def test_on_this_machine_there_is_no_limit(tmp_path: Path, more: str, rate: int) -> None:
    """What answers on loopback takes what it can, unless a limit is set."""
    assert loaded(tmp_path, RIGHT.replace("type:", f"{more}\n    type:", 1)).events_per_second == rate


def test_the_token_may_stand_in_a_file(tmp_path: Path) -> None:
    """As any secret may."""
    (tmp_path / "token").write_text("tok_filed\n")
    text = RIGHT.replace("api_key: ${TOKEN}", "api_key_file: token")
    assert loaded(tmp_path, text).api_key_revealed() == "tok_filed"


def test_a_path_may_stand_in_the_address(tmp_path: Path) -> None:
    """The sandbox plays Metronome below one."""
    text = RIGHT.replace("quantity_encoding", "api_base: http://127.0.0.1:1/metronome\n    quantity_encoding")
    assert loaded(tmp_path, text).api_base == "http://127.0.0.1:1/metronome"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("    quantity_encoding: text\n", "", "sinks.metronome.quantity_encoding: is missing"),
        ("text\n", "decimal\n", "sinks.metronome.quantity_encoding: "),
        ("${TOKEN}", '"two words"', "sinks.metronome.api_key: must be an API token, without white space"),
        ("type: metronome", "type: metronome\n    mode: live", "sinks.metronome.mode: is not a known key"),
        (
            "window: 1h",
            "window: 1h\n    metronome: {quantity_property: n, properties: {n: x}}",
            "meters.calls.metronome.properties: has the key of `quantity_property`",
        ),
        (
            "window: 1h",
            "window: 1h\n    metronome: {event_name: x}",
            "meters.calls.metronome.event_name: is not a known key: did you mean `event_type`?",
        ),
        (
            "window: 1h",
            "window: 1h\n    metronome: {properties: {n: 5}}",
            "meters.calls.metronome.properties.n: must be text",
        ),
    ],
)
def test_a_mistake_is_named_with_its_remedy(tmp_path: Path, old: str, new: str, said: str) -> None:
    """How a quantity is written has no default, since the wrong way is billed as zero."""
    (found,) = complaints(tmp_path, RIGHT.replace(old, new))
    assert found.startswith(said)
    assert "tok_secret" not in found


TELLS_APART = [
    "metronome: {event_type: calls, quantity_property: much}",
    "metronome: {event_type: calls, properties: {region: eu}}",
    "metronome: {event_type: others}",
    "description: named otherwise",
]


@pytest.mark.parametrize("key", TELLS_APART)
def test_two_meters_that_a_metric_can_tell_apart(tmp_path: Path, key: str) -> None:
    """By their type, the quantity's property, or other properties."""
    loaded(tmp_path, RIGHT + TWIN.replace("    source: app", f"    source: app\n    {key}"))


def test_two_meters_that_a_metric_would_add_up(tmp_path: Path) -> None:
    """Each use would be counted twice; the complaint names both."""
    twin = TWIN.replace("    source: app", "    source: app\n    metronome: {event_type: calls}")
    (found,) = complaints(tmp_path, RIGHT + twin)
    assert found.startswith(
        "meters.twin.metronome.event_type: sends events that look like those of meter `calls`"
    )


def test_defaults_are_merged_key_by_key(tmp_path: Path) -> None:
    """A meter that names its type keeps the property that all share."""
    text = RIGHT.replace("window: 1h", "window: 1h\n    metronome: {event_type: mine}")
    text += "defaults:\n  metronome: {quantity_property: much}\n"
    loaded(tmp_path, text)
    event = load(tmp_path / "aggregator.yaml", ENV).meter("calls").metronome
    assert (event.event_type, event.quantity_property) == ("mine", "much")
