"""The proof, in order: set up, kill, let it become quiet, compare, tell.

Rules
- Everything runs in one directory, and ends with the proof, however that ends. What a killed proof left is cleared away by
  the next one in the same directory.
- Each world works on a thread of its own. The main thread tells how far they are, and stops them when it is interrupted.
"""

import datetime as dt
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path

import psycopg

from aggregator.core import windows
from aggregator.demo.processes import ending, fresh, one_signal_ends
from aggregator.ledger.database import one_line
from aggregator.runtime.clock import monotonic, utcnow
from aggregator.selftest.killing import FAULTS, FREEZE_BEFORE, Killing, faults_seen
from aggregator.selftest.load import Load
from aggregator.selftest.past import Past
from aggregator.selftest.report import Report
from aggregator.selftest.schedule import Kill, schedule
from aggregator.selftest.verdict import Outcome, Reconciled, Sent, Sides, judge
from aggregator.selftest.watch import Content, Watch
from aggregator.selftest.world import MINUTE, PAST_METER, SelftestFailed, World, postgres_with_times, world

LOOK_SECONDS = 0.25

EQUAL, DIFFERS = 0, 3
"""How `aggregator reconcile` ends that has compared everything."""

SENT = """
select identifier, meter.name, customer, floor(extract(epoch from at))::bigint, delta, revision, state::text
  from aggregator.event
  join aggregator.feed on feed.id = event.feed_id
  join aggregator.meter on meter.id = feed.meter_id
 where meter.name <> %s
"""


def run_selftest(
    *, kills: int, seed: int, worlds: int, directory: Path | None, as_json: bool, verbose: bool
) -> int:
    """Run the proof; return 0 if nothing is lost, doubled or otherwise wrong, else 1.

    Without a directory it works in a temporary one, which stays only if something was wrong. Raises UsageError if another
    proof runs in the directory, LedgerUnreachable if there is no embedded Postgres, DemoFailed or SelftestFailed if a part
    of the proof breaks down.
    """
    with one_signal_ends(), _place(directory) as place, fresh(place.path, "selftest"):
        report = Report(kills, seed, as_json=as_json, verbose=verbose)
        report.title(place.path, worlds)
        began = monotonic()
        place.keep = True
        try:
            outcome = _prove(place.path, kills, seed, worlds, report)
        except (psycopg.Error, OSError) as error:
            raise SelftestFailed(f"The proof broke off ({one_line(error)}); see {place.path}.") from error
        except (KeyboardInterrupt, SystemExit):
            place.keep = False
            raise
        outcome.seconds = monotonic() - began
        place.keep = not outcome.good
        report.outcome(outcome, kept=place.path if place.keep or directory else None)
    return 0 if outcome.good else 1


class _Place:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.keep = False


@contextmanager
def _place(directory: Path | None) -> Iterator[_Place]:
    """Give a place to work in; a temporary one goes in the end, unless it is to be kept."""
    if directory is not None:
        yield _Place(directory)
        return
    place = _Place(Path(tempfile.mkdtemp(prefix="aggregator-selftest-")))
    try:
        yield place
    finally:
        if not place.keep:
            shutil.rmtree(place.path, ignore_errors=True)


def _prove(path: Path, kills: int, seed: int, count: int, report: Report) -> Outcome:
    """Set up the worlds, and let each of them work until it has come to something."""
    stopping = threading.Event()
    with ExitStack() as stack:
        postgres = stack.enter_context(postgres_with_times(path / "postgres"))
        works = []
        for number in range(1, count + 1):
            one = stack.enter_context(world(path / f"world-{number}", postgres, number))
            one.prepare(utcnow())
            share = kills // count + (number <= kills % count)
            kills_there = schedule(share, seed * 1000 + number, archives=one.archives)
            works.append(_Work(one, kills_there, seed, stopping))
        report.ready([work.world.sandbox.url for work in works])
        with ThreadPoolExecutor(count, "world") as pool, report.moving():
            try:
                return _worked(pool, works, report)
            finally:
                stopping.set()


