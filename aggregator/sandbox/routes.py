"""Which endpoints there are. A path that is not in the tables is a 404 in Stripe's shape."""

import re

from aggregator.sandbox import api, api_v2, stream
from aggregator.sandbox.errors import unknown_route
from aggregator.sandbox.request import Endpoint, Route

FIXED: dict[tuple[str, str], Endpoint] = {**api.FIXED, **api_v2.FIXED, **stream.FIXED}
NAMED: dict[tuple[str, str], Endpoint] = {**api.NAMED, **api_v2.NAMED}

_PATTERNS = tuple(
    (method, re.compile(path.replace("{id}", "([^/]+)")), endpoint)
    for (method, path), endpoint in NAMED.items()
)


def find_route(method: str, path: str) -> Route:
    """Return the route of a call. Raise ApiError when there is none."""
    endpoint = FIXED.get((method, path))
    if endpoint is not None:
        return Route(endpoint, "")
    for wanted, pattern, named in _PATTERNS:
        found = pattern.fullmatch(path)
        if found and wanted == method:
            return Route(named, found[1])
    raise unknown_route(method, path)
