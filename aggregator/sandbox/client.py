"""The control calls of a running sandbox as methods, for tests, the demo and proofs.

Speaks only `/_sandbox/`. What the sandbox is tested with speaks Stripe's own library.
"""

import json
from collections.abc import Iterable
from decimal import Decimal
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode, urlsplit

TIMEOUT_SECONDS = 60.0


class ControlClient:
    """Reads and steers the sandbox at a URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    def control(self, method: str, path: str, body: object = None, **query: object) -> dict[str, Any]:
        """Make one control call and return its JSON. Raise ValueError with the sandbox's words if it refuses."""
        parts = urlsplit(self.url)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
        given = {key: _text(value) for key, value in query.items() if value is not None}
        try:
            target = f"/_sandbox/{path}?{urlencode(given)}"
            connection.request(method, target, None if body is None else json.dumps(body))
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(answer["error"]["message"])
        return answer

    def totals(
        self, event_name: str, *, livemode: bool = False, account: str | None = None
    ) -> dict[str, Decimal]:
        """Return the exact total of each customer of one meter."""
        query = {"event_name": event_name, "livemode": livemode, "account": account}
        return {who: Decimal(much) for who, much in self.control("GET", "totals", **query)["totals"].items()}

    def events(self, *, limit: int = 1000, offset: int = 0, **filters: object) -> list[dict[str, Any]]:
        """Return accepted events, oldest first; filter by customer, event_name, identifier, livemode, account."""
        found: list[dict[str, Any]] = self.control("GET", "events", limit=limit, offset=offset, **filters)[
            "events"
        ]
        return found

    def reports(
        self, *, after: str | None = None, livemode: bool = False, account: str | None = None
    ) -> list[dict[str, Any]]:
        """Return the reports on events found invalid, the earliest first, or those that came after one of them."""
        query = {"after": after, "livemode": livemode, "account": account}
        found: list[dict[str, Any]] = self.control("GET", "reports", **query)["reports"]
        return found

    def stats(self) -> dict[str, Any]:
        """Return the counters."""
        return self.control("GET", "stats")

    def set_faults(self, **settings: object) -> dict[str, Any]:
        """Replace the fault settings; without arguments there are no faults."""
        return self.control("PUT", "faults", settings)

    def set_rules(self, **rules: object) -> dict[str, Any]:
        """Replace the rules; without arguments they are the defaults."""
        return self.control("PUT", "rules", rules)

    def set_keys(
        self, *, revoked: Iterable[str] = (), restricted: Iterable[str] = (), no_account: Iterable[str] = ()
    ) -> dict[str, Any]:
        """Say which keys answer 401, which 403, and which 403 only to the question for the account; others may do all."""
        keys = {"revoked": list(revoked), "restricted": list(restricted), "no_account": list(no_account)}
        return self.control("PUT", "keys", keys)

    def set_permissions(self, key: str, *names: str) -> dict[str, Any]:
        """Say what a key may do; the other keys stay as they are."""
        keys = self.control("GET", "keys")
        keys["permissions"][key] = list(names)
        return self.control("PUT", "keys", keys)

    def set_connected(self, *accounts: str) -> dict[str, Any]:
        """Say which accounts a header may name besides the sandbox's own."""
        return self.control("PUT", "accounts", {"connected": list(accounts)})

    def adjustments(self, *, livemode: bool = False, account: str | None = None) -> list[dict[str, Any]]:
        """Return the cancellations, the earliest first."""
        query = {"livemode": livemode, "account": account}
        found: list[dict[str, Any]] = self.control("GET", "adjustments", **query)["adjustments"]
        return found

    def add_webhook(
        self, url: str, secret: str, *, livemode: bool = False, account: str | None = None, **settings: object
    ) -> dict[str, Any]:
        """Register a webhook on this machine, or change the one with this URL."""
        webhook = {"url": url, "secret": secret, **settings}
        return self.control("POST", "webhooks", webhook, livemode=livemode, account=account)

    def webhook_deliveries(
        self, *, livemode: bool = False, account: str | None = None
    ) -> list[dict[str, Any]]:
        """Return what became of the latest deliveries, each with its event, number and status."""
        query = {"livemode": livemode, "account": account}
        found: list[dict[str, Any]] = self.control("GET", "webhooks", **query)["deliveries"]
        return found

    def notify(self, kind: str, *, livemode: bool = False, account: str | None = None) -> dict[str, Any]:
        """Make up a thin event of a type, which webhooks are told of."""
        return self.control("POST", "notifications", {"type": kind}, livemode=livemode, account=account)

    def import_set(
        self,
        status: str,
        file: str,
        *,
        reason: str | None = None,
        errors: int = 0,
        livemode: bool = False,
        account: str | None = None,
    ) -> dict[str, Any]:
        """Say what a bulk import came to: `failed`, `succeeded` or `succeeded_with_errors`; return the event."""
        values = {"status": status, "file": file, "reason": reason, "errors": errors}
        return self.control("POST", "imports", values, livemode=livemode, account=account)

    def set_clock(self, offset_seconds: float) -> dict[str, Any]:
        """Shift the sandbox's clock against the machine's."""
        return self.control("POST", "clock", {"offset_seconds": offset_seconds})

    def set_time(self, at: float) -> None:
        """Shift the sandbox's clock so that it is now `at`, in unix seconds, and goes on from there."""
        clock = self.control("GET", "clock")
        self.set_clock(clock["offset_seconds"] + at - clock["now"])

    def add_customers(self, *ids: str, livemode: bool = False, account: str | None = None) -> None:
        """Make customers with these ids."""
        self.control("POST", "customers", {"ids": list(ids)}, livemode=livemode, account=account)

    def reset(self) -> None:
        """Forget everything and start as at first."""
        self.control("POST", "reset")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
