"""The JSON Schema of a configuration file, for editors: made from the models, so that it cannot disagree with them.

It is wider than `load` where only `load` can know: `${VAR}` may stand in for any text, and a meter's keys may come
from `defaults`.
"""

import datetime as dt
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from aggregator.config.durations import format_duration
from aggregator.config.models import SINK_SECRETS, SINK_TYPES, File
from aggregator.config.monitoring import MONITORING_SECRETS
from aggregator.config.values import NAME_PATTERN
from aggregator.config.web import WEB_SECRETS

DIALECT = "https://json-schema.org/draft/2020-12/schema"

ID = "urn:usage-aggregator:configuration"
"""Names the schema without saying where it lies: editors find it beside the file, or by `aggregator schema`."""

# A JSON Schema is data of any shape, so its values are `Any` in this module.
Schema = dict[str, Any]

_NARROWING = ("type", "pattern", "enum")
_AS_IS = frozenset({"examples", "propertyNames"})
_VARIABLE = {"type": "string", "pattern": r"\$\{[^}]+\}"}


class _Generator(GenerateJsonSchema):
    """Writes what a file may hold: no nulls, durations as text, and no titles that only repeat the key."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def encode_default(self, dft: object) -> object:
        return format_duration(dft) if isinstance(dft, dt.timedelta) else super().encode_default(dft)

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002 - pydantic names it
        return False


def json_schema() -> dict[str, object]:
    """Return the JSON Schema (draft 2020-12) of one configuration file."""
    schema = File.model_json_schema(schema_generator=_Generator)
    blocks: dict[str, Schema] = schema["$defs"]
    _choose_one(blocks["Source"], "url", "url_file")
    for kind, sink in SINK_TYPES.items():
        secrets = SINK_SECRETS.get(kind, {})
        for key in (key for key, needed in secrets.items() if needed):
            _choose_one(blocks[sink.__name__], key, f"{key}_file")
        optional = [(key, f"{key}_file") for key, needed in secrets.items() if not needed]
        if optional:
            _not_both(blocks[sink.__name__], *optional)
    _not_both(blocks["Ledger"], ("url", "url_file"))
    _not_both(blocks["Web"], *((key, f"{key}_file") for key in WEB_SECRETS))
    _not_both(blocks["Monitoring"], *((key, f"{key}_file") for key in MONITORING_SECRETS))
    _loosen_meter(blocks)
    _name_the_blocks(schema)
    return {"$schema": DIALECT, "$id": ID, **_tidy(schema), "title": "aggregator configuration"}


def _choose_one(block: Schema, *keys: str) -> None:
    """Ask for exactly one of these keys."""
    block["required"] = [key for key in block.get("required", ()) if key not in keys]
    block["oneOf"] = [{"required": [key]} for key in keys]


def _not_both(block: Schema, *pairs: tuple[str, str]) -> None:
    """Refuse each pair of keys together."""
    refused = [{"required": list(pair)} for pair in pairs]
    block["not"] = {"anyOf": refused} if len(refused) > 1 else refused[0]


def _loosen_meter(blocks: dict[str, Schema]) -> None:
    """Let a meter leave out what `defaults` may give, and describe `defaults` itself."""
    meter = blocks["Meter"]
    del meter["required"], meter["properties"]["name"]
    sinks = meter["properties"]["sinks"]
    sinks["items"] = {"anyOf": [{"type": "string"}, sinks["items"]]}
    _not_both(meter, ("every", "cron"))
    shared = {
        key: value
        for key, value in meter["properties"].items()
        if not key.startswith(("query", "detail_query", "tests", "deltas", "changed"))
    }
    blocks["Defaults"] = meter | {
        "properties": shared,
        "description": "Keys for meters that do not set them.",
    }
    _choose_one(meter, "query", "query_file")


def _name_the_blocks(schema: Schema) -> None:
    """Say what names may look like, tell sinks apart by `type`, and require nothing: a file may be one of several."""
    del schema["required"]
    schema["patternProperties"] = {
        "^x-": {"description": "Your own, as for anchors that several blocks share."}
    }
    top = schema["properties"]
    for key in ("sources", "sinks", "customers", "meters"):
        top[key]["propertyNames"] = {"pattern": f"^{NAME_PATTERN}$"}
    sinks = [{"$ref": f"#/$defs/{sink.__name__}"} for sink in SINK_TYPES.values()]
    top["sinks"]["additionalProperties"] = {"oneOf": sinks, "discriminator": {"propertyName": "type"}}
    top["defaults"] = {
        "$ref": "#/$defs/Defaults",
        "description": top["defaults"]["description"],
        "examples": top["defaults"]["examples"],
    }


def _tidy(node: Any) -> Any:
    """Return the same with two changes in every part of it.

    A variable may stand in for narrow text; defaults that say no more than "left out" are gone.
    """
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    tidy = {key: value if key in _AS_IS else _tidy(value) for key, value in node.items()}
    if not isinstance(tidy.get("default"), bool | int | str) or tidy["default"] == "":
        tidy.pop("default", None)
    if tidy.get("type") == "string" and tidy.keys() & {"pattern", "enum"}:
        narrow = {key: tidy.pop(key) for key in _NARROWING if key in tidy}
        tidy["anyOf"] = [narrow, _VARIABLE]
    return tidy
