"""`aggregator check`: everything that can be known before the first event is sent."""

import datetime as dt
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from aggregator.cli.cursors import try_out
from aggregator.cli.exit_codes import ExitCode
from aggregator.cli.feeds import findings_of
from aggregator.cli.mappings import tried_mappings
from aggregator.cli.options import config_option, json_option, load_config
from aggregator.cli.printing import say, show_rows, write_json
from aggregator.cli.prove import prove
from aggregator.cli.revisits import costs
from aggregator.cli.samples import try_sample
from aggregator.cli.tables import table_notes
from aggregator.core.shown import counted
from aggregator.errors import UsageError

if TYPE_CHECKING:
    from aggregator.config import Config, Meter
    from aggregator.config import Sink as ConfiguredSink
    from aggregator.core.model import Fence
    from aggregator.ledger.ledger import Ledger
    from aggregator.sinks.protocol import Destination
    from aggregator.source import Source
    from aggregator.trial import Register


TRIAL_SECONDS = 30.0
"""How long a query is tried out, if nobody says otherwise: enough for some fifty questions of half a second."""

ADDED_UP = (
    "its Stripe meter does not say that it prices by the dimensions {keys}: they are sent along, and what differs by them "
    "is added up in one figure. If prices differ, map `stripe.event_names`"
)

SHORT = dt.timedelta(minutes=1)
"""Enough to see whether a sink lets itself be asked."""


class Finding(NamedTuple):
    """One thing that was looked at: `ok`, `note` (worth knowing), `warning` (perhaps not meant) or `wrong`; what to do."""

    what: str
    verdict: str
    text: str


@click.command()
@config_option
@json_option
@click.option(
    "--send-test-event",
    "send_test_event",
    is_flag=True,
    help="Send one event per meter to the self_test_customer of each sink, and check that it is counted.",
)
@click.option(
    "--trial-seconds",
    type=click.FloatRange(min=1),
    default=TRIAL_SECONDS,
    show_default=True,
    help="How long to try each meter's query on closed windows, in seconds.",
)
@click.option(
    "--prove-source",
    "prove_source",
    metavar="NAME",
    help=(
        "Test only this source: check by read-only queries that it behaves as aggregator needs, and "
        "say what is proven."
    ),
)
@click.option(
    "--offline",
    is_flag=True,
    help="Check only the configuration files, and connect to nothing. For commit hooks and reviews.",
)
@click.option("--no-trial", is_flag=True, help="Check only the columns of each query; do not try it on data.")
def check(
    config_path: Path,
    *,
    as_json: bool,
    send_test_event: bool,
    trial_seconds: float,
    prove_source: str | None,
    no_trial: bool,
    offline: bool,
) -> None:
    """Check the configuration, the ledger, every source and query, and every sink. Exits with 1 if anything is wrong.

    It tries each query on closed windows: does it respect its bounds, give the same result twice, and add up?
    """
    config = load_config(config_path)
    if offline and (prove_source is not None or send_test_event):
        raise UsageError("--offline asks nobody: leave out --prove-source and --send-test-event.")
    if prove_source is not None:
        prove(config, prove_source, as_json=as_json)
        return
    findings = [Finding("configuration", "ok", f"{counted(len(config.meters), 'meter')} in {config_path}")]
    if offline:
        findings.append(
            Finding("all else", "note", "no source, ledger or sink was asked, and no query was tried out")
        )
    else:
        findings += _asked(config, None if no_trial else trial_seconds, trying=send_test_event)
    wrong = [finding for finding in findings if finding.verdict == "wrong"]
    rows = [finding._asdict() for finding in findings]
    if as_json:
        write_json({"ok": not wrong, "findings": rows})
    else:
        show_rows("check", "what _=verdict finding=text", rows)
        say(f"{counted(len(wrong), 'thing')} to put right." if wrong else "All is well.")
    if wrong:
        raise click.exceptions.Exit(ExitCode.FAILED)


def _asked(config: "Config", trial_seconds: float | None, *, trying: bool) -> Iterator[Finding]:
    """Yield what ledger, mappings, sources and sinks answer."""
    pinned: dict[str, str] = {}
    yield from _ledger(config, pinned)
    mappings: dict[str, dict[str, str | None]] = {}
    yield from (Finding(*each) for each in tried_mappings(config, mappings))
    with _registers(config) as registers:
        yield from _sources(config, trial_seconds, registers, mappings)
    yield from _sinks(config, pinned, trying=trying)


