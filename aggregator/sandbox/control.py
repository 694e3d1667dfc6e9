"""The control calls under `/_sandbox/`: read the truth, move the clock, cause trouble, start again.

They are the sandbox's own and no part of Stripe. They need no key, take and give JSON, and read one account in one mode:
`account=` (the sandbox's own unless told) and `livemode=true|false` (false unless told).

    GET    /_sandbox/totals?event_name=   exact decimal strings per customer; no processing delay applies
    GET    /_sandbox/events?customer=&event_name=&identifier=&limit=&offset=   accepted events, oldest first
    GET    /_sandbox/reports?after=       reports on events found invalid, as docs.stripe.com/api/v2/core/events has them
    GET    /_sandbox/adjustments          cancellations, the earliest first, each with its status
    POST   /_sandbox/notifications        {"type": "..."}: a thin event of a type nobody need know
    POST   /_sandbox/imports              {"status": "failed", "file": "a.csv", "reason": "..."}: what an import came to
    GET, POST /_sandbox/webhooks          Webhook, one more or one changed; what became of deliveries
    GET    /_sandbox/stats                counters; double_counted = accepted although accepted before
    GET, PUT  /_sandbox/faults            FaultSettings, replaced whole
    GET, PUT  /_sandbox/rules             Rules, replaced whole
    GET, PUT  /_sandbox/keys              {"revoked": [...], "restricted": [...], "no_account": [...], "permissions": {...}}
    GET, PUT  /_sandbox/accounts          {"connected": [...]}: what `Stripe-Account` may name; null for any
    GET, POST /_sandbox/clock             {"offset_seconds": N}
    POST   /_sandbox/customers            {"ids": [...]}: customers with given ids
    POST   /_sandbox/reset                everything as at the start
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from aggregator.sandbox.errors import ApiError, missing_param, unknown_route
from aggregator.sandbox.permissions import read_permissions
from aggregator.sandbox.reports import after
from aggregator.sandbox.rules import read_rules
from aggregator.sandbox.series import Event
from aggregator.sandbox.settings import read_faults
from aggregator.sandbox.store import Account, Store
from aggregator.sandbox.summaries import aggregate
from aggregator.sandbox.values import plain
from aggregator.sandbox.webhooks import read_webhook

PREFIX = "/_sandbox/"
DEFAULT_EVENTS = 100


class Call(NamedTuple):
    """One control call: its query and its JSON body."""

    store: Store
    query: Mapping[str, str]
    body: Mapping[str, Any]

    @property
    def account(self) -> Account:
        """Return the account in the mode that the query names."""
        livemode = self.query.get("livemode", "false")
        if livemode not in {"true", "false"}:
            raise _unusable(f"livemode is true or false, but it is {livemode!r}")
        return self.store.account(self.query.get("account"), livemode=livemode == "true")


def show_totals(call: Call) -> dict[str, object]:
    """Return what every customer has used of one meter, exactly."""
    event_name = call.query.get("event_name")
    if not event_name:
        raise missing_param("event_name")
    account = call.account
    meter = account.meters.for_event(event_name)
    if meter is None:
        raise _unusable(f"there is no meter for event name {event_name!r}")
    sight = call.store.sight(delayed=False)
    counting = dict(account.events.by_customer(meter, sight))
    return {
        "event_name": event_name,
        "livemode": account.livemode,
        "events": sum(event.event_name == event_name for event in account.events.log),
        "counted": sum(map(len, counting.values())),
        "totals": {
            customer: plain(aggregate(meter.formula, events, sight)) for customer, events in counting.items()
        },
    }


def show_events(call: Call) -> dict[str, object]:
    """Return a slice of the accepted events, in the order of receipt."""
    filters = {key: call.query[key] for key in ("customer", "event_name", "identifier") if key in call.query}
    offset, limit = _count(call, "offset", 0), _count(call, "limit", DEFAULT_EVENTS)
    events = call.account.events
    fate = events.fates(call.store.sight(delayed=False))
    wanted = [
        each for each in events.log if all(getattr(each, key) == value for key, value in filters.items())
    ]
    shown = [_shown(each, fate(each)) for each in wanted[offset : offset + limit]]
    return {"events": shown, "matching": len(wanted)}


def show_reports(call: Call) -> dict[str, object]:
    """Return the reports on events found invalid, the earliest first; `after` leaves out those up to one."""
    store = call.store
    reports = call.account.events.findings.reports(store.clock.now(), store.rules)
    return {"reports": list(after(reports, call.query.get("after")))}


def show_adjustments(call: Call) -> dict[str, object]:
    """Return the cancellations, the earliest first."""
    now = call.store.clock.now()
    shown = [
        {**each._asdict(), "status": each.status(now)} for each in call.account.events.cancellations.all()
    ]
    return {"adjustments": shown}


def make_notification(call: Call) -> dict[str, object]:
    """Make up a thin event of any type."""
    kind = call.body.get("type")
    if not isinstance(kind, str) or not kind:
        raise _unusable('send {"type": "..."}')
    event = call.account.notifications.make(kind, call.store.clock.now())
    call.store.journal.flush()
    return event


def make_import(call: Call) -> dict[str, object]:
    """Say what a bulk import came to; the answer is the snapshot event that tells of it."""
    event = call.account.imports.make(call.body, int(call.store.clock.now()))
    call.store.journal.flush()
    return event


def show_webhooks(call: Call) -> dict[str, object]:
    """Return the webhooks, and what became of the latest deliveries."""
    webhooks = call.account.webhooks
    return {"webhooks": [asdict(each) for each in webhooks.all()], "deliveries": webhooks.sent}


def add_webhook(call: Call) -> dict[str, object]:
    """Register a webhook, or change the one with this URL."""
    call.account.webhooks.add(read_webhook(call.body), call.store.clock.now())
    call.store.journal.flush()
    return show_webhooks(call)


def show_stats(call: Call) -> dict[str, object]:
    """Return the counters of the whole sandbox."""
    accounts = list(call.store.accounts())
    return {
        **call.store.stats.json(),
        "accepted": sum(len(account.events.log) for account in accounts),
        "double_counted": sum(account.events.double_counted for account in accounts),
        "faults_struck": call.store.faults.struck,
        "on_their_way": len(call.store.later),
    }


def show_faults(call: Call) -> dict[str, object]:
    """Return the fault settings in force."""
    return call.store.faults.settings.json()


def replace_faults(call: Call) -> dict[str, object]:
    """Put these fault settings in force; what is left out goes back to no fault."""
    call.store.faults.replace(read_faults(call.body))
    return show_faults(call)


def show_rules(call: Call) -> dict[str, object]:
    """Return the rules in force."""
    return asdict(call.store.rules)


def replace_rules(call: Call) -> dict[str, object]:
    """Put these rules in force; what is left out goes back to its default."""
    call.store.rules = read_rules(call.body)
    return show_rules(call)


def show_keys(call: Call) -> dict[str, object]:
    """Return the keys that are not let in, and what others may do."""
    keys = call.store.keys
    permissions = {key: sorted(names) for key, names in keys.permissions.items()}
    shown = {name: sorted(getattr(keys, name)) for name in ("revoked", "restricted", "no_account")}
    return {**shown, "permissions": permissions}


def replace_keys(call: Call) -> dict[str, object]:
    """Say which keys answer 401 and which 403, to everything or to what they may not do."""
    permissions = read_permissions(call.body.get("permissions", {}))
    call.store.keys.revoked = frozenset(_names(call, "revoked"))
    call.store.keys.restricted = frozenset(_names(call, "restricted"))
    call.store.keys.no_account = frozenset(_names(call, "no_account"))
    call.store.keys.permissions = permissions
    return show_keys(call)


def show_accounts(call: Call) -> dict[str, object]:
    """Return the accounts that a header may name, None for any."""
    connected = call.store.connected
    return {"connected": None if connected is None else sorted(connected)}


def replace_accounts(call: Call) -> dict[str, object]:
    """Say which accounts a header may name."""
    call.store.connected = (
        None if call.body.get("connected") is None else frozenset(_names(call, "connected"))
    )
    return show_accounts(call)


def show_clock(call: Call) -> dict[str, object]:
    """Return the sandbox's time and its shift."""
    clock = call.store.clock
    return {"offset_seconds": clock.offset_seconds, "now": clock.now()}


