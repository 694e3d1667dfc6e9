"""Refusals in Stripe's shape, and nothing that decides when to refuse.

Every answer that is not a 200 is one of these. The JSON is the error object of docs.stripe.com/api/errors: `type` and
`message`, with `code` and `param` where there is one. Version 2 has a `code` always and a `type` only for some
(docs.stripe.com/api/v2/billing/meter-event/create). `reason` never leaves the sandbox except as a counter's name.

Where Stripe's wording is known from the field and clients match on it (the duplicate identifier, the missing meter, the
old timestamp, the concurrent call) the message is Stripe's. Elsewhere it is ours and says what to change.
"""

Header = tuple[bytes, bytes]

DO_NOT_RETRY: Header = (b"stripe-should-retry", b"false")


class ApiError(Exception):
    """A request was refused; the fields say how Stripe would put it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        reason: str,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: tuple[Header, ...] = (),
        doc_url: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason
        self.kind = kind
        self.code = code
        self.param = param
        self.headers = headers
        self.doc_url = doc_url

    def json(self) -> dict[str, object]:
        """Return the body of the answer."""
        error: dict[str, object] = {"type": self.kind, "message": self.message}
        if self.code is not None:
            error["code"] = self.code
        if self.param is not None:
            error["param"] = self.param
        return {"error": error}

    def json_v2(self, *, typed: bool) -> dict[str, object]:
        """Return the body of the answer in version 2; `typed` says whether an ordinary 400 or 409 has a `type` too."""
        error: dict[str, object] = {"code": self.code or self.reason, "message": self.message}
        if typed or self.status not in {400, 409} or self.kind != "invalid_request_error":
            error["type"] = self.kind
        if self.doc_url is not None:
            error["doc_url"] = self.doc_url
        return {"error": error}


class StateError(Exception):
    """The state file cannot be used; the message says why and what to do."""


def invalid(
    message: str, param: str, *, reason: str = "invalid_parameter", code: str | None = None
) -> ApiError:
    """Return a 400 about one parameter."""
    return ApiError(400, message, reason=reason, param=param, code=code)


def missing_param(name: str) -> ApiError:
    """Return the 400 for a required parameter that is not there."""
    message = f"Missing required param: {name}."
    return invalid(message, name, reason="missing_parameter", code="parameter_missing")


def unknown_param(name: str) -> ApiError:
    """Return the 400 for a parameter this endpoint does not have."""
    message = f"Received unknown parameter: {name}"
    return invalid(message, name, reason="unknown_parameter", code="parameter_unknown")


def not_found(noun: str, name: str, *, param: str = "id", status: int = 404) -> ApiError:
    """Return the refusal for an object that does not exist: 404 in a path, 400 in a parameter."""
    message = f"No such {noun}: '{name}'"
    return ApiError(status, message, reason="resource_missing", code="resource_missing", param=param)


def unknown_route(method: str, path: str) -> ApiError:
    """Return the 404 for a path the sandbox does not speak."""
    return ApiError(404, f"Unrecognized request URL ({method}: {path}).", reason="unknown_route")


def duplicate_identifier(identifier: str) -> ApiError:
    """Return the refusal of an identifier that is still remembered: no code, and not to be retried."""
    message = f"An event already exists with identifier {identifier}."
    return ApiError(400, message, reason="duplicate_identifier", headers=(DO_NOT_RETRY,))


def concurrent_events() -> ApiError:
    """Return the 409 for a second call in flight for one customer of one meter."""
    return ApiError(
        409,
        "Cannot create multiple usage events for the same customer, meter concurrently.",
        reason="concurrent",
        code="too_many_concurrent_requests",
    )


def server_error(reason: str) -> ApiError:
    """Return a 500, which says nothing about whether the request was processed."""
    return ApiError(500, "An unexpected error occurred in the sandbox.", reason=reason, kind="api_error")


def too_many_requests(code: str, *, retry: bool | None) -> ApiError:
    """Return a 429; `retry` is what `stripe-should-retry` says, None leaves the header out.

    docs.stripe.com/rate-limits has both codes, `rate_limit` and `lock_timeout`.
    """
    headers = () if retry is None else ((b"stripe-should-retry", b"true" if retry else b"false"),)
    message = "Too many requests reached the sandbox. Slow down and back off before trying again."
    return ApiError(429, message, reason=code, code=code, headers=headers)
