"""What pydantic finds wrong, in our words: what is the matter and what to write instead.

Rules
- No message repeats a value, except a bare number or boolean: anything else may be a secret in the wrong place.
- What has no words of its own here is answered with the key's description and example, never with pydantic's text.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from aggregator.config.documents import Step, harmless
from aggregator.config.values import OURS

_MISSING = {
    "mode": (
        "is missing, and has no default because it decides whether customers are billed: "
        "write `mode: test` to try things out, or `mode: live` to bill"
    ),
    "start_at": (
        "is missing, and has no default because nothing before it is ever billed: "
        "write the start of the first window to bill, such as `start_at: 2026-11-01T00:00Z`"
    ),
}

_WANTED = {
    "string_type": "text",
    "path_type": "text, the path of a file",
    "int_type": "a whole number",
    "bool_type": "`true` or `false`",
    "tuple_type": "a list",
    "model_type": "a mapping of keys",
    "time_delta_type": "a duration",
}


def explain(model: type[BaseModel], error: ErrorDetails) -> str:
    """Return what is wrong and what to do, for one error that validating `model` gave."""
    kind, location, context = error["type"], error["loc"], error.get("ctx", {})
    if kind == OURS:
        return error["msg"]
    if kind == "extra_forbidden":
        return unknown_key(str(location[-1]), keys(_block(model, location)))
    field = keys(_block(model, location)).get(_key(location))
    if kind == "missing":
        return _MISSING.get(_key(location), f"is missing: write, for example, {_sample(location, field)}")
    if kind in _WANTED:
        return _wrong_type(_WANTED[kind], error["input"], location, field)
    return _out_of_range(kind, context) or _fallback(location, field)


def keys(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the keys a block may have, as the file writes them."""
    named = {field.alias or name: field for name, field in model.model_fields.items()}
    return {key: field for key, field in named.items() if key != "name"}


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Return what to say of a key that nothing knows."""
    near = get_close_matches(key, known, 1)
    if near:
        return f"is not a known key: did you mean `{near[0]}`?"
    return f"is not a known key: remove it; the keys here are {', '.join(known)}"


def unknown_name(kind: str, shown: str, known: Iterable[str]) -> str:
    """Return what to say of a name that nothing under `kind:` has; `shown` is the name as it may be repeated."""
    names = sorted(filter(harmless, known))
    near = get_close_matches(shown.strip("`"), names, 1)
    if near:
        return f"there is no {shown} under `{kind}:`: did you mean `{near[0]}`?"
    there = f"there are {', '.join(names)}" if names else "there are none yet"
    return f"there is no {shown} under `{kind}:`: add it, or name one that is there ({there})"


def _block(model: type[BaseModel], location: tuple[Step, ...]) -> type[BaseModel]:
    """Return the model of the block in which the last key of this place stands."""
    for step in location[:-1]:
        field = keys(model).get(str(step))
        model = _model_in(field.annotation if field else None) or model
    return model


def _model_in(annotation: object) -> type[BaseModel] | None:
    """Return the model that a key holds, be it one of it or a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(inner) for inner in get_args(annotation))
    return next((each for each in found if each is not None), None)


def _key(location: tuple[Step, ...]) -> str:
    return next((step for step in reversed(location) if isinstance(step, str)), "")


def _wrong_type(wanted: str, given: object, location: tuple[Step, ...], field: FieldInfo | None) -> str:
    if wanted == "text" and isinstance(given, bool | int | float):
        return f"must be text, but YAML reads {str(given).lower()} as {_kind(given)}: put it in quotes"
    if isinstance(location[-1], int):
        return f"must be {wanted}, but is {_kind(given)}"
    return f"must be {wanted}, but is {_kind(given)}: write, for example, {_sample(location, field)}"


def _kind(value: object) -> str:
    match value:
        case bool():
            return "true or false"
        case int():
            return "a whole number"
        case float():
            return "a number with a fraction"
        case str():
            return "text"
        case list() | tuple():
            return "a list"
        case dict():
            return "a mapping of keys"
        case _:
            return "nothing"


def _out_of_range(kind: str, context: dict[str, object]) -> str | None:
    match kind:
        case "greater_than_equal":
            return f"is too small: {context['ge']} is the least"
        case "less_than_equal":
            return f"is too large: {context['le']} is the most"
        case "string_too_short":
            return "must not be empty: give it a text, or remove the line"
        case "string_too_long":
            return f"is too long: {context['max_length']} characters are the most"
        case "literal_error":
            return f"must be {str(context['expected']).replace(chr(39), '`')}"
        case _:
            return None


def _fallback(location: tuple[Step, ...], field: FieldInfo | None) -> str:
    return f"is not what this key takes: write, for example, {_sample(location, field)}"


def _sample(location: tuple[Step, ...], field: FieldInfo | None) -> str:
    examples = field.examples if field else None
    return f"`{_key(location)}: {_yaml(examples[0])}`" if examples else "in the examples"


def _yaml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case list():
            return f"[{', '.join(map(_yaml, value))}]"
        case dict():
            return "{" + ", ".join(f"{key}: {_yaml(inner)}" for key, inner in value.items()) + "}"
        case _:
            return str(value)
