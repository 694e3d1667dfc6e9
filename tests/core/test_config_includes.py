"""Several files in, one configuration out: `include:`, `defaults:` and the files that hold secrets and queries."""

import datetime as dt
from pathlib import Path

import pytest

from aggregator.config import Config, StripeSink, load
from aggregator.errors import ConfigError

BASE = """\
sources:
  app: {url: "sqlite:///app.db"}
sinks:
  stripe: {type: stripe, api_key: sk_test_1, mode: test}
"""
QUERY = "query: select 1 where a >= :start and a < :end"
METER = f"""\
  {{name}}:
    source: app
    sinks: [stripe]
    window: 1h
    start_at: 2026-11-01T00:00Z
    {QUERY}
"""


def meter(name: str) -> str:
    return METER.format(name=name)


def bare(name: str, *lines: str) -> str:
    return "\n    ".join([f"  {name}:", *lines, QUERY]) + "\n"


def put(directory: Path, files: dict[str, str]) -> Path:
    """Write the files; the first one is the top file."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory / next(iter(files))


def loaded(directory: Path, files: dict[str, str], env: dict[str, str] | None = None) -> Config:
    return load(put(directory, files), env or {})


def complaints(directory: Path, files: dict[str, str], env: dict[str, str] | None = None) -> list[str]:
    """What is said, `file:line: path: message`, files relative to the directory."""
    with pytest.raises(ConfigError) as caught:
        loaded(directory, files, env)
    return str(caught.value).replace(f"{directory}/", "").splitlines()


def test_files_are_put_together(tmp_path: Path) -> None:
    """Paths and patterns are relative to the file that names them; included files include on."""
    config = loaded(
        tmp_path,
        {
            "top.yaml": f"include: [meters/*.yaml, '{tmp_path}/far/*.yaml']\nmeters:\n{meter('a')}",
            "meters/b.yaml": f"meters:\n{meter('b')}",
            "meters/c.yaml": f"include: [../base.yaml]\nmeters:\n{meter('c')}",
            "base.yaml": BASE,
            "far/d.yaml": f"meters:\n{meter('d')}",
        },
    )
    assert list(config.meters) == ["a", "b", "c", "d"]
    assert config.state_dir == tmp_path / ".aggregator"


WRONG_FILES: list[tuple[dict[str, str], list[str]]] = [
    (
        {"top.yaml": f"include: [none/*.yaml]\n{BASE}meters:\n{meter('a')}"},
        ["top.yaml:1: include[0]: no file matches none/*.yaml: correct the path"],
    ),
    (
        {"top.yaml": f"include: [top.yaml]\n{BASE}meters:\n{meter('a')}"},
        ["top.yaml:1: include[0]: leads back to top.yaml, which includes this file"],
    ),
    (
        {
            "top.yaml": f"include: [b.yaml]\n{BASE}meters:\n{meter('a')}",
            "b.yaml": "include: [c.yaml]",
            "c.yaml": "sources: {}\ninclude:\n  - b.yaml",
        },
        ["c.yaml:3: include[0]: leads back to b.yaml"],
    ),
    (
        {"top.yaml": f"include: [b.yaml, ./b.*]\n{BASE}meters:\n{meter('a')}", "b.yaml": "sources: {}"},
        ["top.yaml:1: include[1]: includes b.yaml for the second time"],
    ),
    (
        {"top.yaml": f"include: [b.yaml]\n{BASE}meters:\n{meter('a')}", "b.yaml": f"meters:\n{meter('a')}"},
        ["b.yaml:2: meters.a: is already given at top.yaml:7: rename or remove one of the two"],
    ),
    (
        {"top.yaml": f"include: [b.yaml]\n{BASE}meters:\n{meter('a')}", "b.yaml": "state_dir: x\nledger: {}"},
        [
            "b.yaml:1: state_dir: belongs in top.yaml only: move it there",
            "b.yaml:2: ledger: belongs in top.yaml only: move it there",
        ],
    ),
    (
        {"top.yaml": f"include: [b.yaml]\nmeters:\n{meter('a')}", "b.yaml": "sources: a: b"},
        ["b.yaml:1: is not valid YAML"],
    ),
    (
        {"top.yaml": f"include: [b.yaml]\n{BASE}meters: {{a: {{}}}}", "b.yaml": "defaults: {every: 1}\nx: y"},
        [
            "b.yaml:1: defaults.every: has no unit",
            "b.yaml:2: x: is not a known key",
            "top.yaml:6: meters.a.query: is missing",
            "top.yaml:6: meters.a.source: is missing",
            "top.yaml:6: meters.a.window: is missing",
            "top.yaml:6: meters.a.start_at: is missing",
            "top.yaml:6: meters.a.sinks: is missing",
        ],
    ),
]


@pytest.mark.parametrize(("files", "messages"), WRONG_FILES)
def test_files_that_do_not_fit_together(tmp_path: Path, files: dict[str, str], messages: list[str]) -> None:
    """Every mistake of every file, sorted, with the file it stands in."""
    found = complaints(tmp_path, files)
    assert len(found) == len(messages), found
    for line, message in zip(found, messages, strict=True):
        assert line.startswith(message)


DEFAULTS = "defaults: {source: app, sinks: [stripe], window: 1h, start_at: 2026-11-01T00:00Z}\n"


def test_defaults_fill_what_a_meter_leaves_out(tmp_path: Path) -> None:
    """A meter's own keys come first; `stripe` is filled key by key; `every` and `cron` replace one another."""
    config = loaded(
        tmp_path,
        {
            "top.yaml": BASE
            + DEFAULTS.replace("}", ", every: 5m, stripe: {customer_key: customer, value_key: v}}")
            + "meters:\n"
            + bare("a")
            + bare("b", "window: 1d", "cron: '0 6 * * *'", "stripe: {value_key: w}")
        },
    )
    a, b = config.meter("a"), config.meter("b")
    assert (a.window, a.every, a.cron) == (dt.timedelta(hours=1), dt.timedelta(minutes=5), None)
    assert (b.window, b.every, b.cron) == (dt.timedelta(days=1), None, "0 6 * * *")
    assert (a.stripe.event_name, a.stripe.customer_key, a.stripe.value_key) == ("a", "customer", "v")
    assert (b.stripe.event_name, b.stripe.customer_key, b.stripe.value_key) == ("b", "customer", "w")


