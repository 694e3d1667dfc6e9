"""The demo, scene by scene. Every command shown is run, and by the same program a user has.

Rules
- Everything lives in one directory, made anew each time, and ends with the demo, however that ends.
- The proof is `aggregator reconcile`, which anybody runs on data of their own.
- It succeeds only if the proof holds, the daemon ended as it was told to, and nothing waits for a person.
"""

import datetime as dt
import os
import re
import shutil
import signal
import string
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from aggregator.config import Config, load
from aggregator.core import windows
from aggregator.core.model import Span
from aggregator.demo.live import WINDOW, Live, closing_time
from aggregator.demo.processes import (
    Background,
    DemoFailed,
    ending,
    fresh,
    one_signal_ends,
    run,
    wait_seconds,
)
from aggregator.demo.product import ACCOUNTS, DATABASE, METERS, Product
from aggregator.demo.story import Story
from aggregator.demo.traffic import Traffic, straggler
from aggregator.ledger.ledger import Ledger
from aggregator.runtime.clock import monotonic, utcnow
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from aggregator.sandbox import ControlClient
from aggregator.wiring.opening import open_ledger

DIRECTORY = Path(".aggregator/demo")

HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)

LAST_WORDS = dt.timedelta(seconds=1.5)
"""So long before the last window ends the writers commit."""

STRAGGLES = dt.timedelta(seconds=3)
"""So long before it ends one more transaction writes, which commits when the window has been read already."""

STRAGGLES_AT_MOST_SECONDS = 20.0
"""It commits by then even if the daemon waits for it."""

STOPPED = signal.SIGTERM.name

SHOWN = 5
"""Customers that the proof shows line by line; the others are summed up."""

START_SECONDS = 20.0
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Stage:
    """What every scene needs: where it plays, who tells, how the two servers are reached."""

    directory: Path
    story: Story
    product: Product
    sandbox: ControlClient
    start: dt.datetime

    @property
    def config_path(self) -> Path:
        """The configuration that the user may open."""
        return self.directory / "aggregator.yaml"

    @property
    def environment(self) -> dict[str, str]:
        """What our commands are run with."""
        return {**os.environ, "AGGREGATOR_CONFIG": str(self.config_path)}

    def config(self) -> Config:
        """Load the configuration."""
        return load(self.config_path, os.environ)

    def run(self, name: str, *arguments: str) -> None:
        """Show a command and run it in the foreground. Raises DemoFailed if it fails."""
        code = self.code_of(name, *arguments)
        if code:
            raise DemoFailed(f"`aggregator {name}` ended with {ending(code)}.")

    def code_of(self, name: str, *arguments: str) -> int:
        """Show a command and run it in the foreground; return how it ended."""
        self.story.command(" ".join(("aggregator", name, *arguments)))
        return run(name, arguments, self.directory, self.environment)


def run_demo(*, keep: bool, seconds: int, directory: Path | None = None) -> int:
    """Run the demo in a directory of its own; return 0 if every total agrees, else 1.

    Rows arrive for about `seconds`, so that they end with a minute. With `keep` everything runs on until Ctrl-C.
    Raises UsageError if another demo runs there, DemoFailed if a part of it breaks down.
    """
    place = directory or DIRECTORY
    began = monotonic()
    with one_signal_ends(), ExitStack() as stack:
        story = Story()
        story.title("aggregator demo", "everything below is real, and runs on this machine only")
        stack.enter_context(fresh(place))
        stage = set_up(place, story, stack)
        bill_the_past(stage)
        ledger = stack.enter_context(open_ledger(stage.config(), may_migrate=False, name="aggregator demo"))
        daemon = go_live(stage, ledger, seconds, stack)
        stage.run("status")
        ended = STOPPED if keep else stop(stage, daemon)
        code = exit_code(show_proof(stage), ended)
        story.say(f"after {monotonic() - began:.0f} seconds; exit code {code}", "dim")
        (keep_running if keep else say_what_next)(stage, daemon)
    return code


def exit_code(reconciled: int, ended: str) -> int:
    """Return 0 if all is equal by `reconcile` and the daemon ended by the signal it was sent, else 1."""
    return 0 if reconciled == 0 and ended == STOPPED else 1


def set_up(place: Path, story: Story, stack: ExitStack) -> Stage:
    """Make the product with its past, start the sandbox, write the configuration."""
    story.scene("1  A product, and where its usage goes")
    story.fact("postgres", f"embedded, in {place / 'postgres'}")
    postgres = stack.enter_context(EmbeddedPostgres(place / "postgres"))
    state = str(place / "sandbox.jsonl")
    meters = [part for name in METERS for part in ("--meter", f"{name}:sum")]
    sandbox = Background("sandbox", ["--port", "0", *meters, "--state", state], place, os.environ)
    stack.enter_context(sandbox)
    product, start = build_product(postgres, story)
    url = address(sandbox)
    story.fact("sandbox", f"{url}, stands in for Stripe and keeps its rules")
    stage = Stage(place, story, product, ControlClient(url), start)
    stage.config_path.write_text(configuration(product.reader_url, url, start), encoding="utf-8")
    count = len(stage.config_path.read_text(encoding="utf-8").splitlines())
    story.fact("config", f"{stage.config_path}: {count} lines, all there is to set up; open it")
    return stage


