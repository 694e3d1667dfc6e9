"""The page and the API alone, on a ledger: a process that answers, and neither reads sources by itself nor sends anything.

Rules
- It is watched as a daemon is: by probes, and by figures of the ledger. What only a daemon knows is not told: whether
  sources can be reached, and whether the clock of its host keeps it from working.
- It is ready while the ledger answers: how meters and sinks do is no reason to take the page out of service.
- SIGHUP: everything is built anew from the files. If that fails, what was served before goes on.
"""

import signal
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from typing import NamedTuple

from aggregator.config import Config
from aggregator.daemon.metrics import metrics_of
from aggregator.daemon.reloading import reloaded
from aggregator.daemon.signals import Signals
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

    @property
    def meters(self) -> Iterable[str]:
        """The meters that are shown."""
        return self.config.meters

    def close(self) -> None:
        """Answer no more."""
        self.parts.close()


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
                    serving = reloaded(self._log, self._serve, serving)
            finally:
                serving.close()

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