def test_whose_defaults_apply(tmp_path: Path) -> None:
    """The top file's defaults reach included files that have none of their own, and only those."""
    config = loaded(
        tmp_path,
        {
            "top.yaml": f"include: [b.yaml, c.yaml]\n{BASE}{DEFAULTS}meters:\n{bare('a')}",
            "b.yaml": f"meters:\n{bare('b')}",
            "c.yaml": DEFAULTS.replace("1h", "1d") + f"meters:\n{bare('c')}",
        },
    )
    assert [str(config.meter(name).window) for name in "abc"] == ["1:00:00", "1:00:00", "1 day, 0:00:00"]


def test_mistakes_in_defaults_are_named_once(tmp_path: Path) -> None:
    """A wrong default is one complaint, not one per meter; a clash with a meter is that meter's, at the default."""
    meters = "meters:\n" + bare("a") + bare("b", "window: 1d") + bare("c", "start_at: 2026-11-01T00:00Z")
    found = complaints(
        tmp_path,
        {
            "top.yaml": BASE
            + "defaults:\n  source: apq\n  sinks: [stripe]\n  window: 1h\n  start_at: 2026-11-01T01:00Z\n"
            + "  decimals: x\n  query: select 1\n  colour: red\n"
            + meters
        },
    )
    assert [line.split(": ")[:2] for line in found] == [
        ["top.yaml:6", "meters.a.source"],
        ["top.yaml:6", "meters.b.source"],
        ["top.yaml:6", "meters.c.source"],
        ["top.yaml:9", "meters.b.start_at"],
        ["top.yaml:10", "defaults.decimals"],
        ["top.yaml:11", "defaults.query"],
        ["top.yaml:12", "defaults.colour"],
    ]
    assert all("(it comes from `defaults`)" in line for line in found[:4])
    assert "each meter has its own" in found[5]


