"""A configuration file in; the configuration out, or every mistake with its line, its path and its remedy."""

import datetime as dt
from pathlib import Path

import pytest

from aggregator.config import Config, Meter, StripeSink, fingerprint, load, starter
from aggregator.errors import ConfigError, UsageError

ENV = {"DB": "postgresql://reader@db/app", "KEY": "sk_test_123"}
QUERY = "select customer, 1 as quantity from used where at >= :start and at < :end"
RIGHT = {
    "sources.app.url": "${DB}",
    "sinks.stripe.type": "stripe",
    "sinks.stripe.api_key": "${KEY}",
    "sinks.stripe.mode": "test",
    "meters.calls.source": "app",
    "meters.calls.sinks": "[stripe]",
    "meters.calls.window": "1h",
    "meters.calls.start_at": "2026-11-01T00:00Z",
    "meters.calls.query": QUERY,
}
Changes = dict[str, str | None]


def written(changes: Changes) -> str:
    """A right configuration with some keys changed, added, or (None) left out, one key per line."""
    keys = {key: value for key, value in (RIGHT | changes).items() if value is not None}
    lines: list[str] = []
    known: set[tuple[str, ...]] = set()
    for key in sorted(keys, key=lambda key: key.split(".")):
        *blocks, last = key.split(".")
        for depth in range(len(blocks)):
            if tuple(blocks[: depth + 1]) not in known:
                known.add(tuple(blocks[: depth + 1]))
                lines.append(f"{'  ' * depth}{blocks[depth]}:")
        lines.append(f"{'  ' * len(blocks)}{last}: {keys[key]}")
    return "\n".join(lines) + "\n"


def loaded(directory: Path, changes: Changes | None = None, env: dict[str, str] = ENV) -> Config:
    path = directory / "aggregator.yaml"
    path.write_text(written(changes or {}))
    return load(path, env)


def complaints(directory: Path, text: str, env: dict[str, str] = ENV) -> list[str]:
    """What is said of a file: `line: path: message`, in order."""
    path = directory / "aggregator.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, env)
    return [str(problem).removeprefix(f"{path}:").strip() for problem in caught.value.problems]


def line_of(text: str, key: str) -> int:
    """The line on which the last part of a dotted key stands; the block around it when it does not."""
    lines = text.splitlines()
    at = 0
    for depth, part in enumerate(key.split(".")):
        found = [n for n in range(at, len(lines)) if lines[n].startswith(f"{'  ' * depth}{part}:")]
        if not found:
            break
        at = found[0]
    return at + 1


def test_the_least_that_is_right(tmp_path: Path) -> None:
    """Source, sink and meter with the required keys only; all else has the documented default."""
    config = loaded(tmp_path)

    assert config.state_dir == tmp_path / ".aggregator"
    assert config.ledger.url is None
    assert config.ledger.lease == dt.timedelta(minutes=2)
    assert config.ledger.migrate
    assert config.sources["app"].url_revealed() == ENV["DB"]
    assert config.sources["app"].statement_timeout == dt.timedelta(seconds=60)
    assert config.sources["app"].timezone is None
    sink = config.sinks["stripe"]
    assert isinstance(sink, StripeSink)
    assert sink.api_key_revealed() == ENV["KEY"]
    assert (sink.api_base, sink.rate_limit, sink.timeout) == (None, None, dt.timedelta(seconds=10))
    assert sink.max_in_flight == 256
    meter = config.meter("calls")
    assert (meter.name, meter.source, meter.sinks, meter.read) == ("calls", "app", ("stripe",), "windows")
    assert meter.start_at == dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
    assert (meter.window, meter.delay, meter.revisit) == (
        dt.timedelta(hours=1),
        dt.timedelta(minutes=5),
        dt.timedelta(days=35),
    )
    assert (meter.every, meter.cron, meter.decimals, meter.decreases) == (None, None, 0, "hold")
    assert meter.stripe.model_dump() == {
        "event_name": "calls",
        "customer_key": "stripe_customer_id",
        "value_key": "value",
        "display_name": None,
        "formula": "sum",
        "event_time_window": None,
        "dimension_keys": {},
        "event_names": (),
    }
    assert meter.query_text == QUERY


