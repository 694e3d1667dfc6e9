"""Lists as Stripe pages them: newest first, a cursor that is the id of an object, `has_more`.

The rules are those of docs.stripe.com/api/pagination: `limit` from 1 to 100, 10 unless told, and one of `starting_after`
and `ending_before`. A cursor that names no object of the list is refused rather than read as the start, because that
would make a client count rows twice.
"""

from collections.abc import Sequence

from aggregator.sandbox.errors import invalid, not_found
from aggregator.sandbox.form import Params

Row = dict[str, object]

PARAMS = ("limit", "starting_after", "ending_before")
DEFAULT_LIMIT = 10
MAX_LIMIT = 100


def page(rows: Sequence[Row], params: Params, url: str) -> dict[str, object]:
    """Return the list object for the page that the parameters ask for."""
    limit = read_limit(params, DEFAULT_LIMIT)
    after, before = params.text("starting_after"), params.text("ending_before")
    if after is not None and before is not None:
        raise invalid("Give starting_after or ending_before, not both.", "starting_after")
    if before is not None:
        end = _position(rows, before, "ending_before")
        first = max(0, end - limit)
        return _listing(rows[first:end], url, more=first > 0)
    first = 0 if after is None else _position(rows, after, "starting_after") + 1
    return _listing(rows[first : first + limit], url, more=first + limit < len(rows))


def read_limit(params: Params, default: int) -> int:
    """Return how many rows a page may have. Raises a refusal for a `limit` that is out of bounds."""
    limit = params.integer("limit")
    if limit is None:
        return default
    if not 1 <= limit <= MAX_LIMIT:
        raise invalid(f"limit must be from 1 to {MAX_LIMIT}, but it is {limit}.", "limit")
    return limit


def _position(rows: Sequence[Row], name: str, param: str) -> int:
    for position, row in enumerate(rows):
        if row["id"] == name:
            return position
    raise not_found("object in this list", name, param=param, status=400)


def _listing(rows: Sequence[Row], url: str, *, more: bool) -> dict[str, object]:
    return {"object": "list", "data": list(rows), "has_more": more, "url": url}
