"""What lies in `config/` is right: every example loads, the schema is fresh, and both tell of every key."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from aggregator.config import json_schema, load, starter
from aggregator.config.block import Block

DIRECTORY = Path(__file__).parents[2] / "config"
SCHEMA_FILE = DIRECTORY / "aggregator.schema.json"
EXAMPLES = sorted(DIRECTORY.glob("*.yaml"))
PARTS = sorted(DIRECTORY.rglob("*.yaml"))
SCHEMA: dict[str, Any] = json_schema()

Schema = dict[str, Any]
TYPES: dict[str, Any] = {
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "array": list,
    "object": dict,
}


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """What the examples ask of the environment."""
    (tmp_path / "warehouse_url").write_text("postgresql://reader@warehouse/usage\n")
    (tmp_path / "stripe_test_key").write_text("sk_test_1\n")
    return {
        "APP_DATABASE_URL": "postgresql://reader@db/app",
        "LEDGER_URL": "postgresql://aggregator@db/ledger",
        "SANDBOX_URL": "http://127.0.0.1:12111",
        "STRIPE_API_KEY": "rk_live_1",
        "STRIPE_WEBHOOK_SECRET": "whsec_1",
        "METRONOME_TOKEN": "token",
        "START_AT": "2026-11-01T00:00Z",
        "CREDENTIALS_DIRECTORY": str(tmp_path),
    }


def plain(text: str) -> object:
    return YAML(typ="safe", pure=True).load(text)


def misfits(schema: Schema, value: object, path: str = "") -> list[str]:
    """Where a value breaks the schema; as much of JSON Schema as ours uses, and a KeyError for anything more."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")] | {"$ref": schema["$ref"]}
    found: list[str] = []
    for word, rule in schema.items():
        found += CHECKS[word](rule, value, path, schema)
    return found


def _type(rule: str, value: object, path: str, _: Schema) -> list[str]:
    fits = isinstance(value, TYPES[rule]) and not (rule in {"integer", "number"} and isinstance(value, bool))
    return [] if fits else [f"{path} is not {rule}"]


def _properties(rule: Schema, value: object, path: str, schema: Schema) -> list[str]:
    keys = value if isinstance(value, dict) else {}
    found = [each for key in keys if key in rule for each in misfits(rule[key], keys[key], f"{path}.{key}")]
    if schema.get("additionalProperties") is False:
        free = schema.get("patternProperties", {})
        found += [
            f"{path}.{key} is unknown"
            for key in keys
            if key not in rule and not any(re.search(pattern, key) for pattern in free)
        ]
    return found


def _values(rule: Schema | bool, value: object, path: str, _: Schema) -> list[str]:
    if isinstance(rule, bool) or not isinstance(value, dict):
        return []
    return [each for key, inner in value.items() for each in misfits(rule, inner, f"{path}.{key}")]


def _items(rule: Schema, value: object, path: str, _: Schema) -> list[str]:
    items = value if isinstance(value, list) else []
    return [each for n, item in enumerate(items) for each in misfits(rule, item, f"{path}[{n}]")]


def _choice(rule: list[Schema], value: object, path: str, _: Schema) -> list[str]:
    broken = [misfits(option, value, path) for option in rule]
    return [] if [] in broken else min(broken, key=len)


def _one(rule: list[Schema], value: object, path: str, schema: Schema) -> list[str]:
    fitting = sum(not misfits(option, value, path) for option in rule)
    return _choice(rule, value, path, schema) or (
        [] if fitting == 1 else [f"{path} fits {fitting} of the options"]
    )


