"""Very many accepted events, compared with the sink's own totals: what that takes in reads, time and memory.

A month of hours is filled by `aggregator run --once`, in a process of its own, and then made to have been sent days ago.
What is measured is the daemon's check of all of it, then `reconcile` over the same, with the source, and once more after
somebody else has sent something of every hundredth customer: those take a read more each. Then the same number of events
is spread over four meters, and compared by event summaries and by Stripe's preview of meter usage.
"""

import datetime as dt
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
from stripe import StripeClient

from aggregator.config import load
from aggregator.core.model import Span
from aggregator.core.windows import DAY, HOUR, floor
from aggregator.runtime.clock import utcnow
from aggregator.sandbox import ControlClient
from aggregator.wiring.app import App, build
from aggregator.wiring.reconciling import Question, reconcile
from bench.figures import Figure, measured
from bench.memory import peak_megabytes
from bench.stand import Stand, stand

EVENTS_PER_CUSTOMER = 100
HOURS_APART = 7
"""A hundred windows of a customer lie in a month."""

STRAY_EACH = 100
"""One of so many customers differs in the end."""

READS_PER_SECOND = 100
"""What Stripe allows in live mode (docs.stripe.com/rate-limits)."""

CONFIG = """
ledger: {{url: '{ledger}'}}
state_dir: '{directory}'
sources: {{app: {{url: '{source}'}}}}
sinks:
  far: {{type: stripe, api_key: sk_test_bench, mode: test, api_base: '{sandbox}', transport: stream, totals_by: {by}}}
defaults: {{source: app, sinks: [far], window: 1h, start_at: {start}, delay: 0s}}
meters:
"""

METER = """
  {name}:
    query: |
      select customer, count(*) as quantity, date_trunc('hour', created_at) as "window" from api_request
       where created_at >= :start and created_at < :end and window_number % {meters} = {number} group by 1, 3
"""

METERS = ("api_requests", "bytes", "jobs", "seconds")
"""The first of them alone, and then all four, among whom the same events are spread."""

FILL = """
insert into api_request
select 'cus_' || n %% %(customers)s,
       date_trunc('hour', now()) - (n / %(customers)s * %(apart)s + 1) * interval '1 hour' + interval '5 min',
       n / %(customers)s
  from generate_series(0, %(events)s - 1) as n
"""

AGE = """
update aggregator.{events} set attempted_at = attempted_at - interval '3 days', exposed_at = exposed_at - interval '3 days',
       settled_at = settled_at - interval '3 days';
update aggregator.claim set claimed_at = claimed_at - interval '3 days', settled_at = settled_at - interval '3 days';
"""

EVENTS_AT = """
select table_name from information_schema.tables
 where table_schema = 'aggregator' and table_name in ('event', 'event_at_rest') and table_type = 'BASE TABLE'
"""
"""Which table has the events that were sent: older checkouts have all of them in one."""


def measure(customers: int) -> list[Figure]:
    """Let so many customers have a hundred events each, and compare them."""
    events = customers * EVENTS_PER_CUSTOMER
    with filled(customers, METERS[:1]) as (stood, path), build(load(path, {}), name="bench") as app:
        figures = [check(app, stood, events), compare(app, stood, events, 0)]
        strays = -(-customers // STRAY_EACH)
        send_strays(stood, strays)
        return [*figures, compare(app, stood, events, strays)]


def measure_together(customers: int) -> list[Figure]:
    """Spread as many events over four meters; compare them by event summaries, and by meter usage."""
    figures, events = [], customers * EVENTS_PER_CUSTOMER
    with filled(customers, METERS) as (stood, path):
        ControlClient(stood.sandbox).set_rules(meter_usage=True)
        for by in ("event_summaries", "meter_usage"):
            text = path.read_text()
            path.write_text(text.replace("totals_by: event_summaries", f"totals_by: {by}"))
            with build(load(path, {}), name="bench") as app:
                figures.append(compare(app, stood, events, 0, METERS))
                if by == "meter_usage":
                    figures.append(check(app, stood, events))
    return figures


@contextmanager
def filled(customers: int, meters: Sequence[str]) -> Iterator[tuple[Stand, Path]]:
    """Yield a stand whose events were all sent days ago, and its configuration."""
    events = customers * EVENTS_PER_CUSTOMER
    with stand() as stood:
        path = configure(stood, customers, events, meters)
        stripe = StripeClient("sk_test_bench", base_addresses={"api": stood.sandbox})
        for name in meters[1:]:
            stripe.v1.billing.meters.create(
                {"display_name": name, "event_name": name, "default_aggregation": {"formula": "sum"}}
            )
        call = [sys.executable, "-m", "aggregator", "run", "--once", "--config", str(path)]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2_000:]
        with psycopg.connect(stood.server.url("ledger"), autocommit=True) as connection:
            [events_at] = connection.execute(EVENTS_AT).fetchone() or ("",)
            connection.execute(AGE.format(events=events_at).encode())
            connection.execute("vacuum (analyze)")
        yield stood, path


