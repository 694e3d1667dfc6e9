"""A sink that tells: what tests have it say, and what it was asked."""

import datetime as dt
from collections.abc import Callable

from aggregator.core.model import Report, Span
from aggregator.core.notifications import Notification, ParsedNotification, Unimported
from aggregator.errors import SinkCrowded, SinkError
from tests.postgres.world import World

SIGNED = "signed"
KIND = "v1.billing.meter.error_report_triggered"
IMPORT_KIND = "data_management.import_set.failed"


class NotificationClient:
    """A sink that keeps messages for 30 days, shows each from some moment on, and lists so many at once at most.

    Each message is of an account, None for the sink's own. `refuses` strikes every question, `refusing` those to an account
    or, under `imports`, about imports.
    """

    takes_deliveries = True

    def __init__(self, world: World) -> None:
        self.world = world
        self.messages: dict[str, tuple[ParsedNotification, dt.datetime]] = {}
        self.files: list[ParsedNotification] = []
        self.most = 1_000
        self.asked: list[Span] = []
        self.asked_of: list[str | None] = []
        self.fetches: list[str] = []
        self.refuses: Exception | None = None
        self.refusing: dict[str | None, Exception] = {}
        self.unreadable: set[str] = set()
        self.during_fetch: Callable[[], object] = lambda: None

    def tell(
        self,
        name: str,
        *reports: Report,
        made_at: dt.datetime | None = None,
        shown_at: dt.datetime | None = None,
        account: str | None = None,
    ) -> None:
        """Make a message; an account speaks of its own customers."""
        made_at = made_at or self.world.now
        notification = Notification(name, KIND, made_at, account)
        whose = f"{account}/" if account else ""
        told = ParsedNotification(notification, tuple(each._replace(whose=whose) for each in reports))
        self.messages[name] = told, shown_at or made_at

    def drop(self, name: str, file: str, made_at: dt.datetime | None = None) -> None:
        """Fail to import a file."""
        notification = Notification(name, IMPORT_KIND, made_at or self.world.now)
        self.files.append(
            ParsedNotification(notification, unimported=(Unimported((file,), "no column value"),))
        )

    def account_of(self, customer: str) -> str | None:
        account, slash, _ = customer.partition("/")
        return account if slash else None

    def listed(self, span: Span, account: str | None = None) -> list[Notification]:
        self.asked.append(span)
        self.asked_of.append(account)
        self._refuse(account)
        return self._within(span, [told for told, _ in self.messages.values()], account)

    def fetched(self, name: str, account: str | None = None) -> ParsedNotification | None:
        self.fetches.append(name)
        self.during_fetch()
        self._refuse(account)
        if name in self.unreadable:
            raise SinkError(f"{name} cannot be read")
        told = self.messages[name][0]
        return told if told.notification.account == account else None

    def imports(self, span: Span) -> list[ParsedNotification]:
        self.asked.append(span)
        self.asked_of.append("imports")
        self._refuse("imports")
        names = {notification.id for notification in self._within(span, self.files, None)}
        return [told for told in self.files if told.notification.id in names]

    def delivered(self, body: bytes, signature: str) -> Notification | ParsedNotification | None:
        if signature != SIGNED:
            raise SinkError("who knows why")
        name = body.decode()
        whole = next((told for told in self.files if told.notification.id == name), None)
        return whole or (self.messages[name][0].notification if name in self.messages else None)

    def _refuse(self, whose: str | None) -> None:
        if error := self.refuses or self.refusing.get(whose):
            raise error

    def _within(self, span: Span, told: list[ParsedNotification], account: str | None) -> list[Notification]:
        found = [
            each.notification
            for each in told
            if each.notification.account == account
            and each.notification.created_at in span
            and self.messages.get(each.notification.id, (each, span.start))[1] <= self.world.now
        ]
        if len(found) > self.most:
            raise SinkCrowded("more than can be listed")
        return found
