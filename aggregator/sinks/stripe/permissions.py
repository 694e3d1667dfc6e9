"""What an API key may do, found out by asking: what is needed and missing, and what is there and not needed.

Rules
- Nothing is made or changed by asking. What reads is asked for one row; what writes is called without the parameters it
  requires, so that all it can do is refuse. Stripe does not document that it looks at the permission before the
  parameters, hence `PROBABLY`.
- A 403 means that it may not. Stripe's message then names the permission (`rak_...`), which is repeated.
- A full secret key may do everything; nothing is asked about it.
- Who may write a resource may read it, too (docs.stripe.com/keys/restricted-api-keys).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Literal, NamedTuple

from aggregator.errors import SinkHalted, SinkUnreachable
from aggregator.sinks.responses import NoResponse
from aggregator.sinks.stripe.account_context import AccountContext
from aggregator.sinks.stripe.responses import KEY_CODES, Refusal, describe, why_halt

FORBIDDEN = 403
BAD_REQUEST = 400
NOT_FOUND = 404

NOBODY = "none"
"""In place of an object's id: there is none of that name."""


class Use(StrEnum):
    """What a configuration asks of a key."""

    SEND = "send"
    READ_BACK = "read_back"
    ACCOUNT = "account"
    APPLY = "apply"
    LOOK_UP = "look_up"
    REPORTS = "reports"
    IMPORTS = "imports"
    CANCEL = "cancel"


class Permission(NamedTuple):
    """One row of what a restricted key can be given, why we want it, and how to find out whether it is there."""

    name: str
    level: Literal["read", "write"]
    use: Use
    without: str
    """What does not work without it."""
    path: str
    params: Mapping[str, object] = {}
    optional: bool = False

    @property
    def method(self) -> Literal["get", "post"]:
        """How it is called: what writes, without the parameters that it requires."""
        return "post" if self.level == "write" else "get"

    def __str__(self) -> str:
        return f"{self.name}: {self.level}"


NEEDED = (
    Permission(
        "Meter events",
        "write",
        Use.SEND,
        "no usage can be sent",
        "/v1/billing/meter_events",
    ),
    Permission(
        "Meters",
        "read",
        Use.SEND,
        "nobody can see whether the meters there fit what is sent",
        "/v1/billing/meters",
        {"limit": 1},
    ),
    Permission(
        "Meters",
        "read",
        Use.READ_BACK,
        "an event whose answer was lost for long stays in doubt until a person has looked",
        f"/v1/billing/meters/{NOBODY}/event_summaries",
        {"customer": NOBODY, "start_time": 0, "end_time": 60, "limit": 1},
    ),
    Permission(
        "Account",
        "read",
        Use.ACCOUNT,
        "a key of another account is not noticed",
        "/v1/account",
        optional=True,
    ),
    Permission(
        "Meters",
        "write",
        Use.APPLY,
        "`aggregator meters apply`, `deactivate` and `reactivate` do not work with this key",
        "/v1/billing/meters",
        optional=True,
    ),
    Permission(
        "Customers",
        "read",
        Use.LOOK_UP,
        "`aggregator check` cannot look up whether customers that a query returns are there; nothing else needs it",
        "/v1/customers",
        {"limit": 1},
        optional=True,
    ),
    Permission(
        "Events",
        "read",
        Use.REPORTS,
        "events that Stripe rejects after accepting them are not noticed",
        "/v2/core/events",
        {"limit": 1},
        optional=True,
    ),
    Permission(
        "Events",
        "read",
        Use.IMPORTS,
        "files that Stripe could not import are not noticed",
        "/v1/events",
        {"limit": 1},
        optional=True,
    ),
    Permission(
        "Meter event adjustments",
        "write",
        Use.CANCEL,
        "no event can be cancelled",
        "/v1/billing/meter_event_adjustments",
        optional=True,
    ),
)
"""In the order in which they are told."""

EVERYDAY = frozenset({Use.SEND, Use.READ_BACK, Use.ACCOUNT})
"""What the daemon does with a key, whatever is configured."""

COMMANDS = frozenset({Use.APPLY, Use.LOOK_UP})
"""What only commands make use of: a key of the daemon need not have it."""

USELESS: Mapping[str, str] = {
    "charges": "/v1/charges",
    "payouts": "/v1/payouts",
}
"""What a key that meters has no use for, and whoever steals it much."""


class Answer(StrEnum):
    """What asking came to."""

    YES = "yes"
    PROBABLY = "probably"
    NO = "no"
    UNCLEAR = "unclear"


class Held(NamedTuple):
    """A permission that is wanted, and whether the key has it. `words` is Stripe's name for it, or its words."""

    permission: Permission
    answer: Answer
    words: str | None