def _ledger(config: "Config", pinned: dict[str, str]) -> Iterator[Finding]:
    """Look at the ledger, and fill `pinned` with the account that each sink went to."""
    from aggregator.errors import LedgerError
    from aggregator.ledger.database import remarks
    from aggregator.wiring.opening import STILL_BILLABLE, open_ledger
    from aggregator.wiring.sinks import file_places

    where = "embedded Postgres" if config.ledger.url is None else "ledger.url"
    try:
        with open_ledger(config, may_migrate=True, name="aggregator check") as ledger:
            pinned |= ledger.identity.accounts()
            trouble = ledger.identity.check(ledger.instant())
            yield (
                Finding("ledger", "wrong", trouble)
                if trouble
                else Finding("ledger", "ok", f"{where}, id {ledger.id}")
            )
            if apart := ledger.database.clocks_apart():
                yield Finding("clock", "wrong", apart)
            for waiting in ledger.database.waiting():
                yield Finding("ledger", "wrong", str(waiting))
            yield from _state(config, ledger)
            for text in (*remarks(ledger.database), *ledger.identity.remarks()):
                yield Finding("ledger", "note", text)
            if config.ledger.url is not None:
                yield from _ledger_role(ledger)
            renamed = yield from _names(config, ledger, pinned)
            for removed in ledger.reports.unconfigured_meters(
                [*config.meters, *renamed], ledger.instant() - STILL_BILLABLE
            ):
                text = f"read up to {removed.mark:%Y-%m-%dT%H:%MZ} and no longer configured; nobody reads it again"
                yield Finding(f"meter {removed.meter}", "note", text)
            for each in ledger.places.moved_files(file_places(config)):
                yield Finding(f"sink {each.sink}", "wrong", str(each))
            for meter, text in costs(ledger.figures.revisit_costs(ledger.instant()), config.meters):
                yield Finding(f"meter {meter}", "note", text)
            for meter, verdict, text in findings_of(config, ledger.reports.status(), ledger.instant()):
                yield Finding(f"meter {meter}", verdict, text)
    except LedgerError as error:
        yield Finding("ledger", "wrong", str(error))


def _ledger_role(ledger: "Ledger") -> Iterator[Finding]:
    """Say what the role that we are in the ledger lacks for a daemon, or could do besides."""
    from aggregator.ledger.privileges import Kind, differences

    with ledger.database.transaction() as connection:
        role = str(connection.execute("select current_user").fetchall()[0][0])
        found = differences(connection, role, Kind.DAEMON)
    missing = [each.what for each in found if each.missing]
    beyond = [each.what for each in found if not each.missing]
    if missing:
        text = f"role {role} lacks {', '.join(missing)}: `aggregator grants` prints what a daemon needs"
        yield Finding("role of ledger", "wrong", text)
    if beyond:
        text = f"role {role} may do more than is needed ({', '.join(beyond)}): `aggregator grants` prints roles that cannot"
        yield Finding("role of ledger", "note", text)


def _names(
    config: "Config", ledger: "Ledger", pinned: Mapping[str, str]
) -> Generator[Finding, None, list[str]]:
    """Say which meters would bill again what was billed by another name; return the names that are given up."""
    from contextlib import suppress

    from aggregator.core.renaming import follows, refusals, renames
    from aggregator.errors import SinkError
    from aggregator.ledger.meter_names import wanted
    from aggregator.wiring.app import meter_of
    from aggregator.wiring.sinks import build_sink, outlets

    memory = ledger.meters.memory()
    known = {line.outlet.sink for line in memory.lines}
    accounts: dict[str, str | None] = dict(pinned)
    sinks = {name: build_sink(config, name) for name in config.sinks}
    for name, sink in sinks.items():
        if memory.lines and name not in known:  # it may be one that was called something else
            with suppress(SinkError):  # what is wrong with it is said where sinks are looked at
                accounts[name] = sink.account()
        sink.close()
    meters = wanted(
        [meter_of(each, outlets(config, each, accounts, sinks)) for each in config.meters.values()]
    )
    for meter, text in refusals(meters, memory):
        yield Finding(f"meter {meter}", "wrong", text)
    for meter, text in follows(meters, memory):
        yield Finding(f"meter {meter}", "note", text)
    renamed = renames(meters, memory)
    for old, new in renamed.items():
        yield Finding(f"meter {new}", "note", f"it goes on where {old} is, under its new name")
    return list(renamed)


