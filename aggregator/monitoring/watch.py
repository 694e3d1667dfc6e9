"""What is said to the outside while a daemon works: that it lives, and what is amiss.

Rules
- Each has a thread of its own, and waits for nobody but itself: a service that does not answer delays nothing else.
- That all works is said only while it does: whoever waits for the call raises the alarm where none comes.
- What could not be said is said in the log, once, and tried again.
"""

import datetime as dt
import threading
from collections.abc import Callable, Iterable, Sequence
from urllib.error import URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from aggregator.core.troubles import Announcer, Trouble
from aggregator.monitoring.send import Sent, send
from aggregator.runtime import log

PING_SECONDS = 10.0
LOOK_SECONDS = 15.0
STOP_SECONDS = 1.0


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Follow none: whoever answers so has not noted the call."""


def ping(url: str) -> str | None:
    """Make a call, and say what went wrong, without the address; None if it was taken."""
    try:
        with build_opener(_NoRedirect()).open(Request(url), timeout=PING_SECONDS) as answer:  # noqa: S310 - http or https
            return None if 200 <= answer.status < 300 else f"it answered {answer.status}"
    except (URLError, OSError, ValueError) as error:
        code = getattr(error, "code", None)
        return f"it answered {code}" if code else f"it cannot be reached ({type(error).__name__})"


class Repeating:
    """Does something again and again on a thread of its own."""

    def __init__(self, name: str, every: dt.timedelta | float, do: Callable[[], None]) -> None:
        self._every = every.total_seconds() if isinstance(every, dt.timedelta) else every
        self._do = do
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Begin it no more. What it waits for is hardly waited for."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _repeat(self) -> None:
        while not self._stopping.is_set():
            try:
                self._do()
            except Exception:  # noqa: BLE001 - the outermost loop of this thread: the next round goes on
                log.logger().exception(log.UNEXPECTED, part="monitoring")
            self._stopping.wait(self._every)


class SignOfLife:
    """Calls an address while all works: `well` says whether it does."""

    def __init__(self, url: str, well: Callable[[], bool], call: Callable[[str], str | None] = ping) -> None:
        self._url = url
        self._well = well
        self._call = call
        self._failed = False

    def __call__(self) -> None:
        """Call once, if all works; say in the log when that begins to fail, and when it is over."""
        if not self._well():
            return
        trouble = self._call(self._url)
        if trouble is not None and not self._failed:
            log.logger().warning(log.PING_FAILED, reason=trouble)
        if trouble is None and self._failed:
            log.logger().info(log.PING_RESUMED)
        self._failed = trouble is not None


class Telling:
    """Tells people of troubles, by services as apprise knows them."""

    def __init__(
        self,
        services: Sequence[str],
        announcer: Announcer,
        found: Callable[[], Iterable[Trouble]],
        clock: Callable[[], dt.datetime],
        deliver: Callable[[Sequence[str], str, str, str], list[Sent]] = send,
    ) -> None:
        self._services = services
        self._announcer = announcer
        self._found = found
        self._clock = clock
        self._deliver = deliver

    def __call__(self) -> None:
        """Look once, and tell what is to be told."""
        now = self._clock()
        message = self._announcer.next_message(self._found(), now)
        if message is None:
            return
        kind = "warning" if message.begun or message.lasting else "success"
        sent = self._deliver(self._services, message.title, message.body, kind)
        for service, trouble in sent:
            if trouble is not None:
                log.logger().error(log.ANNOUNCE_FAILED, service=service, reason=trouble)
        if any(each.trouble is None for each in sent):
            self._announcer.note_sent(message, now)
            figures = {
                "begun": len(message.begun),
                "over": len(message.over),
                "lasting": len(message.lasting),
            }
            log.logger().info(log.ANNOUNCED, **figures)
        else:
            self._announcer.failed(now)
