"""The words that were given up stay given up, in the names of modules, classes and functions.

The glossary (docs/how-it-works.md, "Words") has the words that are used. Here are old ones that said the same in a way that
only we understood, with what is said instead. Prose may use a word like "told" in its ordinary meaning; a name may not.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "aggregator").rglob("*.py"))

MODULE_NAMES = {
    "adopting": "adoption",
    "administration": "admin",
    "again": "reassert",
    "barrier": "commit_barrier",
    "beside": "parity",
    "collected": "collector",
    "copytext": "copy_format",
    "courier": "meter_events, client",
    "desk": "admin",
    "doubts": "in_doubt",
    "due": "schedule",
    "elsewhere": "moved_files",
    "embedded": "embedded_postgres",
    "filing": "file_writer",
    "guard": "shrink_guard",
    "heartbeat": "claim_counter",
    "kept": "disk_list",
    "listening": "jobs",
    "loop": "event_loop",
    "messages": "notifications",
    "office": "account_context",
    "pace": "rate_limit",
    "pin": "identity",
    "points": "failpoints",
    "roads": "routes",
    "session": "stream",
    "tally": "stats",
    "teller": "notifications",
    "telling": "reporting",
    "told": "notifications",
    "unanswered": "unacknowledged",
    "verdicts": "responses",
    "voices": "notifications",
}
"""A module of the old name, and where its content belongs."""

CLASS_NAMES = {
    "Adoption": "Adopter",
    "Beat": "ClaimCount",
    "Cancelling": "Canceller",
    "Candid": "HasCaveats",
    "Collection": "Collector",
    "Courier": "MeterEventSender, RequestSender",
    "Delivery": "Sender",
    "Desk": "AdminClient",
    "Doubts": "InDoubt",
    "Excerpt": "EventsInSpan",
    "Filing": "FileWriter",
    "Heartbeat": "ClaimCounter",
    "Intake": "NotificationPoller",
    "Judgement": "Response",
    "Kept": "DiskList",
    "Keyring": "KeyPermissions",
    "Lazily": "LazyLoop",
    "Notice": "Notification",
    "Office": "AccountContext",
    "Parcel": "Request",
    "Pin": "LedgerIdentity",
    "Reconciliation": "Reconciler",
    "Ruling": "Conclusion",
    "Scattered": "SplitWindow",
    "Stand": "SlotComparison",
    "Streamer": "StreamSender",
    "StripeTeller": "StripeNotificationClient",
    "Teller": "NotificationClient",
    "Tried": "Testable",
    "Turn": "Pacer",
    "Voice": "Origin",
    "Voices": "Origins",
    "Whole": "FileClaim",
}
"""A class of the old name, and what it is called."""

WORDS = {
    "blurred": "imprecise",
    "candid": "caveats",
    "courier": "sender",
    "hears": "polled",
    "heartbeat": "claim counter",
    "judgement": "response",
    "keyring": "permissions",
    "lazily": "lazy loop",
    "mend": "fix",
    "parcel": "request",
    "pin": "identity",
    "ruling": "conclusion",
    "streamer": "stream sender",
    "unanswered": "unacknowledged",
    "voice": "origin",
    "voices": "origins",
}
"""A part of a class's or function's name, and what to say instead."""


def defined() -> Iterator[tuple[str, str]]:
    """Yield each class and function with its module."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield path.relative_to(ROOT).as_posix(), node.name


def parts(name: str) -> set[str]:
    """Return the words that a name is made of, in small letters."""
    return {part.lower() for part in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)}


def test_no_module_has_an_old_name() -> None:
    """Each is called by what it is about, in the field's words."""
    found = [path.relative_to(ROOT).as_posix() for path in MODULES if path.stem in MODULE_NAMES]
    assert found == [], {name: MODULE_NAMES[Path(name).stem] for name in found}


def test_no_class_has_an_old_name() -> None:
    """A class is what it does or is, by a word that a stranger knows."""
    found = {f"{path}:{name}": CLASS_NAMES[name] for path, name in defined() if name in CLASS_NAMES}
    assert found == {}


def test_no_name_is_made_of_an_old_word() -> None:
    """Neither a class nor a function, private ones included."""
    found = {f"{path}:{name}": WORDS[word] for path, name in defined() for word in parts(name) & WORDS.keys()}
    assert found == {}