RIGHT_VALUES = [
    ("meters.calls.start_at", "2026-11-01T00:00:00Z", "2026-11-01T00:00+00:00"),
    ("meters.calls.start_at", "2026-11-01 01:00:00 +01:00", "2026-11-01T00:00+00:00"),
    ("meters.calls.start_at", "'2026-11-01T05:30+05:30'", "2026-11-01T00:00+00:00"),
    ("meters.calls.window", "1d", "1 day, 0:00:00"),
    ("meters.calls.window", "90s", "0:01:30"),
    ("meters.calls.delay", "0s", "0:00:00"),
    ("meters.calls.revisit", "1d12h", "1 day, 12:00:00"),
    ("meters.calls.every", "30s", "0:00:30"),
    ("meters.calls.cron", "'*/5  0-6 * jan,feb MON'", "*/5 0-6 * jan,feb MON"),
    ("meters.calls.decimals", "12", "12"),
    ("meters.calls.decreases", "apply", "apply"),
    ("meters.calls.description", "A $${literal} text", "A ${literal} text"),
    ("meters.calls.description", "${KEY}", "sk_test_123"),
    ("sinks.stripe.api_base", "https://api.example.com/", "https://api.example.com"),
    ("sinks.stripe.api_base", "http://[::1]:12111", "http://[::1]:12111"),
    ("sinks.stripe.api_base", "http://localhost:12111", "http://localhost:12111"),
    ("sources.app.timezone", "UTC", "UTC"),
    ("sources.app.accepts", "[several_states]", "('several_states',)"),
]


@pytest.mark.parametrize(("key", "value", "meaning"), RIGHT_VALUES)
def test_what_a_value_means(tmp_path: Path, key: str, value: str, meaning: str) -> None:
    """Each value a key may have, and what is made of it."""
    config = loaded(tmp_path, {key: value})

    kind, name, field = key.split(".")
    found = getattr(getattr(config, kind)[name], field)
    assert (found.isoformat(timespec="minutes") if isinstance(found, dt.datetime) else str(found)) == meaning


