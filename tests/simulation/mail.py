"""What the service tells by itself: messages that appear late in its lists, and are delivered late, twice or never."""

import datetime as dt
import random
from collections.abc import Callable
from typing import NamedTuple

from aggregator.core.model import Report, Span
from aggregator.core.notifications import Notification, ParsedNotification
from aggregator.errors import SinkCrowded, SinkHalted, SinkUnreachable
from tests.simulation.conditions import HOUR, MINUTE
from tests.simulation.gates import Gate
from tests.simulation.scheduler import Scheduler
from tests.simulation.service import Service

MOST_LISTED = 2
"""More than so many at once, and the list is not to be had: as where there are too many pages."""

KIND = "reported"


class Message(NamedTuple):
    """One message, and from when on it can be asked for."""

    parsed: ParsedNotification
    appears_at: dt.datetime


class Mail:
    """All messages of a service. `deliver` hands one to whoever lives."""

    def __init__(self, scheduler: Scheduler, random: random.Random, deliver: Callable[[bytes], None]) -> None:
        self.messages: dict[str, Message] = {}
        self._scheduler = scheduler
        self._random = random
        self._deliver = deliver

    def post(self, report: Report) -> None:
        """Make a message of a report."""
        now, dice = self._scheduler.now, self._random.random
        notification = Notification(f"evt_{len(self.messages)}", KIND, now)
        self.messages[notification.id] = Message(
            ParsedNotification(notification, (report,)), now + 55 * MINUTE * dice() ** 2
        )
        for _ in range(self._random.choice([0, 0, 1, 2])):
            self._scheduler.after(3 * HOUR * dice() ** 2, lambda: self._deliver(notification.id.encode()))


class MailGate:
    """The service's messages, for one process."""

    takes_deliveries = True

    def __init__(
        self, gate: Gate, service: Service, mail: Mail, known_as: Callable[[Report], Report]
    ) -> None:
        self._gate = gate
        self._known_as = known_as
        self._service = service
        self._mail = mail

    def account_of(self, customer: str) -> str | None:
        """Name a customer's own account: nobody has one here."""
        return None

    def imports(self, span: Span) -> list[ParsedNotification]:
        """List what was not imported: nothing is imported here."""
        return []

    def listed(self, span: Span, account: str | None = None) -> list[Notification]:
        """List what was made in a span and has appeared by now, in no order."""
        self._ask()
        now, saw = self._gate.scheduler.now, self._gate.marks.saw
        inside = [
            each for each in self._mail.messages.values() if each.parsed.notification.created_at in span
        ]
        found = [each.parsed.notification for each in inside if each.appears_at <= now]
        if len(found) < len(inside):
            saw("a message appears late")
        if len(found) > MOST_LISTED and span.end - span.start > MINUTE:
            saw("a list in pieces")
            raise SinkCrowded
        self._gate.random.shuffle(found)
        return found

    def fetched(self, name: str, account: str | None = None) -> ParsedNotification | None:
        """Read one."""
        self._ask()
        return self._read(name)

    def _read(self, name: str) -> ParsedNotification:
        """Return a message, with the meters it is about by the names that this process knows."""
        parsed = self._mail.messages[name].parsed
        return parsed._replace(reports=tuple(map(self._known_as, parsed.reports)))

    def delivered(self, body: bytes, signature: str) -> Notification | ParsedNotification | None:
        """Read what was delivered: the message itself, or only its name."""
        self._gate.step()
        parsed = self._read(body.decode())
        return parsed if self._gate.random.random() < 0.5 else parsed.notification

    def _ask(self) -> None:
        gate = self._gate
        gate.step()
        if self._service.halted:
            gate.marks.saw("the service does not let itself be asked")
            raise SinkHalted
        if self._service.in_black_hole() or gate.random.random() < gate.conditions.lost_before:
            raise SinkUnreachable