def set_clock(call: Call) -> dict[str, object]:
    """Shift the clock against the machine's."""
    offset = call.body.get("offset_seconds")
    if isinstance(offset, bool) or not isinstance(offset, int | float):
        raise _unusable('send {"offset_seconds": N}')
    call.store.set_clock(offset)
    return show_clock(call)


def add_customers(call: Call) -> dict[str, object]:
    """Make customers with given ids."""
    now = int(call.store.clock.now())
    added = [call.account.customers.add(name, now) for name in _names(call, "ids")]
    call.store.journal.flush()
    return {"customers": added}


def reset(call: Call) -> dict[str, object]:
    """Forget everything."""
    call.store.reset()
    return {"reset": True}


ROUTES: dict[tuple[str, str], Callable[[Call], dict[str, object]]] = {
    ("GET", "totals"): show_totals,
    ("GET", "events"): show_events,
    ("GET", "reports"): show_reports,
    ("GET", "adjustments"): show_adjustments,
    ("POST", "notifications"): make_notification,
    ("POST", "imports"): make_import,
    ("GET", "webhooks"): show_webhooks,
    ("POST", "webhooks"): add_webhook,
    ("GET", "accounts"): show_accounts,
    ("PUT", "accounts"): replace_accounts,
    ("GET", "stats"): show_stats,
    ("GET", "faults"): show_faults,
    ("PUT", "faults"): replace_faults,
    ("GET", "rules"): show_rules,
    ("PUT", "rules"): replace_rules,
    ("GET", "keys"): show_keys,
    ("PUT", "keys"): replace_keys,
    ("GET", "clock"): show_clock,
    ("POST", "clock"): set_clock,
    ("POST", "customers"): add_customers,
    ("POST", "reset"): reset,
}