MISTAKES: list[tuple[str, str | None, str]] = [
    # Durations.
    ("meters.calls.window", "60", "has no unit: write `60s` for seconds, `60m` for minutes"),
    ("meters.calls.window", "1.5", "has no unit: write `1.5s`"),
    ("meters.calls.window", "1 hour", "is not a duration: write a number and s, m, h or d"),
    (
        "meters.calls.window",
        "true",
        "must be a duration, but is true or false: write, for example, `window: 1h`",
    ),
    ("meters.calls.window", "[1h]", "must be a duration, but is a list"),
    ("meters.calls.window", "7m", "must divide a day exactly; the nearest that do are `6m` and `8m`"),
    ("meters.calls.window", "30s", "must be from `1m` to `1d`"),
    ("meters.calls.window", "2d", "must be from `1m` to `1d`"),
    ("meters.calls.window", None, "is missing: write, for example, `window: 1h`"),
    ("meters.calls.window", "", "has no value: give it one, or remove the line"),
    # One configuration serves every loop, and says where two of its values cannot both hold (B23).
    ("meters.calls.revisit", "36d", "is too long: 35d is the most, because Stripe refuses usage older"),
    ("meters.calls.delay", "40d", "is too long: 34d is the most"),
    ("meters.calls.delay", "-5m", "is not a duration"),
    ("meters.calls.every", "0s", "is too short: 1s is the least"),
    ("ledger.lease", "4s", "is too short: 5s is the least"),
    ("sources.app.statement_timeout", "60", "has no unit"),
    # Points in time.
    (
        "meters.calls.start_at",
        None,
        "is missing, and has no default because nothing before it is ever billed",
    ),
    (
        "meters.calls.start_at",
        "2026-11-01T00:00",
        "has no time zone, and guessing one would bill the wrong hours",
    ),
    ("meters.calls.start_at", "2026-11-01", "has no time zone"),
    ("meters.calls.start_at", "2026-11-01 00:00:00", "has no time zone"),
    ("meters.calls.start_at", "1st of May", "is not a point in time: write it with its zone"),
    ("meters.calls.start_at", "1793491200", "must be a point in time: write it with its zone"),
    ("meters.calls.start_at", "0001-01-01T00:00+05:00", "must lie between the years 2000 and 3000"),
    (
        "meters.calls.start_at",
        "2026-11-01T00:30Z",
        "in UTC; the nearest to it are `2026-11-01T00:00Z` and `2026-11-01T01:00Z`",
    ),
    ("meters.calls.start_at", "2026-11-01T00:00+05:30", "are `2026-10-31T18:00Z` and `2026-10-31T19:00Z`"),
    # Text, numbers, lists, choices.
    ("meters.calls.source", "12", "must be text, but YAML reads 12 as a whole number: put it in quotes"),
    (
        "meters.calls.description",
        "true",
        "must be text, but YAML reads true as true or false: put it in quotes",
    ),
    ("meters.calls.description", "1.10", "must be text, but YAML reads 1.1 as a number with a fraction"),
    ("meters.calls.sinks", "stripe", "must be a list, but is text: write, for example, `sinks: [stripe]`"),
    ("meters.calls.sinks", "[12]", "must be text, but YAML reads 12 as a whole number: put it in quotes"),
    ("meters.calls.sinks", "[strip]", "there is no `strip` under `sinks:`: did you mean `stripe`?"),
    ("meters.calls.sinks", "[[stripe]]", "must be text, but is a list"),
    ("meters.calls.sinks", "[]", "must not be empty: name at least one"),
    ("meters.calls.sinks", "[stripe, stripe]", "names the same sink twice"),
    ("meters.calls.sinks", "[stripe, {sink: stripe, shadow: true}]", "names the same sink twice"),
    (
        "meters.calls.decimals",
        "'2'",
        "must be a whole number, but is text: write, for example, `decimals: 0`",
    ),
    ("meters.calls.decimals", "13", "is too large: 12 is the most"),
    ("meters.calls.decimals", "-1", "is too small: 0 is the least"),
    ("meters.calls.decimals", "true", "must be a whole number, but is true or false"),
    ("meters.calls.decreases", "maybe", "must be `hold`, `apply` or `cancel`"),
    ("meters.calls.read", "cursors", "must be `windows`, `deltas`, `counters` or `gauges`"),
    ("meters.calls.stripe", "calls", "must be a mapping of keys, but is text"),
    ("meters.calls.stripe.event_name", "''", "must not be empty"),
    ("meters.calls.stripe.event_name", "e" * 101, "is too long: 100 characters are the most"),
    ("meters.calls.stripe.value_key", "stripe_customer_id", "is the same as `customer_key`"),
    ("meters.calls.stripe.formula", "count", "counts each event as one, and ours are summaries"),
    (
        "meters.calls.stripe",
        "{event_time_window: day}",
        "several windows of this meter would replace each other",
    ),
    ("meters.calls.cron", "'* * * *'", "must be five fields"),
    ("meters.calls.cron", "'* * * * ;'", "must be five fields"),
    ("ledger.migrate", "'no'", "must be `true` or `false`, but is text: write, for example, `migrate: true`"),
    ("ledger.migrate", "no", "must be `true` or `false`, but is text"),
    ("sinks.stripe.rate_limit", "0", "is too small: 1 is the least"),
    ("sinks.stripe.max_in_flight", "0", "is too small: 1 is the least"),
    ("sinks.stripe.type", "paypal", "must be `stripe`, `metronome`, `csv`, `directory` or `s3`"),
    ("sinks.stripe.type", None, "is missing: write, for example, `type: stripe`"),
    ("state_dir", "3", "must be text, the path of a directory"),
    ("include", "meters/*.yaml", "must be a list: write, for example, `include: [meters/*.yaml]`"),
    ("defaults", "1h", "must be a mapping of keys"),
    ("meters.storage", "1h", "must be a mapping of keys, indented below its name"),
    # Names.
    ("meters.calls.source", "apq", "there is no `apq` under `sources:`: did you mean `app`?"),
    ("meters.calls.source", "billing_2", "add it, or name one that is there (there are app)"),
    ("meters.calls.sink", "stripe", "is not a known key: did you mean `sinks`?"),
    (
        "meters.calls.colour",
        "red",
        "is not a known key: remove it; the keys here are description, renamed_from, source",
    ),
    ("meters.calls.name", "calls", "is not a known key"),
    ("meters.calls.stripe.event", "calls", "is not a known key: did you mean `event_name`?"),
    ("metres", "{}", "is not a known key: did you mean `meters`?"),
    ("sources.app.accepts", "[all]", "must be `several_states` or `unproven_bounds`"),
    (
        "sources.app.accepts",
        "several_states",
        "must be a list, but is text: write, for example, `accepts: [several_states]`",
    ),
    ("sources.app.timezone", "Europe/Paris", "convert in the query, such as `created_at at time zone"),
    # Addresses and modes.
    ("sources.app.url", "app.db", "must be an SQLAlchemy URL"),
    ("sources.app.url", "''", "is empty: give an SQLAlchemy URL"),
    ("sources.app.url", None, "is missing: give `url`, or `url_file` with the path of a file that holds it"),
    ("ledger.url", "sqlite:///ledger.db", "must begin with `postgresql://`: the ledger lives in Postgres"),
    ("sinks.stripe.api_key", "pk_live_1", "must be a Stripe secret key"),
    ("sinks.stripe.api_key", "'sk_test_1 '", "must be a Stripe secret key"),
    (
        "sinks.stripe.mode",
        None,
        "is missing, and has no default because it decides whether customers are billed",
    ),
    (
        "sinks.stripe.mode",
        "live",
        "is `live`, but the key is a test key: use a live key, or write `mode: test`",
    ),
    ("sinks.stripe.mode", "sandbox", "must be `live` or `test`"),
    ("sinks.stripe.api_base", "http://api.example.com", "would send the key unencrypted: use https"),
    ("sinks.stripe.api_base", "ftp://127.0.0.1", "must be an address such as"),
    ("sinks.stripe.api_base", "http://127.0.0.1:port", "must be an address such as"),
    ("sinks.stripe.api_base", "https://me:pw@example.com", "remove the user, password"),
    # Variables.
    ("sources.app.url", "${UNSET}", "needs the environment variable UNSET, which is not set: set it"),
    ("meters.calls.source", "${UNSET}", "needs the environment variable UNSET"),
    ("sources.app.url", "${DB:-x}", "has a `${...}` that is no variable: write `${NAME}`"),
    ("sinks.stripe.mode", "${DB}", "must be `live` or `test`"),
    # YAML that means more than it says.
    ("meters.calls.description", "!!python/object:os.system ls", "has a YAML tag: remove the word"),
    ("meters.calls.sinks", "!local [stripe]", "has a YAML tag: remove the word"),
    ("meters.calls.sinks", "&me [*me]", "contains itself"),
]


