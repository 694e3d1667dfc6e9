"""The state file: what was answered outlives the process, however it ended."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pytest
import stripe

from aggregator.sandbox import ControlClient, MeterSpec, SandboxOptions, StateError, running, serve
from tests.contract.sandbox.sandbox_calls import DAY, HOUR, NOON, connect, event_form, post_event, send, used

METERS = (MeterSpec("api_requests"), MeterSpec("stored_gb", "sum", "hour"))


@pytest.fixture
def options(tmp_path: Path) -> SandboxOptions:
    """A sandbox with a state file, not yet started."""
    return SandboxOptions(meters=METERS, state=tmp_path / "state.jsonl")


def test_everything_is_there_again_after_a_restart(options: SandboxOptions) -> None:
    """Events, identifiers, customers, meters, both modes, the clock and the count of doubles."""
    with running(options) as sandbox:
        sandbox.set_time(NOON)
        client = connect(sandbox.url)
        send(client, "5", identifier="e-1", timestamp=NOON)
        send(client, "many", identifier="e-2")
        send(client, "1", event_name="stored_gb", timestamp=NOON)
        send(client, "0.0000001", event_name="stored_gb", timestamp=NOON)
        send(connect(sandbox.url, "sk_live_a"), "7")
        customer = client.v1.customers.create({"name": "Ada"})
        meter = client.v1.billing.meters.list({"limit": 1}).data[0]
        client.v1.billing.meters.deactivate(meter.id)
        sandbox.set_time(NOON + 25 * HOUR)
        send(client, "5", identifier="e-1", timestamp=NOON)
        before = sandbox.events(), sandbox.events(livemode=True)
    with running(options) as sandbox:
        client = connect(sandbox.url)
        assert (sandbox.events(), sandbox.events(livemode=True)) == before
        assert sandbox.stats()["double_counted"] == 1
        assert sandbox.totals("stored_gb") == {"cus_a": Decimal("0.0000001")}
        assert client.v1.customers.retrieve(customer.id).to_dict() == customer.to_dict()
        assert client.v1.billing.meters.retrieve(meter.id).status == "inactive"
        with pytest.raises(stripe.InvalidRequestError, match="already exists"):
            send(client, identifier="e-1")
        assert used(client) == 10.0


def test_kept_answers_are_there_again_after_a_restart(options: SandboxOptions) -> None:
    """A retry under its Idempotency-Key gets the answer of the process before, a 500 included."""
    with running(options) as sandbox:
        first = post_event(sandbox.url, event_form("5"), key="k-1")
        sandbox.set_faults(error_after=1.0)
        post_event(sandbox.url, event_form("6"), key="k-2")
    with running(options) as sandbox:
        again = post_event(sandbox.url, event_form("5"), key="k-1")
        assert (again.json, again.headers["idempotent-replayed"]) == (first.json, "true")
        assert post_event(sandbox.url, event_form("6"), key="k-2").status == 500
        assert sandbox.totals("api_requests") == {"cus_a": 11}


def test_an_event_is_in_the_file_before_its_answer_leaves(options: SandboxOptions) -> None:
    """Whoever has the answer finds the event on disk."""
    assert options.state is not None
    with running(options) as sandbox:
        send(connect(sandbox.url), identifier="e-1")
        assert '"identifier":"e-1"' in options.state.read_text()


@contextmanager
def process(state: Path) -> Iterator[tuple[subprocess.Popen[str], ControlClient]]:
    """Run the command as its own process."""
    arguments = ["--port", "0", "--meter", "api_requests:sum", "--state", str(state)]
    started = subprocess.Popen(
        [sys.executable, "-m", "aggregator.sandbox", *arguments], stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    with started:
        try:
            announced = started.stdout.readline()
            yield started, ControlClient(announced.split()[2])
        finally:
            started.kill()


def test_a_killed_sandbox_has_lost_nothing_it_answered(tmp_path: Path) -> None:
    """SIGKILL in the middle, a torn last line, and every answered event is there again."""
    state = tmp_path / "state.jsonl"
    with process(state) as (server, sandbox):
        client = connect(sandbox.url)
        for number in range(50):
            send(client, "1", identifier=f"e-{number}")
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
    with state.open("a") as file:
        file.write('{"kind":"event","account":"acct_san')
    with running(SandboxOptions(state=state)) as again:
        assert again.totals("api_requests") == {"cus_a": 50}
        send(connect(again.url), "1", identifier="e-50")
    with running(SandboxOptions(state=state)) as once_more:
        assert once_more.totals("api_requests") == {"cus_a": 51}


def test_the_command_says_where_it_is_and_stops_on_a_signal(tmp_path: Path) -> None:
    """One line names the URL and the keys; SIGTERM ends it."""
    with process(tmp_path / "state.jsonl") as (server, sandbox):
        assert sandbox.url.startswith("http://127.0.0.1:")
        assert connect(sandbox.url).v1.accounts.retrieve_current().id == "acct_sandbox"
        server.terminate()
        assert server.wait(timeout=20) in {0, -signal.SIGTERM}


def test_reset_empties_the_file(options: SandboxOptions) -> None:
    """After a restart only what came later is there."""
    with running(options) as sandbox:
        send(connect(sandbox.url), identifier="e-1")
        sandbox.reset()
        send(connect(sandbox.url), identifier="e-2")
    with running(options) as sandbox:
        assert [event["identifier"] for event in sandbox.events()] == ["e-2"]


def test_two_sandboxes_cannot_share_a_file(options: SandboxOptions) -> None:
    """The second is told that the first holds it."""
    with running(options), pytest.raises(StateError, match="Another sandbox holds"), running(options):
        pass


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("not json", "is not JSON"),
        ("[1]", "is not a record"),
        ('{"kind":"meter","account":"acct_sandbox","livemode":false}', "cannot be used"),
        ('{"kind":"weather","account":"acct_sandbox","livemode":false}', "kind 'weather'"),
    ],
)
def test_a_file_that_is_not_a_state_is_refused(options: SandboxOptions, line: str, words: str) -> None:
    """The message says which line and what to do; the file is left as it was."""
    assert options.state is not None
    options.state.write_text(line + "\n")
    with pytest.raises(StateError, match=words):
        serve(options)
    assert options.state.read_text() == line + "\n"


def test_a_file_with_another_meter_of_that_name_is_refused(options: SandboxOptions) -> None:
    """A meter cannot change its formula by a restart."""
    with running(options):
        pass
    other = SandboxOptions(meters=(MeterSpec("api_requests", "count"),), state=options.state)
    with pytest.raises(StateError, match="formula sum"):
        serve(other)


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    """The message names it."""
    with pytest.raises(StateError, match="cannot be opened"):
        serve(SandboxOptions(state=tmp_path / "nowhere" / "state.jsonl"))


def test_without_a_file_nothing_lasts() -> None:
    """A sandbox in memory starts empty each time."""
    memory = SandboxOptions(meters=METERS)
    with running(memory) as sandbox:
        send(connect(sandbox.url))
    with running(memory) as sandbox:
        assert sandbox.events() == []


def test_a_stopped_sandbox_refuses_connections_and_may_be_stopped_twice(options: SandboxOptions) -> None:
    """Its port is free for the next one."""
    with running(options) as sandbox:
        sandbox.stop()
        with pytest.raises(stripe.APIConnectionError):
            send(connect(sandbox.url))
        port = int(sandbox.url.rpartition(":")[2])
        with running(SandboxOptions(meters=METERS, state=options.state, port=port)) as again:
            assert again.url == sandbox.url


def test_a_day_old_answer_is_not_kept_after_a_restart(options: SandboxOptions) -> None:
    """The clock's offset lasts, so the day has passed there too."""
    with running(options) as sandbox:
        post_event(sandbox.url, event_form("5"), key="k-1")
        sandbox.set_clock(DAY + 60)
    with running(options) as sandbox:
        post_event(sandbox.url, event_form("5"), key="k-1")
        assert sandbox.totals("api_requests") == {"cus_a": 10}