SECRETS = """\
ledger: {url_file: secret/ledger}
sources: {app: {url_file: secret/app}}
sinks: {stripe: {type: stripe, api_key_file: "${DIRECTORY}/key", mode: test}}
"""
FILED = {
    "top.yaml": f"{SECRETS}meters:\n{meter('a')}".replace(QUERY, "query_file: a.sql"),
    "secret/ledger": "postgresql://ledger\n",
    "secret/app": "sqlite:///app.db\r\n",
    "secret/key": "sk_test_1",
    "a.sql": "select 1 where a >= :start and a < :end;\n",
}


def test_secrets_and_queries_from_files(tmp_path: Path) -> None:
    """A `*_file` is relative to its file, and one newline at its end does not count."""
    config = loaded(tmp_path, FILED, {"DIRECTORY": str(tmp_path / "secret")})

    assert config.ledger.url_revealed() == "postgresql://ledger"
    assert config.sources["app"].url_revealed() == "sqlite:///app.db"
    sink = config.sinks["stripe"]
    assert isinstance(sink, StripeSink)
    assert sink.api_key_revealed() == "sk_test_1"
    assert config.meter("a").query_text == "select 1 where a >= :start and a < :end"


WRONG_SECRETS: list[tuple[dict[str, str], str]] = [
    ({"secret/app": ""}, "sources.app.url_file: names an empty file: put the url in it"),
    ({"secret/app": "\n"}, "sources.app.url_file: names an empty file"),
    ({"secret/app": "sqlite:///a\n\n"}, "sources.app.url_file: must be an SQLAlchemy URL"),
    (
        {"secret/app": "x" * 70_000},
        "sources.app.url_file: names a file that cannot be used, because it is longer",
    ),
    ({"secret/key": "sk_live_1"}, "sinks.stripe.mode: is `test`, but the key is a live key"),
    ({"secret/key": "hunter2"}, "sinks.stripe.api_key_file: must be a Stripe secret key"),
    ({"a.sql": "delete"}, "meters.a.query_file: must be one statement that starts with"),
    (
        {"top.yaml": FILED["top.yaml"].replace("secret/app", "secret/none")},
        "names a file that is not there: create it",
    ),
    (
        {"top.yaml": FILED["top.yaml"].replace("secret/app", "secret")},
        "names a file that cannot be read (Is a dir",
    ),
    (
        {"top.yaml": FILED["top.yaml"].replace("secret/app", "'sqlite:///app.db'")},
        "names a file that is not there: put it under `url` if it is no path",
    ),
    (
        {"top.yaml": FILED["top.yaml"].replace("secret/app", "7")},
        "sources.app.url_file: must be text, the path",
    ),
    (
        {"top.yaml": FILED["top.yaml"].replace("app: {", "app: {url: 'sqlite://', ")},
        "sources.app.url_file: and `url` are both given: keep one",
    ),
    (
        {"top.yaml": FILED["top.yaml"].replace("ledger: {", "ledger: {url: 'postgresql://x', ")},
        "ledger.url_file: and `url` are both given: keep one",
    ),
]


@pytest.mark.parametrize(("change", "message"), WRONG_SECRETS)
def test_files_that_hold_nothing_usable(tmp_path: Path, change: dict[str, str], message: str) -> None:
    """A missing, empty, too long or wrong file is one complaint, at the key that names it."""
    found = complaints(tmp_path, FILED | change, {"DIRECTORY": str(tmp_path / "secret")})
    assert len(found) == 1, found
    assert message in found[0]