@pytest.mark.parametrize(("key", "value", "message"), MISTAKES)
def test_a_mistake_is_named_with_its_line_and_its_remedy(
    tmp_path: Path, key: str, value: str | None, message: str
) -> None:
    """One wrong value gives one complaint, at its line and path, that says what to do."""
    text = written({"sources.app.statement_timeout": "60s", key: value})

    found = [line for line in complaints(tmp_path, text) if f": {key}: " in line or f": {key}[0]: " in line]

    assert len(found) == 1, complaints(tmp_path, text)
    assert message in found[0]
    assert found[0].startswith(f"{line_of(text, key)}: ")


def test_one_mistake_gives_one_complaint(tmp_path: Path) -> None:
    """A mistake does not echo: no second complaint about what follows from it."""
    echoing = {"sources.app.url": "${UNSET}", "meters.calls.window": "", "sinks.stripe.api_key": "wrong"}
    for key, value in echoing.items():
        assert len(complaints(tmp_path, written({key: value}))) == 1
    nameless = written({}).replace("app:\n    url: ${DB}", "app:")
    assert complaints(tmp_path, nameless) == [
        "14: sources.app: has no value: give it one, or remove the line"
    ]


def test_all_mistakes_at_once_in_order(tmp_path: Path) -> None:
    """Whatever is wrong is said at once, sorted by line."""
    found = complaints(
        tmp_path,
        """\
state_dirr: x
sources:
  app:
    url: nope
sinks:
  stripe:
    type: stripe
    api_key: ${KEY}
meters:
  calls:
    source: apq
    sinks: [stripe]
    window: 60
    window: 1h
    start_at: 2026-11-01
    every: 5m
    cron: "* * * * *"
    query: delete from used where at >= :start and at < :end
  Calls:
    start_at: 2026-11-01T00:00Z
    query: select 1 where :start < :end
""",
    )

    assert [": ".join(line.split(": ")[:2]) for line in found] == [
        "1: state_dirr",
        "4: sources.app.url",
        "6: sinks.stripe.mode",
        "11: meters.calls.source",
        "13: meters.calls.window",
        "14: meters.calls.window",
        "15: meters.calls.start_at",
        "17: meters.calls.cron",
        "18: meters.calls.query",
        "19: meters.Calls",
        "19: meters.Calls.source",
        "19: meters.Calls.window",
        "19: meters.Calls.sinks",
    ]
    assert found[5] == "14: meters.calls.window: is given twice, first on line 13: remove one of them"
    assert "and `every` are both given: keep the one that says when to read" in found[7]
    assert "is not a usable name: take small letters, digits and _" in found[9]