class KeyReport(NamedTuple):
    """What a key may do, as far as it was asked."""

    unrestricted: bool
    held: tuple[Held, ...]
    useless: tuple[str, ...]
    """What it may read besides, and should not."""
    uses: frozenset[Use] = EVERYDAY
    """What it was asked about."""

    def sentences(self, *, to_apply: bool) -> Iterator[tuple[Literal["ok", "note", "wrong"], str]]:
        """Say what of it is right, worth knowing or wrong. `to_apply`: meters are missing that `apply` would make."""
        if self.unrestricted:
            enough = _listed(each for each in NEEDED if each.use in self.uses - COMMANDS)
            yield (
                "note",
                f"it is a full secret key, far more than is needed: make a restricted key with only {enough}",
            )
            return
        for each in self.held:
            permission = each.permission
            called = f" (Stripe calls it {each.words})" if each.words else ""
            if each.answer is Answer.NO and not permission.optional:
                yield (
                    "wrong",
                    f"it lacks `{permission}`{called}: {permission.without}; give it to the restricted key",
                )
            elif each.answer is Answer.NO and (permission.use is not Use.APPLY or to_apply):
                yield "note", f"it lacks `{permission}`{called}: {permission.without}"
            elif each.answer is Answer.UNCLEAR:
                yield "note", f"whether it has `{permission}` could not be found out: {each.words}"
        if self.useless:
            enough = _listed(each.permission for each in self.held if each.permission.use not in COMMANDS)
            yield (
                "note",
                f"it may also read {', '.join(self.useless)}, of no use here: leave it only {enough}",
            )
        yield from self._all_there()

    def _all_there(self) -> Iterator[tuple[Literal["ok"], str]]:
        needed = [each for each in self.held if not each.permission.optional]
        if needed and all(each.answer in (Answer.YES, Answer.PROBABLY) for each in needed):
            there = ", ".join(
                dict.fromkeys(
                    f"`{each.permission}`"
                    + " (probably)" * (each.permission.level == "write" and each.answer is Answer.PROBABLY)
                    for each in needed
                )
            )
            yield "ok", f"it has what is needed: {there}"


class KeyPermissions:
    """Asks what the key may do in an account."""

    def __init__(self, context: AccountContext, *, restricted: bool) -> None:
        self._context = context
        self._restricted = restricted

    async def report(self, uses: Iterable[Use]) -> KeyReport:
        """Say what of the wanted is there, and what else. Raises SinkHalted if the key or the address is no good at all."""
        if not self._restricted:  # a full key has every permission there is
            return KeyReport(unrestricted=True, held=(), useless=(), uses=frozenset(uses))
        wanted = frozenset(uses)
        held = [await self._held(each) for each in NEEDED if each.use in wanted]
        useless = [
            name
            for name, path in USELESS.items()
            if (await self._ask("get", path, {"limit": 1}))[0] is Answer.YES
        ]
        return KeyReport(unrestricted=False, held=tuple(held), useless=tuple(useless), uses=wanted)

    async def _held(self, permission: Permission) -> Held:
        answer, words = await self._ask(permission.method, permission.path, permission.params)
        return Held(permission, answer, words)

    async def _ask(self, method: str, path: str, params: Mapping[str, object]) -> tuple[Answer, str | None]:
        client = self._context.client
        try:
            await client.api.raw_request_async(method, path, **self._context.options, **params)
        except Exception as error:  # noqa: BLE001 - an answer like any other
            return self._judge(client.describe(error))
        return Answer.YES, None

    def _judge(self, failure: Refusal | NoResponse) -> tuple[Answer, str | None]:
        if isinstance(failure, NoResponse):
            raise SinkUnreachable(f"Stripe gave no answer to sink {self._context.sink}: {failure.what}.")
        if failure.status == FORBIDDEN and failure.code not in KEY_CODES:
            return Answer.NO, named(failure.message)
        if failure.status == BAD_REQUEST or (
            failure.status == NOT_FOUND and why_halt(failure, self._context.sink) is None
        ):
            return Answer.PROBABLY, None  # it was let in far enough to be told what else is wrong
        if failure.status != NOT_FOUND and (halt := why_halt(failure, self._context.sink)):
            raise SinkHalted(halt)
        return Answer.UNCLEAR, describe(failure)


def _listed(permissions: Iterable[Permission]) -> str:
    return ", ".join(dict.fromkeys(f"`{each}`" for each in permissions))


def named(message: str) -> str | None:
    """Return the permission that Stripe's message names, such as `rak_billing_meter_write`."""
    found = re.search(r"\brak_[a-z0-9_]+", message)
    return found[0] if found else None