def build_product(postgres: EmbeddedPostgres, story: Story) -> tuple[Product, dt.datetime]:
    """Make the product's database; return it, and when its use begins."""
    now = windows.floor(utcnow(), WINDOW)
    start = windows.floor(now, HOUR) - DAY
    product = Product.create(postgres.url(), postgres.url(DATABASE), Span(start, now))
    counts = product.counts()
    story.fact(
        "product",
        f"{counts.accounts} accounts, {counts.requests:,} API requests and {counts.objects:,} stored objects "
        f"since {start:%Y-%m-%d %H:%M}Z; {counts.without_customer} account has no Stripe customer yet",
    )
    return product, start


def address(sandbox: Background) -> str:
    """Return where the sandbox listens, as soon as it says so. Raises DemoFailed if it does not."""
    until = monotonic() + START_SECONDS
    while monotonic() < until:
        found = re.search(r"http://\S+", sandbox.log.read_text())
        if found:
            return found[0]
        sandbox.must_run()
        wait_seconds(0.05)
    raise DemoFailed(f"The sandbox does not start; see {sandbox.log}.")


def configuration(product_url: str, sandbox_url: str, start: dt.datetime) -> str:
    """Return the configuration: the template, filled in."""
    template = (files("aggregator.demo") / "aggregator.yaml").read_text(encoding="utf-8")
    return string.Template(template).substitute(
        PRODUCT_URL=product_url, SANDBOX_URL=sandbox_url, START_AT=f"{start:%Y-%m-%dT%H:%MZ}"
    )


def bill_the_past(stage: Stage) -> None:
    """Backfill everything since the beginning."""
    stage.story.scene("2  The last day, in windows of one minute")
    stage.story.command(f"export AGGREGATOR_CONFIG={stage.config_path}")
    stage.run("backfill", "--from", f"{stage.start:%Y-%m-%dT%H:%MZ}")


def go_live(stage: Stage, ledger: Ledger, seconds: int, stack: ExitStack) -> Background:
    """Let rows arrive while the daemon works; return it."""
    story = stage.story
    story.scene("3  Live: rows arrive, the daemon reads each minute when it is over")
    story.command("aggregator run")
    daemon = stack.enter_context(Background("run", [], stage.directory, stage.environment))
    mark = min(row.mark for row in ledger.reports.status())
    with Traffic(stage.product.url) as traffic, story.moving():
        live = Live(story, daemon, ledger.reports, stage.sandbox, traffic, mark)
        end = closing_time(utcnow(), seconds)
        live.watch_until(end - STRAGGLES)
        with straggler(stage.product.url) as late:
            live.watch_until(end - LAST_WORDS)
            traffic.stop()
            seen = live.read_up_to(end, STRAGGLES_AT_MOST_SECONDS)
            late.commit()
        committed_at = utcnow()
        story.say(
            f"{committed_at:%H:%M:%S}Z  a transaction of {end - WINDOW:%H:%M} commits only now: "
            f"{late.rows} rows, {'after their window was read' if seen else 'which the daemon has waited for'}"
        )
        live.settled(end, committed_at)
    report_corrections(stage, ledger, Span(stage.start, end))
    return daemon


def report_corrections(stage: Stage, ledger: Ledger, span: Span) -> None:
    """Say how many events followed late rows: each (customer, minute) has one event, and one more per correction."""
    events = ledger.reports.known_events("api_requests", span)
    corrections = events - stage.product.request_slots(span)
    said = f"late rows became {corrections} corrections" if corrections else "no window needed a correction"
    stage.story.say(f"{utcnow():%H:%M:%S}Z  {said} of api_requests")


def stop(stage: Stage, daemon: Background) -> str:
    """Tell the daemon to stop, and say how it ended."""
    stage.story.command(f"kill {daemon.pid}")
    ended = daemon.stop()
    stage.story.say(f"the daemon has finished what it held, and ended by {ended}")
    return ended


def show_proof(stage: Stage) -> int:
    """Ask source, ledger and sandbox, and show the answers; return how the command ended that does that."""
    story = stage.story
    story.scene("4  The proof: source, ledger and sandbox are asked what each customer used")
    story.say(
        "source by the queries, ledger by its books, sandbox by Stripe's library: event summaries", "dim"
    )
    code = stage.code_of("reconcile", "--customers", str(SHOWN))
    [nobody] = [account.name for account in ACCOUNTS if account.customer is None]
    story.say(f"(no customer) is {nobody}: it has no customer at Stripe yet", "dim")
    return code


def keep_running(stage: Stage, daemon: Background) -> None:
    """Say how to look around, and wait for Ctrl-C."""
    story, program = stage.story, program_name()
    story.scene("Everything keeps running until Ctrl-C. In another terminal:")
    story.command(f"export AGGREGATOR_CONFIG={stage.config_path}")
    story.command(f"{program} status      # or check")
    story.command(f"tail -f {daemon.log}")
    try:
        while True:
            daemon.must_run()
            wait_seconds(LOOK_SECONDS)
    except KeyboardInterrupt:
        story.say("")
        story.say(f"the daemon ended by {daemon.stop()}; everything else ends with it")


def say_what_next(stage: Stage, _daemon: Background) -> None:
    """Say what to try next."""
    story, program = stage.story, program_name()
    story.scene("Next")
    story.command(f"less {stage.config_path}")
    story.command(f"{program} status --config {stage.config_path}")
    story.command(f"{program} demo --keep      # leaves it running")


def program_name() -> str:
    """Return what a person would type to run us."""
    here = Path(sys.executable).with_name("aggregator")
    if shutil.which("aggregator") or not here.exists():
        return "aggregator"
    return os.path.relpath(here)
