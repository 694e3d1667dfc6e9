"""All state of one sandbox: accounts, rules, clock, faults, and the file that makes it last.

Test mode and live mode share nothing, nor do two accounts named by `Stripe-Account`: each pair has its own meters,
customers, events and kept answers. Identifiers of events are unique within such a pair; Stripe does not document the
scope, and this is the widest it can have. The meters a sandbox is started with exist in every pair, under ids of its own.

Everything happens on one thread and between two awaits, so there are no locks.
"""

from collections.abc import Iterable

from aggregator.sandbox.clock import Clock, StoppedClock
from aggregator.sandbox.customers import Customers
from aggregator.sandbox.errors import ApiError, StateError
from aggregator.sandbox.events import Events
from aggregator.sandbox.faults import Faults
from aggregator.sandbox.idempotency import KEEP_SECONDS_V2, Idempotency
from aggregator.sandbox.imports import Imports
from aggregator.sandbox.journal import Journal, Note, Record
from aggregator.sandbox.keys import Keys
from aggregator.sandbox.later import Later
from aggregator.sandbox.meters import Meters
from aggregator.sandbox.notifications import Notifications
from aggregator.sandbox.series import Sight
from aggregator.sandbox.sessions import Session, Sessions
from aggregator.sandbox.settings import SandboxOptions
from aggregator.sandbox.stats import Stats
from aggregator.sandbox.webhooks import Webhooks

# Accounts are made by naming them; a limit, so that a mistake cannot fill the memory.
MAX_ACCOUNTS = 1000


class Account:
    """One account in one mode."""

    def __init__(
        self, name: str, note: Note, *, livemode: bool, connected: bool, idempotency_limit: int
    ) -> None:
        self.name = name
        self.livemode = livemode
        self.connected = connected
        # What ids of the account begin with, after their kind. No two accounts share an id.
        tag = "live_" if livemode else "test_"
        context = None
        if connected:
            tag, context = f"{tag}{name.removeprefix('acct_')}_", name
        self.meters = Meters(livemode=livemode, tag=tag, note=note)
        self.customers = Customers(livemode=livemode, note=note)
        self.events = Events(
            tag=tag, context=context, note=note, meters=self.meters, customers=self.customers
        )
        self.notifications = Notifications(tag, context, self.events.findings, note)
        self.imports = Imports(tag, context, note)
        self.webhooks = Webhooks(note)
        self.idempotency = Idempotency(limit=idempotency_limit, note=note)
        self.idempotency_v2 = Idempotency(
            limit=idempotency_limit, note=note, keep_seconds=KEEP_SECONDS_V2, kind="reply_v2"
        )
        # (meter id, customer) of the event calls now in flight; Stripe takes one at a time.
        self.in_flight: set[tuple[str, str]] = set()

    def restore(self, kind: str, record: Record) -> None:
        """Take one record back from the state file."""
        match kind:
            case "meter":
                self.meters.restore(record)
            case "customer":
                self.customers.restore(record)
            case "event":
                self.events.restore(record)
            case "finding":
                self.events.findings.restore(record)
            case "cancellation":
                self.events.cancellations.restore(record)
            case "notification":
                self.notifications.restore(record)
            case "import":
                self.imports.restore(record)
            case "webhook" | "delivered":
                self.webhooks.restore(kind, record)
            case "reply":
                self.idempotency.restore(record)
            case "reply_v2":
                self.idempotency_v2.restore(record)
            case _:
                raise StateError(
                    f"The state file has a record of kind {kind!r}, which this version does not know."
                )