BROKEN = [
    ("sources: a: b", "1: is not valid YAML: a `:` too many, or wrong indentation"),
    ("sources:\n\tapp: 1", "2: is not valid YAML: a tab: indent with spaces"),
    ("sources:\n  a: 1\n b: 2", "3: is not valid YAML: the indentation does not fit the lines above"),
    ("sources: {app: ${DB}}", "1: is not valid YAML: a bracket that is not closed: put text with"),
    ("sources: 'x", "1: is not valid YAML: a quote that is not closed"),
    ("sources: *x", "1: is not valid YAML: an alias `*name` has no anchor `&name` before it"),
    ("a: 1\n---\nb: 2", "2: is not valid YAML: there must be one document only"),
    ("sources: @x", "1: is not valid YAML: text that starts with a special character: put it in quotes"),
    ("? {a: 1", "1: is not valid YAML: "),
    ("a: \x01", "holds a character that YAML does not allow"),
    ("%YAML 1.1\n---\na: no", "1: asks for an old YAML, in which `no` is false: remove the `%YAML` line"),
    ("[" * 700, "1: is nested too deeply"),
    ("", "is empty: write a configuration, or let `aggregator init` write one to start from"),
    ("# only a comment", "is empty"),
    ("- meters", "1: must be a mapping of keys such as `sources:` and `meters:`"),
    ("12: x", "1: has a key that is not text: put the key in quotes"),
    ("[a]: x", "1: has a key that is not text: put the key in quotes"),
    ("sources: {}", "1: meters: there is nothing to bill: add a meter"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str, message: str) -> None:
    """A file that cannot be read says on which line, and what to do; never in the parser's words."""
    assert complaints(tmp_path, text)[0].startswith(message)


def test_there_is_no_file(tmp_path: Path) -> None:
    """A missing file is one problem, and the way out is `aggregator init`."""
    with pytest.raises(
        ConfigError, match="there is no such file: write one with `aggregator init`"
    ) as caught:
        load(tmp_path / "none.yaml", {})
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe", "is not UTF-8 text"), (b"#" * 1_000_001, "is longer than 1,000,000 bytes")],
)
def test_a_file_that_is_no_text(tmp_path: Path, content: bytes, message: str) -> None:
    """Bytes that are no text, or too many of them, are refused by name."""
    path = tmp_path / "aggregator.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load(path, {})


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    """A directory in place of the file says so."""
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        load(tmp_path, {})


