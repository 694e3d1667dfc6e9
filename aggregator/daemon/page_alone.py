"""The page and the API alone, on a ledger: a process that answers, and neither reads sources by itself nor sends anything.

Rules
- It is watched as a daemon is: by probes, and by figures of the ledger. What only a daemon knows is not told: whether
  sources can be reached, and whether the clock of its host keeps it from working.
- It is ready while the ledger answers: how meters and sinks do is no reason to take the page out of service.
- SIGHUP: everything is built anew from the files. If that fails, what was served before goes on.
"""

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import NamedTuple

from aggregator.config import Config
from aggregator.daemon.metrics import metrics_of
from aggregator.daemon.signals import Signals
from aggregator.errors import AggregatorError
from aggregator.monitoring.readiness import Readiness
from aggregator.runtime import log
from aggregator.web.application import Application
from aggregator.web.listener import Address, Listener
from aggregator.web.serving import Served
from aggregator.web.watched import Watched, for_programs
from aggregator.wiring.app import App

Build = Callable[[], AbstractContextManager[App]]


class _Serving(NamedTuple):
    """What is served, and how its parts are given back."""

    config: Config
    parts: ExitStack


class PageAlone:
    """Serves until it is told to stop. `build` gives a fresh App from the files as they are then."""

    def __init__(self, build: Build, address: Address) -> None:
        self._build = build
        self._address = address
        self._log = log.logger()

    def run(self, begun: Callable[[Config], None]) -> None:
        """Serve until SIGTERM or SIGINT; say once that it has begun. Raises what building for the first time raises."""
        with Signals() as signals:
            serving = self._serve()
            try:
                begun(serving.config)
                while signals.next() == signal.SIGHUP:
                    serving = self._reloaded(serving)
            finally:
                serving.parts.close()

    def _serve(self) -> _Serving:
        """Build everything from the files as they are, and begin to answer."""
        with ExitStack() as parts:
            app = parts.enter_context(self._build())
            pages = Served(self._address, app.config, app.ledger, app.meter_source)
            parts.callback(pages.close)
            watched = Watched(
                app.ledger.notifications,
                app.ledger.instant,
                app.ledger.database.slow,
                scrape=metrics_of(app, Readiness(), part="web"),
                access=pages.access,
                scrape_token=app.config.monitoring.scrape_token_revealed(),
            )
            parts.callback(watched.close)
            routes = [*watched.routes(), *pages.routes()]
            listener = Listener(self._address, Application(routes, for_programs(pages.error)))
            parts.callback(listener.stop)
            listener.start()
            return _Serving(app.config, parts.pop_all())

    def _reloaded(self, serving: _Serving) -> _Serving:
        """Return what is served from now on: what the files say, or what was served before if that cannot be built."""
        try:
            replacement = self._serve()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the new one, the old one serves
            if not isinstance(error, AggregatorError):
                self._log.exception(log.UNEXPECTED, part="reload")
            reason = str(error) or type(error).__name__
            self._log.error(log.CONFIG_REFUSED, reason=reason, kept="the configuration that was running")
            return serving
        try:
            serving.parts.close()
        except Exception:  # noqa: BLE001 - what is given back badly must not keep the new one from serving
            self._log.exception(log.UNEXPECTED, part="reload")
        same = replacement.config == serving.config
        event = log.CONFIG_UNCHANGED if same else log.CONFIG_RELOADED
        self._log.info(event, meters=sorted(replacement.config.meters))
        return replacement
