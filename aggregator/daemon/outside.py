"""What a daemon says to the outside by itself, as configured: that it lives, and what is amiss."""

import datetime as dt

from aggregator.core.troubles import Announcer, Trouble
from aggregator.errors import LedgerError
from aggregator.monitoring.readiness import Readiness
from aggregator.monitoring.watch import LOOK_SECONDS, Repeating, SignOfLife, Telling
from aggregator.wiring.app import App

SHORTEST_LOOK_SECONDS = 1.0
"""Who wants to be told sooner than we look otherwise is told so, but not by looking all the time."""


def look_seconds(notify_after: dt.timedelta) -> float:
    """Return how often to look for troubles that people are to be told of after so long."""
    return min(LOOK_SECONDS, max(notify_after.total_seconds(), SHORTEST_LOOK_SECONDS))


def outside_of(app: App, readiness: Readiness) -> list[Repeating]:
    """Return what is to be started with the daemon and stopped with it; nothing where nobody is to be told."""
    monitoring, found = app.config.monitoring, []
    url, services = monitoring.sign_of_life_url(), monitoring.services_revealed()
    if url is not None:

        def well() -> bool:
            try:
                app.ledger.notifications.last_pass_at()
            except LedgerError:
                return False
            return readiness.state(app.ledger.instant()).ready

        found.append(Repeating("sign-of-life", monitoring.heartbeat_every, SignOfLife(url, well)))
    if services:
        from aggregator.daemon.metrics import context_of
        from aggregator.monitoring.metrics import Figures
        from aggregator.monitoring.troubles import troubles

        figures, context = Figures(app.ledger, app.config), context_of(app, readiness)

        def amiss() -> list[Trouble]:
            return troubles(app.config, context, figures.answers(), app.ledger.instant())

        announcer = Announcer(monitoring.notify_after, monitoring.notify_again)
        telling = Telling(services, announcer, amiss, app.ledger.instant)
        found.append(Repeating("telling", look_seconds(monitoring.notify_after), telling))
    return found