def test_yaml_1_2_reads_what_it_says(tmp_path: Path) -> None:
    """`no` and `10:00` are text, not false and 600; anchors and merge keys work; the last anchor counts."""
    path = tmp_path / "aggregator.yaml"
    path.write_text(
        f"""\
sources: {{app: {{url: "${{DB}}"}}}}
sinks: {{stripe: {{type: stripe, api_key: "${{KEY}}", mode: test}}}}
meters:
  calls: &calls
    source: app
    sinks: &to [stripe]
    window: 1h
    start_at: &at 2026-11-01T00:00Z
    description: no
    query: {QUERY}
  other:
    <<: *calls
    sinks: *to
    start_at: &at 2026-11-02T00:00Z
    description: 10:00
"""
    )
    config = load(path, ENV)

    assert config.meter("calls").description == "no"
    assert config.meter("other").description == "10:00"
    assert config.meter("other").start_at.day == 2
    assert config.meter("other").window == config.meter("calls").window


def test_an_alias_bomb_is_refused_where_it_grows(tmp_path: Path) -> None:
    """Aliases of aliases of aliases do not grow in memory: the line on which they become too many is named."""
    levels = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40))
    found = complaints(tmp_path, f"a0: &a0 [x]\n{levels}")
    assert found == ["7: holds aliases that unfold to more than anybody can have meant: write them out"]


def test_a_variable_cannot_become_yaml(tmp_path: Path) -> None:
    """What looks like YAML in the environment stays text."""
    env = ENV | {"TEXT": "x\nmeters: {}\n  - [1"}
    assert (
        loaded(tmp_path, {"meters.calls.description": "${TEXT}"}, env).meter("calls").description
        == env["TEXT"]
    )


def test_a_query_is_taken_literally(tmp_path: Path) -> None:
    """`${VAR}` in a query is left alone, set or not."""
    query = f"{QUERY} and plan = '${{DB}}'"
    assert loaded(tmp_path, {"meters.calls.query": query}).meter("calls").query_text == query


def test_the_same_event_name_in_the_same_sink(tmp_path: Path) -> None:
    """Two meters that send one event name to one sink would be added up; the complaint names both."""
    twin: Changes = {key.replace("calls", "twin"): value for key, value in RIGHT.items() if "calls" in key}
    found = complaints(tmp_path, written(twin | {"meters.twin.stripe.event_name": "calls"}))

    assert len(found) == 1
    assert "meters.twin.stripe.event_name: sends the same event name as meter `calls`" in found[0]
    assert "aggregator.yaml:2" in found[0]


def test_the_same_event_name_where_the_newest_event_counts(tmp_path: Path) -> None:
    """There one would replace the other, which is no better."""
    twin: Changes = {key.replace("calls", "twin"): value for key, value in RIGHT.items() if "calls" in key}
    hourly: Changes = {f"meters.{name}.stripe.event_time_window": "hour" for name in ("calls", "twin")}
    found = complaints(tmp_path, written(twin | hourly | {"meters.twin.stripe.event_name": "calls"}))

    assert len(found) == 1
    assert "or let one replace the other: give one of them another event name" in found[0]


