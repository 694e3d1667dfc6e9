"""A secret, wherever somebody puts it, in; no word of it out."""

import traceback
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aggregator.config import StripeSink, load
from aggregator.errors import ConfigError

CANARY = "Kanar1envogel"
SECRETS = [
    f"sk_live_{CANARY}",
    f"rk_test_{CANARY}",
    f"postgresql://app:{CANARY}@db.internal/app",
    f"host=db password={CANARY}",
]
TEMPLATE = {
    "state_dir": "state",
    "include": "[]",
    "ledger": "{{url: postgresql://ledger}}",
    "sources": "{{app: {source}}}",
    "sinks": "{{stripe: {sink}}}",
    "defaults": "{{window: 1h}}",
    "meters": "{{calls: {meter}, more: {{source: app}}}}",
}
BLOCKS = {
    "source": {"url": "sqlite://", "statement_timeout": "1m", "timezone": "UTC"},
    "sink": {"type": "stripe", "api_key": "sk_test_1", "mode": "test", "api_base": "https://x.example"},
    "meter": {
        "source": "app",
        "sinks": "[stripe]",
        "window": "1h",
        "start_at": "2026-11-01T00:00Z",
        "cron": "'* * * * *'",
        "decimals": "0",
        "decreases": "hold",
        "description": "x",
        "stripe": "{event_name: calls}",
        "query": "select 1 where :start < :end",
    },
}
FILE_KEYS = {"source": ["url_file"], "sink": ["api_key_file"], "meter": ["query_file", "unknown"]}
PLACES = [(block, key) for block in BLOCKS for key in [*BLOCKS[block], *FILE_KEYS[block]]]
PLACES += [("", key) for key in TEMPLATE]
SHAPES = [
    '"{0}"',
    "'{0}'",
    "{0}",
    "[{0}]",
    "['{0}', '{0}']",
    "{{{0}}}",
    "{{'{0}': 1}}",
    "{{'{0}': '{0}', '{0}': 2}}",
    "{{x: {{'{0}': }}}}",
    '"{0}',
    "*{0}",
    "!{0} x",
    "&{0} [*{0}]",
    "!!{0} [x]",
    "${{{0}}}",
    "$${{{0}}}",
    "@{0}",
    "{0}: {0}",
    "60 {0}",
    "2026-11-01T00:00 {0}",
]


def written(block: str, key: str, value: str) -> str:
    """The template, with one value (`block.key`, or a whole block) replaced."""
    filled = {
        name: "{"
        + ", ".join(f"{k}: {v}" for k, v in (keys | ({key: value} if name == block else {})).items())
        + "}"
        for name, keys in BLOCKS.items()
    }
    top = {name: text.format(**filled) for name, text in TEMPLATE.items()}
    return "".join(f"{name}: {text}\n" for name, text in (top | ({} if block else {key: value})).items())


def told(path: Path, env: dict[str, str]) -> str:
    """Everything anybody could see of loading this file."""
    try:
        config = load(path, env)
    except ConfigError as error:
        return "".join([str(error), repr(error), repr(error.problems), *traceback.format_exception(error)])
    return repr(config) + config.model_dump_json()


@given(
    place=st.sampled_from(PLACES),
    shape=st.sampled_from(SHAPES),
    secret=st.sampled_from(SECRETS),
    by_environment=st.booleans(),
)
@example(place=("sink", "mode"), shape="{0}", secret=SECRETS[0], by_environment=True)
@example(place=("meter", "source"), shape="{0}", secret=SECRETS[0], by_environment=False)
@example(place=("source", "url"), shape="{{{0}}}", secret=SECRETS[2], by_environment=False)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_no_secret_is_ever_told(
    tmp_path: Path, place: tuple[str, str], shape: str, secret: str, *, by_environment: bool
) -> None:
    """A secret in any place and any shape, right or wrong, literal or by variable, is in no error text."""
    path = tmp_path / "aggregator.yaml"
    path.write_text(written(*place, shape.format("${SECRET}" if by_environment else secret)))

    # The meter `more` lacks its keys, so this never loads: what is looked at is always an error.
    assert CANARY not in told(path, {"SECRET": secret})


@given(
    place=st.sampled_from(PLACES),
    value=st.sampled_from([CANARY, CANARY.lower(), f" {CANARY}", f"{CANARY}\n"]),
)
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_the_environment_is_never_told(tmp_path: Path, place: tuple[str, str], value: str) -> None:
    """Whatever a variable holds, even if it looks like a plain name, no error repeats it."""
    path = tmp_path / "aggregator.yaml"
    path.write_text(written(*place, '"${SECRET}"'))
    assert CANARY.lower() not in told(path, {"SECRET": value}).lower()


@pytest.mark.parametrize("filed", [True, False])
def test_a_configuration_hides_its_secrets(tmp_path: Path, *, filed: bool) -> None:
    """Neither repr nor str nor JSON of a configuration shows a secret; only asking for it does."""
    (tmp_path / "url").write_text(f"postgresql://app:{CANARY}@db/app\n")
    (tmp_path / "key").write_text(f"sk_live_{CANARY}\n")
    path = tmp_path / "aggregator.yaml"
    url, key = ("url_file: url", "api_key_file: key") if filed else ('url: "${URL}"', 'api_key: "${KEY}"')
    path.write_text(
        f"ledger: {{{url}}}\nsources: {{app: {{{url}}}}}\n"
        f"sinks: {{stripe: {{type: stripe, {key}, mode: live}}}}\n"
        "meters: {calls: {source: app, sinks: [stripe], window: 1h, start_at: 2026-11-01T00:00Z, "
        "query: select 1 where :start < :end}}\n"
    )
    env = {"URL": f"postgresql://app:{CANARY}@db/app", "KEY": f"sk_live_{CANARY}"}
    config = load(path, env)

    shown = [repr(config), str(config), config.model_dump_json(), repr(config.model_dump())]
    shown += [repr(each) for each in (config.ledger, config.sources["app"], config.sinks["stripe"])]
    assert CANARY not in "".join(shown)
    assert config.ledger.url_revealed() == config.sources["app"].url_revealed() == env["URL"]
    sink = config.sinks["stripe"]
    assert isinstance(sink, StripeSink)
    assert sink.api_key_revealed() == env["KEY"]
