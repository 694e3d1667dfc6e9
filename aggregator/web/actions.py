"""What forms do: decide about events that wait, and confirm files. The same verbs that the commands call.

Whoever decides says why, and that stays on record beside the name they signed in with.
"""

from collections.abc import Mapping

from aggregator.core.shown import counted
from aggregator.errors import UsageError
from aggregator.ledger.review.decisions import Decider
from aggregator.ledger.review.parked import Choice
from aggregator.runtime import log
from aggregator.web.sessions import Session
from aggregator.web.site import Action, Backend
from aggregator.wiring.deciding import why_not_anew

Form = Mapping[str, list[str]]

MOST_AT_ONCE = 1_000
LARGEST_ID = 2**63 - 1


def release(backend: Backend, session: Session, form: Form) -> str:
    """Send held or refused events after all, as `aggregator events release` does."""
    ids, decider, ledger = _ids(form), _decider(session, form), backend.ledger
    now = ledger.now()
    found = ledger.parked.waiting(Choice(ids=ids, dismissed=True), MOST_AT_ONCE)
    fitting = [each for each in found if each.state in ("held", "refused")]
    stuck = [why for each in fitting if (why := why_not_anew(backend.config, each, now))]
    if stuck:
        raise UsageError(stuck[0])
    done = ledger.outbox.release([each.event for each in fitting], now, decider)
    _note("release", session, len(done))
    return f"{counted(len(done), 'event')} released, and sent soon."


def dismiss(backend: Backend, session: Session, form: Form) -> str:
    """Leave held or refused events at that, as `aggregator events dismiss` does."""
    ids, decider, ledger = _ids(form), _decider(session, form), backend.ledger
    done = ledger.parked.dismiss(ids, ledger.now(), decider)
    _note("dismiss", session, len(done))
    return f"{counted(len(done), 'event')} dismissed: kept on record, and never billed."


def decide(backend: Backend, session: Session, form: Form) -> str:
    """Do what the button says that was pressed."""
    verb = form.get("verb", [""])[0]
    if verb not in DECIDING:
        raise UsageError("Choose what to do: release, try again or dismiss.")
    return DECIDING[verb](backend, session, form)


def confirm(backend: Backend, session: Session, form: Form) -> str:
    """Record that files are uploaded, as `aggregator files confirm` does."""
    names = list(dict.fromkeys(form.get("name", [])))
    if not names or len(names) > MOST_AT_ONCE:
        raise UsageError("Select the files that you have uploaded.")
    done = backend.ledger.uploads.confirm(names, backend.ledger.now(), _who(session))
    _note("confirm", session, done)
    return f"{counted(len(names), 'file')} confirmed, with {counted(done, 'event')}."


DECIDING: dict[str, Action] = {"release": release, "retry": release, "dismiss": dismiss}
ACTIONS: dict[str, Action] = {"/events": decide, "/files": confirm}
"""What each form does, by its address."""


def _ids(form: Form) -> tuple[int, ...]:
    texts = form.get("id", [])
    if not texts or len(texts) > MOST_AT_ONCE:
        raise UsageError("Select the events that you decide about.")
    if not all(text.isascii() and text.isdigit() and int(text) <= LARGEST_ID for text in texts):
        raise UsageError("That is not an event.")
    return tuple(dict.fromkeys(map(int, texts)))


def _decider(session: Session, form: Form) -> Decider:
    reason = form.get("reason", [""])[0].strip()
    if not reason:
        raise UsageError("Give a reason: it is recorded with your name.")
    return _who(session, reason)


def _who(session: Session, reason: str | None = None) -> Decider:
    return Decider(f"{session.who} on the page", reason)


def _note(verb: str, session: Session, count: int) -> None:
    log.logger().info(log.DECIDED, verb=verb, who=session.who, things=count)