def test_the_same_event_name_in_two_sinks_is_right(tmp_path: Path) -> None:
    """One event name may go to two sinks from two meters: nothing is added up."""
    changes = {key.replace("calls", "twin"): value for key, value in RIGHT.items() if "calls" in key}
    changes |= {
        key.replace("sinks.stripe", "sinks.other"): RIGHT[key] for key in RIGHT if key.startswith("sinks")
    }
    changes |= {"meters.twin.stripe.event_name": "calls", "meters.twin.sinks": "[other]"}
    assert loaded(tmp_path, dict(changes)).meter("twin").stripe.event_name == "calls"


def test_an_unknown_meter_is_the_callers_mistake(tmp_path: Path) -> None:
    """Asking for a meter that is not there names the one that may have been meant."""
    config = loaded(tmp_path)
    with pytest.raises(UsageError, match=r"there is no meter cals; did you mean calls\?"):
        config.meter("cals")
    with pytest.raises(UsageError, match="the meters are: calls"):
        config.meter("xyz")


LOCAL = "http://127.0.0.1:12111"


@pytest.mark.parametrize(
    ("mode", "more", "calls", "stream"),
    [
        ("live", {}, 1_000, (10_000, True)),
        ("test", {}, 25, (25, False)),
        ("test", {"rate_limit": 7}, 7, (7, True)),
        ("live", {"accounts": "by_customer"}, 100, (100, False)),
        ("test", {"api_base": LOCAL}, 10_000, (10_000, True)),
        ("live", {"api_base": "http://[::1]:1"}, 10_000, (10_000, True)),
        ("test", {"api_base": "https://localhost:1", "stripe_account": "acct_1"}, 10_000, (10_000, True)),
        ("test", {"api_base": LOCAL, "rate_limit": 7}, 7, (7, True)),
        ("test", {"api_base": "https://127.0.0.1.example.com"}, 25, (25, False)),
        ("test", {"api_base": "https://stripe.internal"}, 25, (25, False)),
    ],
)
def test_calls_per_second(mode: str, more: dict[str, object], calls: int, stream: tuple[int, bool]) -> None:
    """Without a rate of its own, a sink calls as often as Stripe allows in its mode; on this machine as often as it can."""
    sink = StripeSink.model_validate({"type": "stripe", "api_key": f"sk_{mode}_1", "mode": mode, **more})
    assert sink.calls_per_second == calls
    assert (sink.stream_per_second, sink.stream_by_event) == stream


@pytest.mark.parametrize(
    ("keys", "calls", "stream", "by_event"),
    [
        ({"mode": "live"}, 1000, 10_000, True),
        ({"mode": "test"}, 25, 25, False),
        ({"mode": "live", "stripe_account": "acct_1"}, 100, 100, False),
        ({"mode": "live", "accounts": "by_customer"}, 100, 100, False),
        ({"mode": "test", "accounts": "by_customer"}, 25, 25, False),
        ({"mode": "test", "rate_limit": 500}, 500, 500, True),
        ({"mode": "live", "accounts": "by_customer", "rate_limit": 300}, 300, 300, True),
    ],
)
def test_rates_of_each_way(keys: dict[str, object], calls: int, stream: int, by_event: bool) -> None:
    """What Stripe allows by mode and kind of account; a rate that is given counts the stream's events."""
    sink = StripeSink.model_validate({"type": "stripe", "api_key": f"sk_{keys['mode']}_1", **keys})
    assert (sink.calls_per_second, sink.stream_per_second, sink.stream_by_event) == (calls, stream, by_event)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"transport": "v3"}, "sinks.stripe.transport"),
        ({"transport": "stream", "stream_above": 5}, "is for `transport: auto` only"),
        ({"stripe_account": "cus_1"}, "sinks.stripe.stripe_account"),
        ({"accounts": "by_meter"}, "sinks.stripe.accounts"),
        ({"stripe_account": "acct_1", "accounts": "by_customer"}, "exclude one another"),
        ({"transport": "auto", "stream_above": 0}, "sinks.stripe.stream_above"),
    ],
)
def test_ways_that_cannot_be_meant(tmp_path: Path, keys: dict[str, object], message: str) -> None:
    """Each is refused at its line, with what to do."""
    changes: dict[str, str | None] = {f"sinks.stripe.{key}": str(value) for key, value in keys.items()}
    with pytest.raises(ConfigError, match=message):
        loaded(tmp_path, changes)