class Store:
    """The state of one sandbox. Opening it reads the state file; raises StateError if that cannot be used."""

    def __init__(self, options: SandboxOptions) -> None:
        self.options = options
        self.journal = Journal(options.state)
        self._start_afresh()
        try:
            self._read_journal()
            self._make_meters(self._accounts.values())
        except BaseException:
            self.journal.close()
            raise
        self.journal.flush()

    def _start_afresh(self) -> None:
        self.clock = Clock()
        self.rules = self.options.rules
        self.faults = Faults(self.options.faults)
        self.keys = Keys()
        self.sessions = Sessions()
        # The accounts that a header may name besides the sandbox's own; None means any.
        self.connected: frozenset[str] | None = None
        self.stats = Stats()
        self.later = Later()
        self._accounts: dict[tuple[str, bool], Account] = {}
        for livemode in (False, True):
            self._open(self.options.account, livemode=livemode)

    def account(self, name: str | None, *, livemode: bool) -> Account:
        """Return an account in one mode, made on first sight; None means the sandbox's own."""
        account = self._accounts.get((name or self.options.account, livemode))
        known = (
            name is None or name == self.options.account or self.connected is None or name in self.connected
        )
        if account is not None and known:
            return account
        if not known or name is None or not name.startswith("acct_") or len(self._accounts) >= MAX_ACCOUNTS:
            message = (
                f"The provided key does not have access to account '{name}' (or that account does not exist). "
                "Application access may have been revoked."
            )
            raise ApiError(403, message, reason="account_invalid", code="account_invalid")
        account = self._open(name, livemode=livemode)
        self._make_meters([account])
        return account

    def accounts(self) -> Iterable[Account]:
        """Return every account in every mode."""
        return self._accounts.values()

    def open_session(self, account: Account) -> Session:
        """Make a session of an account."""
        session = self.sessions.open(account.name, self.clock.now(), self.rules, livemode=account.livemode)
        self.journal.note("session", session._asdict())
        return session

    def sight(self, account: Account | None = None, *, delayed: bool = True) -> Sight:
        """Return what shows in summaries now, of an account if they are late there; without the delay, what will."""
        rules = self.rules
        late_since = account.notifications.late_since() if account is not None else None
        delay = rules.processing_delay_seconds if delayed else None
        now = self.clock.now() if late_since is None else late_since
        return Sight(now, delay, rules.last_by, rules.window_per_payload)

    def catch_up(self) -> None:
        """Do what was put off until now, each at its own moment."""
        running = self.clock
        try:
            for due in self.later.take(running.now()):
                self.clock = StoppedClock(due.at)
                due.action()
        finally:
            self.clock = running

    def set_clock(self, offset_seconds: float) -> None:
        """Shift the clock; the shift is kept in the state file, since times of receipt were made with it."""
        self.clock.offset_seconds = offset_seconds
        self.journal.note("clock", {"offset_seconds": offset_seconds})
        self.journal.flush()

    def reset(self) -> None:
        """Forget everything, the state file too, and start as at first."""
        self.journal.clear()
        self._start_afresh()
        self._make_meters(self._accounts.values())
        self.journal.flush()

    def _open(self, name: str, *, livemode: bool) -> Account:
        def note(kind: str, record: Record) -> None:
            # A call that was in flight during a reset belongs to nothing any more.
            if self._accounts.get((name, livemode)) is account:
                self.journal.note(kind, {"account": name, "livemode": livemode, **record})

        limit = self.options.idempotency_limit
        connected = name != self.options.account
        account = Account(name, note, livemode=livemode, connected=connected, idempotency_limit=limit)
        self._accounts[name, livemode] = account
        return account

    def _read_journal(self) -> None:
        for number, record in enumerate(self.journal.read(), start=1):
            try:
                self._restore(record)
            except (KeyError, TypeError, ArithmeticError) as error:
                path = self.options.state
                raise StateError(
                    f"Line {number} of {path} cannot be used ({error!r}). Use another file."
                ) from error

    def _restore(self, record: Record) -> None:
        kind = record.pop("kind")
        if kind == "clock":
            self.clock.offset_seconds = record["offset_seconds"]
            return
        if kind == "session":
            self.sessions.restore(record)
            return
        where = record.pop("account"), record.pop("livemode")
        account = self._accounts.get(where) or self._open(where[0], livemode=where[1])
        account.restore(kind, record)

    def _make_meters(self, accounts: Iterable[Account]) -> None:
        now = int(self.clock.now())
        for account in accounts:
            for spec in self.options.meters:
                meter = account.meters.make(spec, now)
                if (meter.formula, meter.window) != (spec.formula, spec.window):
                    raise StateError(
                        f"The state file has a meter {spec.event_name} with formula {meter.formula} and window "
                        f"{meter.window}. Ask for the same, or use another state file."
                    )