def _worked(pool: ThreadPoolExecutor, works: list["_Work"], report: Report) -> Outcome:
    """Run every world to its end; return what they came to together. Raises what one of them raises."""
    running = {pool.submit(work.run) for work in works}
    whole = Outcome()
    while running:
        done, running = wait(running, LOOK_SECONDS, "FIRST_COMPLETED")
        for each in done:
            whole.add(each.result())
        report.progress([work.killing.struck for work in works], [work.says for work in works])
    return whole


class _Work:
    """One world at work. `says` is what it is at just now."""

    def __init__(self, world: World, kills: list[Kill], seed: int, stopping: threading.Event) -> None:
        self.world = world
        self.says = ""
        self.past = Past(world)
        self.killing = Killing(world, self.past, self._report, stopping)
        self._kills = kills
        self._seed = seed

    def _report(self, text: str) -> None:
        self.says = text

    def run(self) -> Outcome:
        """Kill, let it become quiet, compare. Raises Stopped."""
        sandbox, struck = self.world.sandbox, self.killing.struck
        sandbox.set_faults(**FAULTS, seed=self._seed)
        with Watch(self.world) as watch:
            load = Load(self.world, self._seed)
            if len(self._kills) <= FREEZE_BEFORE:
                load.freeze(windows.floor(utcnow() + MINUTE / 2, MINUTE))
            with load:
                self.killing.kill(self._kills, load)
                load.stop()
            end = load.freeze(windows.floor(utcnow(), MINUTE) + MINUTE)
            struck.faults = faults_seen(sandbox.stats())
            sandbox.set_faults()
            self.killing.quiet(end)
            watch.look()
        struck.wrong += [f"the sandbox does not count {each}" for each in watch.uncounted]
        sides = _sides(self.world, watch)
        verdict = judge(sides)
        verdict.over = len(watch.books.over)
        verdict.two_contents += len(watch.books.two_contents)
        self._report("compares what is archived")
        verdict.wrong += self.past.wrong()
        verdict.wrong += [f"too much, for a moment at least: {each}" for each in watch.books.over]
        return Outcome(struck, verdict, self.world.rows(), int(sandbox.stats()["requests"]))


def _sides(world: World, watch: Watch) -> Sides:
    """Ask everybody, now that all is quiet."""
    used, nobody = world.used()
    with psycopg.connect(world.ledger_url) as connection:
        sent = {
            identifier: Sent(Content(*content), revision, state)
            for identifier, *content, revision, state in connection.execute(SENT, [PAST_METER])
        }
    return Sides(
        used=used,
        sent=sent,
        held=watch.books.held,
        contents=watch.books.contents,
        nobody=nobody,
        reconciled=_reconciled(world),
    )


def _reconciled(world: World) -> Reconciled:
    """Let the command say what it finds. Raises SelftestFailed if it does not get that far."""
    code, answer = world.answer(
        *("reconcile", "--json", "--every-hour"),
        *("--from", f"{world.began:%Y-%m-%d}", "--to", f"{utcnow() + dt.timedelta(days=1):%Y-%m-%d}"),
    )
    if code not in (EQUAL, DIFFERS):
        raise SelftestFailed(f"`aggregator reconcile` ended with {ending(code)}.")
    feeds = {feed["meter"]: feed for feed in answer["feeds"]}
    found = [
        f"{each['meter']} of {each['customer']} from {each['from']}: {each['cause']}, {each['reason']}"
        for each in answer["differences"]
    ]
    notes = [note for feed in feeds.values() for note in feed["notes"]]
    if code == DIFFERS and not found:
        found = notes or ["something is not as it should be, and nothing says what"]
    return Reconciled(
        found,
        {meter: Decimal(feed["source"]) for meter, feed in feeds.items()},
        {meter: Decimal(feed["in_sink"]) for meter, feed in feeds.items()},
        {
            meter: (Decimal(feed["unmapped"]["source"]), Decimal(feed["unmapped"]["ledger"]))
            for meter, feed in feeds.items()
        },
    )
