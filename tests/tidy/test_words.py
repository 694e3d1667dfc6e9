"""The words that were given up stay given up: in modules, classes, functions, tables, columns, keys, commands, the log.

The glossary (docs/how-it-works.md, "Words") has the words that are used. Here are old ones that said the same in a way that
only we understood, with what is said instead. Prose may use a word like "told" in its ordinary meaning; a name may not.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

import aggregator.cli
from aggregator.runtime import log

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
    "pace": "rate_limit",
    "pin": "identity",
    "points": "failpoints",
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
    "heartbeat": "claim counter",
    "aside": "unmapped",
    "deaf": "unsubscribed",
    "desk": "admin",
    "excerpt": "events in span",
    "hears": "polled",
    "intake": "notification poller",
    "judgement": "response",
    "keyring": "permissions",
    "lazily": "lazy loop",
    "mend": "fix",
    "notice": "notification",
    "office": "account context",
    "parcel": "request",
    "pin": "identity",
    "road": "route",
    "roads": "routes",
    "ruling": "conclusion",
    "strangers": "unconfigured meters",
    "streamer": "stream sender",
    "heard": "seen, polled",
    "tell": "report, show, post",
    "teller": "notification client",
    "told": "describe, figures",
    "unanswered": "unacknowledged",
    "voice": "origin",
    "voices": "origins",
}
"""A part of a class's or function's name, and what to say instead."""

VARIABLES = {
    "heard": "polled",
    "told": "failure, refusal, answer, parsed",
    "untold": "unnamed",
    "voice": "origin",
}
"""A part of the name of a variable, a parameter or a field, and what to say instead: what it holds."""

TABLES = {
    "aside": "unmapped",
    "intake": "poll",
    "notice": "notification",
    "office": "account context",
    "pin": "identity",
    "run": "pass",
    "voice": "origin",
}
COLUMNS = {"beat": "claims_made", "heard_until": "polled_until", "run_id": "pass_id", "way": "transport"}
KEYS = {"settle": "delay"}
COMMANDS = {"absent": "mark-missing", "booked": "mark-accepted"}
EVENTS = {"files_elsewhere": "files_moved"}
"""What stands in the ledger, the configuration, the command line and the log, and what it is called now."""


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


def given() -> Iterator[tuple[str, str]]:
    """Yield each name that is given to a value, with its module."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case (
                    ast.Name(id=name, ctx=ast.Store())
                    | ast.Attribute(attr=name, ctx=ast.Store())
                    | ast.arg(arg=name)
                ):
                    yield path.relative_to(ROOT).as_posix(), name


def test_no_value_has_an_old_name() -> None:
    """A variable is called by what it holds, not by how we came to know it."""
    found = {
        f"{path}:{name}": VARIABLES[word] for path, name in given() for word in parts(name) & VARIABLES.keys()
    }
    assert found == {}
    assert {f"{path}:{name}" for path, name in given() if name.strip("_") == "its"} == set()


def keys_of(schema: object) -> Iterator[str]:
    """Yield every key that a schema of the configuration knows."""
    if isinstance(schema, Mapping):
        properties = schema.get("properties")
        yield from properties if isinstance(properties, Mapping) else ()
        for part in schema.values():
            yield from keys_of(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from keys_of(part)


def commands_of(command: click.Command) -> Iterator[str]:
    """Yield the names of every command below one."""
    if isinstance(command, click.Group):
        for name, part in command.commands.items():
            yield name
            yield from commands_of(part)


def test_nothing_in_the_ledger_has_an_old_name() -> None:
    """Tables and columns, as the one migration makes them."""
    made = "".join(path.read_text() for path in (ROOT / "migrations/versions").glob("*.py"))
    tables = set(re.findall(r"create table aggregator\.(\w+)", made))
    columns = set(re.findall(r"(?m)^    (\w+) +[a-z]", made))
    assert {"slot", "event_at_rest"} <= tables
    assert {"identifier", "delta"} <= columns
    assert (tables & TABLES.keys(), columns & COLUMNS.keys()) == (set(), set())


def test_nothing_a_person_writes_or_reads_has_an_old_name() -> None:
    """Keys of the configuration, commands, and the events of the log."""
    keys = set(keys_of(json.loads((ROOT / "config/aggregator.schema.json").read_text())))
    commands = set(commands_of(aggregator.cli.cli))
    events = {value for value in vars(log).values() if isinstance(value, str)}
    assert "revisit" in keys
    assert "release" in commands
    assert "pass_committed" in events
    assert (keys & KEYS.keys(), commands & COMMANDS.keys(), events & EVENTS.keys()) == (set(), set(), set())
