"""Very many accepted events, compared with the sink's own totals: what that takes in reads, time and memory.

A month of hours is filled by `aggregator run --once`, in a process of its own, and then made to have been sent days ago.
What is measured is the daemon's check of all of it, then `reconcile` over the same, with the source, and once more after
somebody else has sent something of every hundredth customer: those take a read more each.
"""

import datetime as dt
import subprocess
from contextlib import ExitStack
from pathlib import Path

import psycopg
from stripe import StripeClient

from aggregator.config import load
from aggregator.core.model import Span
from aggregator.core.windows import DAY, HOUR, floor
from aggregator.runtime.clock import utcnow
from aggregator.wiring.app import App, build
from aggregator.wiring.reconciling import Question, reconcile
from bench.checkouts import HOME, python_of
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
  far: {{type: stripe, api_key: sk_test_bench, mode: test, api_base: '{sandbox}', transport: stream}}
meters:
  api_requests:
    source: app
    sinks: [far]
    window: 1h
    start_at: {start}
    delay: 0s
    query: |
      select customer, count(*) as quantity, date_trunc('hour', created_at) as "window" from api_request
       where created_at >= :start and created_at < :end group by 1, 3
"""

FILL = """
insert into api_request
select 'cus_' || n %% %(customers)s,
       date_trunc('hour', now()) - (n / %(customers)s * %(apart)s + 1) * interval '1 hour' + interval '5 min'
  from generate_series(0, %(events)s - 1) as n
"""

AGE = """
update aggregator.event set attempted_at = attempted_at - interval '3 days', exposed_at = exposed_at - interval '3 days',
       settled_at = settled_at - interval '3 days';
update aggregator.claim set claimed_at = claimed_at - interval '3 days', settled_at = settled_at - interval '3 days';
"""


def measure(customers: int) -> list[Figure]:
    """Let so many customers have a hundred events each, and compare them."""
    events = customers * EVENTS_PER_CUSTOMER
    with stand() as stood:
        path = configure(stood, customers, events)
        call = [str(python_of(HOME)), "-m", "aggregator", "run", "--once", "--config", str(path)]
        done = subprocess.run(call, cwd=HOME, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2_000:]
        with psycopg.connect(stood.server.url("ledger"), autocommit=True) as connection:
            connection.execute(AGE)
            connection.execute("vacuum (analyze) aggregator.event")
        with build(load(path, {}), name="bench") as app:
            figures = [check(app, stood, events), compare(app, stood, events, 0)]
            strays = -(-customers // STRAY_EACH)
            send_strays(stood, strays)
            return [*figures, compare(app, stood, events, strays)]


def configure(stood: Stand, customers: int, events: int) -> Path:
    """Make the source and an empty ledger; return the configuration of all."""
    with psycopg.connect(stood.server.url(), autocommit=True) as connection:
        connection.execute("create database app")
        connection.execute("create database ledger")
    with psycopg.connect(stood.server.url("app"), autocommit=True) as connection:
        connection.execute("create table api_request (customer text, created_at timestamptz)")
        connection.execute(FILL, {"customers": customers, "apart": HOURS_APART, "events": events})
        connection.execute("create index on api_request (created_at)")
        connection.execute("vacuum (analyze) api_request")
    path = stood.directory / "aggregator.yaml"
    path.write_text(
        CONFIG.format(
            ledger=stood.server.url("ledger"),
            directory=stood.directory,
            source=stood.server.url("app"),
            sandbox=stood.sandbox,
            start=f"{first_day():%Y-%m-%dT%H:%MZ}",
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


def compare(app: App, stood: Stand, events: int, strays: int) -> Figure:
    """Compare source, ledger and sink over the month; so many customers differ."""
    span = Span(first_day(), floor(utcnow(), DAY) + DAY)
    figure = Figure("", events)
    with measured(figure, stood.processes), ExitStack() as stack:
        [found] = reconcile(app, Question(span, ["api_requests"], app.ledger.instant()), stack)
    assert found.summary.events == events
    assert found.summary.differing == strays
    differ = f", {strays:,} customers differ" if strays else ""
    return named(figure, f"reconcile, with the source{differ}", found.summary.reads)


def named(figure: Figure, what: str, reads: int) -> Figure:
    """Name a figure by what it took in reads, and how long those take at Stripe's rate."""
    seconds = reads / READS_PER_SECOND
    figure.name = (
        f"{figure.events:,} events: {what}, {reads:,} reads ({seconds:,.0f} s at {READS_PER_SECOND}/s)"
    )
    figure.peak_megabytes = peak_megabytes()
    return figure
