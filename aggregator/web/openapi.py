"""The API, described for programs (OpenAPI 3.1, spec.openapis.org/oas/v3.1.0). A test holds it against what is answered."""

from typing import Any

from aggregator import __version__
from aggregator.web.asking import MOST_PAGES
from aggregator.web.breakdowns import ON_A_PAGE

AMOUNT = {"type": "string", "pattern": r"^-?\d+(\.\d+)?$", "description": "An exact number, as text."}
INSTANT = {"type": "string", "format": "date-time"}
FIGURES: dict[str, Any] = {
    "used": AMOUNT | {"description": "What the source said, as far as it was read."},
    "billed": AMOUNT | {"description": "What the billing system has of it."},
    "not_billed_yet": AMOUNT
    | {"description": "What is still on its way, waits, or is too small a part to be billed alone."},
}


def document() -> dict[str, Any]:
    """Return the description."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Usage",
            "version": __version__,
            "description": "What a customer used by now, at any point of the period.",
        },
        "security": [{"token": []}],
        "paths": {
            "/api/usage": {
                "get": {
                    "operationId": "usage",
                    "summary": "A customer's usage of each meter",
                    "parameters": _parameters(),
                    "responses": {
                        "200": {
                            "description": "The usage. Ask again with the ETag to learn whether there is anything new.",
                            "headers": {"ETag": {"schema": {"type": "string"}}},
                            "content": {
                                "application/json": {"schema": {"$ref": "#/components/schemas/Usage"}}
                            },
                        },
                        "304": {"description": "Nothing changed since the answer with this ETag."},
                        "400": _error("What is asked for cannot be asked."),
                        "401": _error("No token, or one that is not good any more."),
                        "403": _error("The token is for another customer, or for other meters."),
                        "503": _error("Too much at once, or the ledger does not answer: try again."),
                    },
                }
            }
        },
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "As `aggregator web token` prints it.",
                }
            },
            "schemas": {"Usage": _usage(), "Error": _object({"error": {"type": "string"}})},
        },
    }


def _parameters() -> list[dict[str, Any]]:
    def one(name: str, schema: dict[str, Any], says: str, *, needed: bool = False) -> dict[str, Any]:
        return {"name": name, "in": "query", "required": needed, "schema": schema, "description": says}

    return [
        one("customer", {"type": "string", "minLength": 1}, "Whose usage.", needed=True),
        one("meter", {"type": "array", "items": {"type": "string"}}, "Only these meters. Without it: all."),
        one(
            "period",
            {"type": "string", "pattern": r"^\d{4}-\d{2}$"},
            "A month in UTC. Without any time: the present one.",
        ),
        one("from", {"type": "string", "format": "date"}, "The first day, in UTC; together with `to`."),
        one("to", {"type": "string", "format": "date"}, "The day after the last one."),
        one(
            "by",
            {"type": "string", "minLength": 1, "maxLength": 100},
            "Also give a line for each hour, day or month, if it is one of these words; else for each value of the "
            "dimension that it names, of the one meter that `meter` names.",
        ),
        one(
            "page",
            {"type": "integer", "minimum": 1, "maximum": MOST_PAGES, "default": 1},
            f"Which {ON_A_PAGE:,} of the lines by a dimension, those with most usage first.",
        ),
    ]


def _usage() -> dict[str, Any]:
    over_time = _object({"from": INSTANT, **FIGURES})
    value = {"type": ["string", "null"], "description": "Of the dimension; null for usage that has none."}
    of_value = _object({"value": value, **FIGURES})
    figures = _object(
        {
            "meter": {"type": "string"},
            "sink": {"type": "string", "description": "Where it is billed."},
            "read_until": INSTANT | {"description": "Up to when the meter has been read."},
            **FIGURES,
        }
    )
    figures["properties"]["lines"] = {"type": "array", "items": {"oneOf": [over_time, of_value]}}
    figures["properties"]["count"] = {
        "type": "integer",
        "description": "By a dimension: how many lines there are on all pages. The figures beside it are of all of them.",
    }
    return _object(
        {
            "customer": {"type": "string"},
            "name": {
                "type": ["string", "null"],
                "description": "What people call the customer, if it is known.",
            },
            "from": INSTANT,
            "to": INSTANT,
            "by": {"type": ["string", "null"], "description": "hour, day, month, or the dimension."},
            "usage": {"type": "array", "items": figures},
        }
    )


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(properties)}


def _error(says: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Error"}
    return {"description": says, "content": {"application/json": {"schema": schema}}}
