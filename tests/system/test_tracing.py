"""A real daemon and a real OpenTelemetry collector: what arrives there, and that nothing of ours depends on it."""

import signal
from collections.abc import Iterator

import pytest

from tests.collector import OtelCollector, otel_collector
from tests.system.harness import METER, Process, World, until

SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
HEADER = {"OTEL_EXPORTER_OTLP_HEADERS": "api-key=s3cret-of-the-collector"}


@pytest.fixture
def collector() -> Iterator[OtelCollector]:
    """A collector on this machine."""
    with otel_collector() as collector:
        yield collector


def traced(world: World, collector: OtelCollector) -> Process:
    """Start a daemon that traces."""
    world.config["monitoring"] = {"opentelemetry": True, "opentelemetry_endpoint": collector.url}
    world.write()
    return world.start_process("run", "--verbose", name="daemon", **SOON, **HEADER)


def test_what_a_daemon_did_arrives_as_spans(world: World, collector: OtelCollector) -> None:
    """Each pass as the ledger has it, each claim with its verdicts and a link to the pass; no customer, and no secret."""
    for number in range(3):
        world.use(f"cus_{number}", 5, minute=number)
    daemon = traced(world, collector)
    world.quiet()
    until(lambda: collector.spans("claim", outcome="settled"), "the claim arrives", seen=lambda: daemon.err)
    recorded = world.ledger(
        "select id, lower(span), upper(span), rows, planned from aggregator.pass where planned > 0"
    )
    planned = [span for span in collector.spans("pass") if span.attributes.get("aggregator.planned")]
    assert [
        tuple(
            span.attributes[f"aggregator.{key}"]
            for key in ("pass", "window.start", "window.end", "rows", "planned")
        )
        for span in planned
    ] == [
        (number, start.isoformat(), end.isoformat(), rows, events)
        for number, start, end, rows, events in recorded
    ]
    assert {span.attributes["aggregator.meter"] for span in planned} == {METER}
    claims = collector.spans("claim", sink="stripe")
    assert sum(span.attributes["aggregator.accepted"] for span in claims) == 3
    assert {link for span in claims for link in span.links} == {(span.trace, span.id) for span in planned}
    assert all(span.begun <= span.ended for span in collector.spans())
    assert daemon.stop() == -signal.SIGTERM
    assert collector.headers[0]["api-key"] == "s3cret-of-the-collector"
    sent = b"".join(collector.bodies)
    assert b"cus_" not in sent
    assert b"sk_test" not in sent
    assert world.source_url.encode() not in sent
    assert "s3cret" not in daemon.err


@pytest.mark.parametrize("silent", [True, False])
def test_a_collector_that_is_away_costs_nothing_of_ours(
    world: World, collector: OtelCollector, *, silent: bool
) -> None:
    """What is used is billed, and SIGTERM ends the daemon while the collector still says nothing, or refuses."""
    if silent:
        collector.answering.clear()
    else:
        collector.status = 503
    world.use("cus_1", 5, minute=1)
    daemon = traced(world, collector)
    world.quiet()
    world.use("cus_1", 4, minute=2)
    world.quiet()
    assert daemon.stop() == -signal.SIGTERM
    assert daemon.log("daemon_stopped")
    assert not collector.spans()
    assert not daemon.log("unexpected_error")
    stats = world.sandbox.stats()
    assert (stats["duplicates_refused"], stats["double_counted"]) == (0, 0)


def test_one_pass_is_traced_as_well(world: World, collector: OtelCollector) -> None:
    """What `run --once` did has arrived when it ends; a pass that fails is a span that failed, by the kind of its error."""
    world.use("cus_1", 5, minute=1)
    world.config["monitoring"] = {"opentelemetry": True}
    world.write()
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    until(lambda: world.run("run", "--once", "--json", **env).code == 0, "a pass leaves nothing to be sent")
    assert collector.spans("claim stripe", accepted=1)
    assert not collector.spans("pass", outcome="failed")
    world.source("alter table usage rename to used")
    assert world.run("run", "--once", "--json", **env).code == 1
    [failed] = collector.spans("pass", outcome="failed")
    assert (failed.failed, failed.attributes["error.type"]) == (True, "QueryRejected")
    world.source("alter table used rename to usage")
    before = len(collector.spans())
    env["OTEL_SDK_DISABLED"] = "true"
    assert world.run("run", "--once", "--json", **env).code == 0
    assert len(collector.spans()) == before