def control(store: Store, method: str, path: str, query: str, body: bytes) -> dict[str, object]:
    """Answer one control call. Raise ApiError when it cannot be."""
    handler = ROUTES.get((method, path.removeprefix(PREFIX)))
    if handler is None:
        raise unknown_route(method, path)
    try:
        return handler(Call(store, dict(parse_qsl(query)), _object(body)))
    except ValueError as error:
        raise _unusable(str(error)) from error


def _object(body: bytes) -> Mapping[str, Any]:
    value = json.loads(body or b"{}")
    if not isinstance(value, dict):
        raise _unusable("the body must be a JSON object")
    return value


def _names(call: Call, key: str) -> list[str]:
    names = call.body.get(key, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _unusable(f"{key} must be a list of strings")
    return names


def _count(call: Call, key: str, otherwise: int) -> int:
    text = call.query.get(key, str(otherwise))
    if not text.isdecimal():
        raise _unusable(f"{key} must be a count, but it is {text!r}")
    return int(text)


def _shown(event: Event, reason: str | None) -> dict[str, object]:
    shown: dict[str, object] = {
        **event._asdict(),
        "value": None if event.value is None else plain(event.value),
        "counted": reason is None,
        "reason": reason,
    }
    extra = shown.pop("extra")
    return {**shown, "extra": dict(event.extra)} if extra else shown


def _unusable(why: str) -> ApiError:
    return ApiError(400, f"The control call cannot be used: {why}", reason="bad_control_call")