METER = {
    "name": "calls",
    "source": "app",
    "sinks": ["stripe"],
    "window": "1h",
    "start_at": dt.datetime(2026, 11, 1, tzinfo=dt.UTC),
    "query": QUERY,
}
SAME_NUMBERS: list[dict[str, object]] = [
    {"query": f"{QUERY}  \n;\n"},
    {"query": f"{QUERY}\n\n"},
    {"start_at": "2026-12-01T00:00Z"},
    {"delay": "1h", "every": "1m", "sinks": ["other"], "name": "other"},
]
OTHER_NUMBERS: list[dict[str, object]] = [
    {"query": f"{QUERY} and paid"},
    {"window": "2h"},
    {"decimals": 1},
]


@pytest.mark.parametrize("change", SAME_NUMBERS)
def test_the_fingerprint_stays(change: dict[str, object]) -> None:
    """White space at line ends, the start and the timing do not change what the numbers are."""
    assert fingerprint(Meter.model_validate(METER | change)) == fingerprint(Meter.model_validate(METER))


@pytest.mark.parametrize("change", OTHER_NUMBERS)
def test_the_fingerprint_changes(change: dict[str, object]) -> None:
    """Another query, window or precision is another definition."""
    assert fingerprint(Meter.model_validate(METER | change)) != fingerprint(Meter.model_validate(METER))


def test_the_starter_is_right(tmp_path: Path) -> None:
    """What `aggregator init` writes loads as soon as its variables are set."""
    path = tmp_path / "aggregator.yaml"
    path.write_text(starter())
    env = {"APP_DATABASE_URL": "sqlite:///app.db", "STRIPE_API_KEY": "sk_test_1"}
    config = load(path, env)
    assert list(config.meters) == ["api_requests"]
    assert config.meter("api_requests").stripe.event_time_window == "hour", (
        "what is recommended is what it says"
    )


def test_the_starter_begins_when_it_is_told_to() -> None:
    """Nothing else differs: a fixed day would have people bill months that nobody meant, or that Stripe no longer takes."""
    begun = starter(start_at=dt.datetime(2027, 3, 1, tzinfo=dt.UTC))
    assert "    start_at: 2027-03-01T00:00Z   # nothing before" in begun
    assert begun.replace("2027-03-01", "2026-11-01") == starter()


def test_the_starter_can_name_its_schema() -> None:
    """The line that makes an editor complete keys comes first, when asked for."""
    assert starter("x.json").startswith("# yaml-language-server: $schema=x.json\n")
    assert "$schema" not in starter()


def test_what_replaces_is_not_cancelled(tmp_path: Path) -> None:
    """What would come back is not documented; a lower total takes the higher one's place by itself."""
    text = written({"meters.calls.decreases": "cancel", "meters.calls.stripe": "{event_time_window: hour}"})
    (found,) = complaints(tmp_path, text)
    assert "meters.calls.stripe: says that its events replace each other" in found
    assert "use `decreases: apply`" in found


def test_only_stripe_bills_by_the_last_number(tmp_path: Path) -> None:
    """Elsewhere nothing keeps a customer's windows in order, and the last number would not be the newest."""
    text = written(
        {"meters.calls.stripe": "{formula: last}", "sinks.stripe": "{type: directory, directory: out}"}
    )
    assert any(
        "`stripe.formula: last` needs one of type stripe" in line for line in complaints(tmp_path, text)
    )