def _state(config: "Config", ledger: "Ledger") -> Iterator[Finding]:
    """Say what keeps a ledger that was set back from being noticed. An embedded one lies in the state directory itself."""
    from aggregator.runtime.claim_counter import passing_filesystem

    what = "state directory"
    if ledger.identity.unguarded:
        text = f"a ledger that is set back would not be noticed: {ledger.identity.unguarded}"
        yield Finding(what, "note" if config.ledger.url is None else "wrong", text)
        return
    kind = passing_filesystem(config.state_dir)
    if kind:
        yield Finding(
            what,
            "note",
            f"{config.state_dir} lies in a file system of the kind {kind}, which goes with its container or at a restart, "
            "and then a ledger that is set back is not noticed: give `state_dir` a volume",
        )
    elif (
        config.ledger.url is not None
        and ledger.identity.known() is None
        and ledger.identity.pinned().claims_made
    ):
        yield Finding(
            what,
            "note",
            f"{config.state_dir} holds no record of what this ledger has sent: either nothing was sent from this host yet, "
            "or the directory is not kept; give `state_dir` a volume",
        )


@contextmanager
def _registers(config: "Config") -> Iterator[dict[str, "Register"]]:
    """Yield what looks up customers, for each sink that knows them; they connect when they are first asked."""
    from aggregator.trial.lookup import KnowsCustomers, Register
    from aggregator.wiring.sinks import build_sink

    sinks = {name: build_sink(config, name) for name in config.sinks}
    try:
        yield {name: Register(sink) for name, sink in sinks.items() if isinstance(sink, KnowsCustomers)}
    finally:
        for sink in sinks.values():
            sink.close()


def _sources(
    config: "Config",
    trial_seconds: float | None,
    registers: Mapping[str, "Register"],
    mappings: Mapping[str, Mapping[str, str | None]] = {},
) -> Iterator[Finding]:
    from aggregator.core import windows
    from aggregator.core.model import Span
    from aggregator.errors import SourceError
    from aggregator.runtime.clock import utcnow
    from aggregator.wiring.sources import build_source

    for name, configured in config.sources.items():
        try:
            source = build_source(config, name, "aggregator check")
        except SourceError as error:
            yield Finding(f"source {name}", "wrong", str(error))
            continue
        try:
            source.ping()
            yield from _role(source)
            for meter in (each for each in config.meters.values() if each.source == name):
                if meter.read in ("counters", "gauges"):
                    yield _sampled(meter, source)
                    continue
                end = windows.settled_until(utcnow(), meter.delay, meter.window)
                try:
                    lately = Span(end - meter.window, end)
                    if meter.deltas is not None:
                        for verdict, text in try_out(meter, source, lately):
                            yield Finding(f"meter {meter.name}", verdict, text)
                        yield from _detail_query(meter, source, end)
                        continue
                    shape = source.columns(meter.query_text, lately, meter.dimensions)
                    fresh, filtered = configured.freshness is not None, configured.row_security == "allowed"
                    notes = list(
                        table_notes(source, meter.query_text, lately, freshness=fresh, filtered=filtered)
                    )
                except SourceError as error:
                    yield Finding(f"meter {meter.name}", "wrong", str(error))
                    continue
                tried = (
                    []
                    if trial_seconds is None
                    else list(_trial(config, meter, source, trial_seconds, registers, mappings))
                )
                several = None if shape.returns_window else source.several_queries
                if several is not None:
                    yield Finding(f"meter {meter.name}", "wrong", several)
                elif not any(each.verdict == "wrong" for each in tried):
                    yield _query(meter.name, returns_window=shape.returns_window, returns_at=shape.returns_at)
                yield from tried
                for text in notes:
                    yield Finding(f"meter {meter.name}", "note", text)
                yield from _detail_query(meter, source, end)
        except SourceError as error:
            yield Finding(f"source {name}", "wrong", str(error))
        finally:
            source.close()


def _sampled(meter: "Meter", source: "Source") -> Finding:
    """Ask the query of a meter that is sampled, as a sample would; nothing is written."""
    from aggregator.errors import SourceError
    from aggregator.runtime.clock import utcnow

    try:
        return Finding(f"meter {meter.name}", *try_sample(meter, source, utcnow()))
    except SourceError as error:
        return Finding(f"meter {meter.name}", "wrong", str(error))