CHECKS: dict[str, Any] = {
    **dict.fromkeys(
        (
            "$ref",
            "$schema",
            "$defs",
            "title",
            "$id",
            "description",
            "examples",
            "default",
            "discriminator",
            "format",
            "writeOnly",
            "patternProperties",
        ),
        lambda *_: [],
    ),
    "type": _type,
    "properties": _properties,
    "additionalProperties": _values,
    "items": _items,
    "anyOf": _choice,
    "oneOf": _one,
    "not": lambda rule, value, path, _: (
        [] if misfits(rule, value, path) else [f"{path} has keys that exclude one another"]
    ),
    "required": lambda rule, value, path, _: [f"{path}.{key} is missing" for key in rule if key not in value],
    "const": lambda rule, value, path, _: [] if value == rule else [f"{path} is not {rule}"],
    "enum": lambda rule, value, path, _: [] if value in rule else [f"{path} is not one of {rule}"],
    "pattern": lambda rule, value, path, _: [] if re.search(rule, str(value)) else [f"{path} does not match"],
    "propertyNames": lambda rule, value, path, _: [
        e for key in value for e in misfits(rule, key, f"{path}.{key}")
    ],
    "minimum": lambda rule, value, path, _: [] if value >= rule else [f"{path} is below {rule}"],
    "maximum": lambda rule, value, path, _: [] if value <= rule else [f"{path} is above {rule}"],
    "minLength": lambda rule, value, path, _: [] if len(value) >= rule else [f"{path} is too short"],
    "maxLength": lambda rule, value, path, _: [] if len(value) <= rule else [f"{path} is too long"],
    "minItems": lambda rule, value, path, _: [] if len(value) >= rule else [f"{path} has too few items"],
    "uniqueItems": lambda _, value, path, __: (
        [] if len({json.dumps(each) for each in value}) == len(value) else [f"{path} repeats an item"]
    ),
}


def blocks() -> dict[str, Schema]:
    """Every block of a file and its schema."""
    return {"": SCHEMA, **SCHEMA["$defs"]}