def configure(stood: Stand, customers: int, events: int, meters: Sequence[str]) -> Path:
    """Make the source and an empty ledger; return the configuration of all."""
    with psycopg.connect(stood.server.url(), autocommit=True) as connection:
        connection.execute("create database app")
        connection.execute("create database ledger")
    with psycopg.connect(stood.server.url("app"), autocommit=True) as connection:
        connection.execute(
            "create table api_request (customer text, created_at timestamptz, window_number integer)"
        )
        connection.execute(FILL, {"customers": customers, "apart": HOURS_APART, "events": events})
        connection.execute("create index on api_request (created_at)")
        connection.execute("vacuum (analyze) api_request")
    path = stood.directory / "aggregator.yaml"
    path.write_text(
        CONFIG.format(
            by="event_summaries",
            ledger=stood.server.url("ledger"),
            directory=stood.directory,
            source=stood.server.url("app"),
            sandbox=stood.sandbox,
            start=f"{first_day():%Y-%m-%dT%H:%MZ}",
        )
        + "".join(
            METER.format(name=name, meters=len(meters), number=number) for number, name in enumerate(meters)
        )
    )
    return path


def first_day() -> dt.datetime:
    """Return a midnight before all of the usage."""
    return floor(utcnow() - EVENTS_PER_CUSTOMER * HOURS_APART * HOUR, DAY) - DAY


def check(app: App, stood: Stand, events: int) -> Figure:
    """Let the daemon's check run until all was compared."""
    checker, reads, compared = app.checking("far"), 0, 0
    figure = Figure("", events)
    with measured(figure, stood.processes):
        more = True
        while more:
            done = checker.run_once(app.ledger.instant())
            reads, compared, more = reads + done.reads, compared + done.events, done.more
    assert compared == events, f"{compared} of {events} events were compared"
    return named(figure, "the daemon's check", reads)


def send_strays(stood: Stand, customers: int) -> None:
    """Send something of so many customers beside aggregator, yesterday."""
    stripe = StripeClient("sk_test_bench", base_addresses={"api": stood.sandbox})
    for number in range(customers):
        payload = {"stripe_customer_id": f"cus_{number * STRAY_EACH}", "value": "500"}
        stripe.v1.billing.meter_events.create(
            {
                "event_name": "api_requests",
                "payload": payload,
                "identifier": f"stray_{number}",
                "timestamp": int((floor(utcnow(), DAY) - 12 * HOUR).timestamp()),
            }
        )


def compare(app: App, stood: Stand, events: int, strays: int, meters: Sequence[str] = METERS[:1]) -> Figure:
    """Compare source, ledger and sink over the month; so many customers differ."""
    span = Span(first_day(), floor(utcnow(), DAY) + DAY)
    figure = Figure("", events)
    with measured(figure, stood.processes), ExitStack() as stack:
        found = [
            each.summary for each in reconcile(app, Question(span, list(meters), app.ledger.instant()), stack)
        ]
    assert sum(each.events for each in found) == events
    assert sum(each.differing for each in found) == strays
    by = " by meter usage" if any(each.by_overview for each in found) else ""
    differ = f", {strays:,} customers differ" if strays else ""
    several = f" of {len(meters)} meters" if len(meters) > 1 else ""
    what = f"reconcile{several}{by}, with the source{differ}"
    return named(figure, what, sum(each.reads for each in found))


def named(figure: Figure, what: str, reads: int) -> Figure:
    """Name a figure by what it took in reads, and how long those take at Stripe's rate."""
    seconds = reads / READS_PER_SECOND
    figure.name = (
        f"{figure.events:,} events: {what}, {reads:,} reads ({seconds:,.0f} s at {READS_PER_SECOND}/s)"
    )
    figure.peak_megabytes = peak_megabytes()
    return figure