def _detail_query(meter: "Meter", source: "Source", at: dt.datetime) -> Iterator[Finding]:
    """Try the query for the rows behind a number, over no time at all."""
    from aggregator.core.model import Span
    from aggregator.errors import SourceError

    if meter.detail_query is None:
        return
    try:
        source.rows_behind(meter.detail_query, Span(at, at), "", 1)
    except SourceError as error:
        yield Finding(f"meter {meter.name}", "wrong", f"`detail_query`: {error}")


def _trial(
    config: "Config",
    meter: "Meter",
    source: "Source",
    seconds: float,
    registers: Mapping[str, "Register"],
    mappings: Mapping[str, Mapping[str, str | None]],
) -> Iterator[Finding]:
    """Try a meter's query out on closed windows."""
    from aggregator.config import StripeSink
    from aggregator.runtime.clock import monotonic, utcnow
    from aggregator.trial import Trial
    from aggregator.wiring.app import meter_of

    stripe = next((name for name in meter.sinks if isinstance(config.sinks[name], StripeSink)), None)
    trial = Trial(
        meter_of(meter),
        source,
        seconds=seconds,
        elapsed=monotonic,
        stripe=stripe,
        registers=[registers[name] for name in meter.sinks if name in registers],
        mapping=mappings.get(meter.customers, {}) if meter.customers else None,
    )
    for each in trial.run(utcnow()):
        yield Finding(f"meter {meter.name}", each.severity.value, each.text)


def _role(source: "Source") -> Iterator[Finding]:
    """Say what the role may do beyond reading, and what it cannot see."""
    what = f"source {source.name}"
    unsafe = source.unsafe()
    for sentence in unsafe:
        yield Finding(what, "wrong", sentence)
    if not unsafe:
        yield Finding(what, "ok", "answers")
    for sentence in (*source.cannot_promise, *source.limits()):
        yield Finding(what, "note", sentence)
    fence = source.fence()
    if fence is None:
        return
    for sentence in source.unseen():
        yield Finding(what, "note", sentence)
    if fence.must_prove:
        yield Finding(what, "note", _proof(fence))
    elif not fence.sees_starts:
        yield Finding(
            what,
            "note",
            "its role does not see when other transactions began: `grant pg_read_all_stats` to it, and leave "
            "`track_activities` on, so that long transactions are waited for",
        )


def _proof(fence: "Fence") -> str:
    kind = "it is a standby" if fence.standby else "it has to prove its `freshness`"
    if fence.fresh_until is None:
        return f"{kind}, and has proven nothing yet: no window is read before it does; see docs/queries.md"
    return (
        f"{kind}, surely fresh until {fence.fresh_until:%Y-%m-%dT%H:%M:%SZ}: no window is read before that has "
        "passed its end; see docs/queries.md"
    )


def _query(meter: str, *, returns_window: bool, returns_at: bool) -> Finding:
    hints = []
    if not returns_window:
        hints.append(
            "without a `window` column it is asked once per window, and old windows are read again less often"
        )
    if not returns_at:
        hints.append("without an `at` column events are stamped one second before their window's end")
    if hints:
        return Finding(f"meter {meter}", "note", "the query works; " + "; ".join(hints))
    return Finding(f"meter {meter}", "ok", "the query works and returns customer, quantity, at, window")


def _sinks(config: "Config", pinned: Mapping[str, str], *, trying: bool) -> Iterator[Finding]:
    from aggregator.cli.files import raw_meters
    from aggregator.errors import SinkError
    from aggregator.ledger.identity import account_changed
    from aggregator.sinks.protocol import HasCaveats
    from aggregator.wiring.sinks import build_sink, counted_twice

    accounts: dict[str, str | None] = {}
    for name in config.sinks:
        sink = build_sink(config, name)
        unsubscribed: list[str] = []
        unpromised: list[str] = []
        counted: dict[str, str | None] = {}
        meters = [meter.name for meter in config.meters.values() if name in meter.sinks]
        problems = []
        try:
            problems += sink.preflight(meters)
            accounts[name] = sink.account()
            problems += filter(None, [account_changed(name, accounts[name], pinned.get(name))])
            unsubscribed = list(_unsubscribed(config, name, sink))
            unpromised = list(sink.cannot_promise()) if isinstance(sink, HasCaveats) else []
            counted = _tried(sink, [] if problems else meters) if trying else {}
        except SinkError as error:
            problems.append(str(error))
        finally:
            sink.close()
        for problem in problems:
            yield Finding(f"sink {name}", "wrong", problem)
        if not problems:
            yield Finding(f"sink {name}", "ok", _fits(config.sinks[name], len(meters)))
        if meters and sink.limits.reads_by is None:
            yield Finding(
                f"sink {name}",
                "note",
                "it cannot be asked what it holds: a new ledger would send it everything since "
                "`start_at` again",
            )
        for meter, wrong in counted.items():
            ok = "a test event was counted as it was sent"
            yield Finding(f"meter {meter}", "wrong" if wrong else "ok", wrong or ok)
        for sentence in (*unpromised, *unsubscribed):
            yield Finding(f"sink {name}", "note", sentence)
        yield from _key(config, name, answers=name in accounts)
    for problem in counted_twice(config, accounts):
        yield Finding("sinks", "wrong", problem)
    for warning in raw_meters(config):
        yield Finding("files", "note", warning)