def test_the_schema_leaves_keys_for_anchors_alone() -> None:
    """What begins with `x-` at the top level may be anything; elsewhere, and under other names, it is unknown."""
    assert misfits(SCHEMA, {"x-shared": [1, {"y": None}]}) == []
    assert misfits(SCHEMA, {"xshared": 1}) == [".xshared is unknown"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_loads(path: Path, env: dict[str, str]) -> None:
    """Each example is a configuration that can be used as it is."""
    assert load(path, env).meters


@pytest.mark.parametrize("path", PARTS, ids=lambda path: path.name)
def test_every_example_fits_the_schema(path: Path) -> None:
    """An editor that knows the schema finds nothing wrong with an example."""
    assert misfits(SCHEMA, plain(path.read_text())) == []


def test_the_starter_fits_the_schema() -> None:
    """Nor with what `aggregator init` writes."""
    assert misfits(SCHEMA, plain(starter())) == []


@pytest.mark.parametrize("path", PARTS, ids=lambda path: path.name)
def test_every_example_names_the_schema(path: Path) -> None:
    """The first line leads an editor to the schema, from where the file lies."""
    first = path.read_text().splitlines()[0]
    reference = first.removeprefix("# yaml-language-server: $schema=")
    assert reference != first
    assert (path.parent / reference).resolve() == SCHEMA_FILE


def test_the_schema_is_fresh() -> None:
    """The copy that editors read is what the models say."""
    remedy = "config/aggregator.schema.json is stale: run `aggregator schema > config/aggregator.schema.json`"
    assert json.loads(SCHEMA_FILE.read_text()) == SCHEMA, remedy


WRONG = [
    ("state_dirr: x", ".state_dirr is unknown"),
    ("sources: {App: {url: x}}", ".sources.App does not match"),
    ("sources: {app: {}}", ".sources.app.url is missing"),
    ("sources: {app: {url: x, url_file: y}}", ".sources.app fits 2 of the options"),
    ("sources: {app: {url: x, statement_timeout: 60}}", ".sources.app.statement_timeout is not string"),
    ("sources: {app: {url: x, statement_timeout: 5 m}}", ".sources.app.statement_timeout does not match"),
    ("sources: {app: {url: x, timezone: CET}}", ".sources.app.timezone is not UTC"),
    ("sinks: {s: {type: stripe, api_key: x}}", ".sinks.s.mode is missing"),
    ("sinks: {s: {type: paypal, api_key: x, mode: test}}", ".sinks.s.type is not stripe"),
    ("sinks: {s: {type: metronome, api_key: x}}", ".sinks.s.quantity_encoding is missing"),
    (
        "sinks: {s: {type: metronome, api_key: x, quantity_encoding: float}}",
        ".sinks.s.quantity_encoding is not one of ['text', 'number']",
    ),
    ("meters: {m: {query: x, metronome: {type: x}}}", ".meters.m.metronome.type is unknown"),
    ("sinks: {s: {type: stripe, api_key: x, mode: on}}", ".sinks.s.mode is not one of ['live', 'test']"),
    ("sinks: {s: {type: csv}}", ".sinks.s.directory is missing"),
    ("sinks: {s: {type: csv, directory: x, max_bytes: 9}}", ".sinks.s.max_bytes is below 10000"),
    (
        "sinks: {s: {type: s3, bucket: acme, format: xml}}",
        ".sinks.s.format is not one of ['jsonl', 'csv', 'json']",
    ),
    (
        "sinks: {s: {type: s3, bucket: acme, access_key_id: x, access_key_id_file: y}}",
        ".sinks.s has keys that exclude one another",
    ),
    ("meters: {m: {window: 1h}}", ".meters.m.query is missing"),
    ("meters: {m: {query: x, start_at: 2026-11-01}}", ".meters.m.start_at is not string"),
    ("meters: {m: {query: x, name: m}}", ".meters.m.name is unknown"),
    ("meters: {m: {query: x, every: 5m, cron: x}}", ".meters.m has keys that exclude one another"),
    ("meters: {m: {query: x, stripe: {event: x}}}", ".meters.m.stripe.event is unknown"),
    ("defaults: {query: x}", ".defaults.query is unknown"),
    ("defaults: {sinks: [a, a]}", ".defaults.sinks repeats an item"),
    ("defaults: {sinks: [{sink: a, form: x}]}", ".defaults.sinks[0] is not string"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_the_schema_finds_mistakes(text: str, message: str) -> None:
    """What the loader refuses and a schema can see, the schema refuses too."""
    assert message in misfits(SCHEMA, plain(text))


@pytest.mark.parametrize("name", ["${WINDOW}", "1h30m", "3d"])
def test_a_variable_may_stand_for_a_duration(name: str) -> None:
    """An editor does not complain of a variable where the schema wants narrow text."""
    assert misfits(SCHEMA, {"defaults": {"window": name}}) == []


def test_every_key_is_described_by_example() -> None:
    """Each key of each block has a description that is a sentence, and an example that its own schema takes."""
    for block, schema in blocks().items():
        for key, its in schema["properties"].items():
            assert its["description"].endswith("."), f"{block}.{key} has no sentence that describes it"
            assert its["examples"], f"{block}.{key} has no example"
            for example in its["examples"]:
                broken = misfits(its, example, f"{block}.{key}")
                assert [each for each in broken if not each.endswith("is missing")] == []


def test_the_full_example_shows_every_key() -> None:
    """No key is missing from config/full.yaml, if only as a comment."""
    text = (DIRECTORY / "full.yaml").read_text()
    for block, schema in blocks().items():
        for key in schema["properties"]:
            assert re.search(rf"^\s*(# |- )?{key}:", text, re.MULTILINE), (
                f"{block}.{key} is not in config/full.yaml"
            )


def test_every_model_is_strict() -> None:
    """Unknown keys are refused, types are not converted, values do not change, and inputs stay out of errors."""
    wanted = {"extra": "forbid", "strict": True, "frozen": True, "hide_input_in_errors": True}
    waiting = Block.__subclasses__()
    while waiting:
        model = waiting.pop()
        waiting += model.__subclasses__()
        assert wanted.items() <= model.model_config.items(), model