def _fits(sink: "ConfiguredSink", meters: int) -> str:
    """Say what was looked at: of accounts that customers name, nobody knows before their first event."""
    from aggregator.config import FileSink, StripeSink

    if isinstance(sink, FileSink):
        return f"takes files ({meters})"
    if isinstance(sink, StripeSink) and sink.accounts:
        return f"takes the key; each account is looked at before its first event ({meters} meters)"
    return f"takes the key, and its meters fit ({meters})"


def _key(config: "Config", name: str, *, answers: bool) -> Iterator[Finding]:
    """Say what the key of a sink may do, if it keeps meters: too little, or more than it needs."""
    from aggregator.errors import SinkError
    from aggregator.wiring.sinks import build_admin_client

    admin = build_admin_client(config, name)
    if admin is None:
        return
    with admin:
        try:
            report = admin.key_report(admin.uses)
            found = admin.compare(admin.meters) if answers else []
        except SinkError as error:
            if answers:  # otherwise it has been said
                yield Finding(f"key of {name}", "wrong", str(error))
            return
    to_apply = any(each.meter_state.can_be_applied for each in found)
    for verdict, text in report.sentences(to_apply=to_apply):
        yield Finding(f"key of {name}", verdict, text)
    for each in found:
        if each.meter_state == "renamed":
            text = f"the Stripe meter with event name {each.event_name} {each.differences[0].text}"
            yield Finding(f"meter {each.meter}", "note", text)
        meter = admin.meters[each.meter]
        if each.known and each.known.dimension_keys is None and meter.dimensions and not meter.event_names:
            yield Finding(
                f"meter {each.meter}", "note", ADDED_UP.format(keys=", ".join(meter.dimensions.values()))
            )


def _unsubscribed(config: "Config", name: str, sink: "Destination") -> Iterator[str]:
    """Say why we would not hear of what a sink finds invalid later, or could not import; nothing if we do."""
    from aggregator.config import StripeSink
    from aggregator.core.model import Span
    from aggregator.errors import SinkError
    from aggregator.runtime.clock import utcnow
    from aggregator.wiring.sinks import build_notification_client

    notification_client, configured = build_notification_client(config, name, sink), config.sinks[name]
    if notification_client is None or not isinstance(configured, StripeSink):
        return
    if not configured.reports.poll:
        if not configured.webhook_secret:
            yield "nobody learns which events it finds invalid after taking them: set `reports: poll:`, or `webhook_secret`"
        return
    now = utcnow()
    lately = Span(now - SHORT, now)
    try:
        # Which accounts customers name, nobody knows before the first event; whether the key may ask at all, this shows.
        notification_client.listed(lately)
    except SinkError as error:
        yield f"it does not report which events it finds invalid after taking them; everything else works: {error}"
    if not config.imports:
        return
    try:
        notification_client.imports(lately)
    except SinkError as error:
        yield f"it does not report which files it could not import; everything else works: {error}"


def _tried(sink: "Destination", meters: list[str]) -> dict[str, str | None]:
    """Send a test event of each meter to a sink that can be tried out; say of each what is wrong. Raises SinkError."""
    from aggregator.runtime.clock import utcnow
    from aggregator.sinks.protocol import Testable

    if not isinstance(sink, Testable) or not meters:
        return {}
    say(f"Sending a test event to {sink.name}; it may take two minutes until it is counted.", err=True)
    return {meter: sink.send_test_event(meter, utcnow()) for meter in meters}
