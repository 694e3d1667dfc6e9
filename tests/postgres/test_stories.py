"""The stories of docs/explain.md, made anew: real Postgres as source and as ledger, the real sandbox, and instants that are
fixed; and what `explain` says where there is less to say.
"""

import datetime as dt
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from click.testing import CliRunner, Result

from aggregator.cli.explain import explain as command
from aggregator.cli.explain import story_lines
from aggregator.collection.explanation import ExplainedSource, Question, explain, window_at
from aggregator.core.explanation import Explanation, Story
from aggregator.core.model import Rejection, Span
from aggregator.delivery.sender import Sender
from aggregator.errors import UsageError
from aggregator.ledger.database import Database
from aggregator.ledger.facts import ENTRIES, EVENTS, SLOTS, Facts
from aggregator.ledger.review.decisions import Decider
from aggregator.ledger.review.in_doubt import InDoubt
from aggregator.sandbox import MeterSpec, RunningSandbox, SandboxOptions, running
from aggregator.sinks.stripe import StripeMeter, StripeSink
from aggregator.sinks.stripe.limits import Rates
from aggregator.source import Source
from tests.postgres.configured import written
from tests.postgres.rejecting import reject_by_report
from tests.postgres.world import HOUR, METER, MINUTE, World

PAGE = Path(__file__).parents[2] / "docs" / "explain.md"

DAY = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
NINE = DAY + 9 * HOUR
WINDOW = Span(NINE, NINE + HOUR)
SECOND = dt.timedelta(seconds=1)

QUERY = """\
select customer, sum(quantity) as quantity, max(created_at) as at, date_trunc('hour', created_at) as window
  from usage
 where created_at >= :start and created_at < :end
 group by 1, 4"""

DETAIL = """\
select id, quantity, created_at from usage
 where customer = :customer and created_at >= :start and created_at < :end order by id"""


@pytest.fixture(scope="module")
def server() -> Iterator[RunningSandbox]:
    """One sandbox for all tests here."""
    with running(SandboxOptions(meters=(MeterSpec("api_requests"),))) as sandbox:
        yield sandbox


class Scene:
    """A day at nine: an application database, a ledger with a fixed id, and a sandbox whose clock is set."""

    def __init__(
        self, database: Database, source_url: str, sandbox: RunningSandbox, sink: StripeSink
    ) -> None:
        self.sandbox = sandbox
        self.source_url = source_url
        self.source = Source("app", source_url, statement_timeout=dt.timedelta(seconds=20))
        with database.transaction() as connection:
            connection.execute(
                "update aggregator.identity set ledger_id = '5f0c2ab1-d3e4-4876-9a10-000000000001'"
            )
        meter = replace(METER, query=QUERY, start_at=NINE)
        self.world = World(database, meter=meter, source=cast("Any", self.source), sinks=[cast("Any", sink)])
        self.facts = Facts(database)
        self.run(
            "create table usage"
            " (id int generated always as identity, customer text, quantity numeric, created_at timestamptz)"
        )

    def run(self, statement: str, *values: object) -> None:
        """Change the application database."""
        with psycopg.connect(self.source_url, autocommit=True, prepare_threshold=None) as connection:
            connection.execute(statement.encode(), values)

    def use(self, customer: str | None, quantity: object, minute: float) -> None:
        """Let a customer use something so many minutes after nine."""
        self.run(
            "insert into usage (customer, quantity, created_at) values (%s, %s, %s)",
            customer,
            quantity,
            NINE + minute * MINUTE,
        )

    def at(self, hour: int, minute: int, second: int = 0) -> None:
        """Let it be that time of the day, here and at the sandbox."""
        self.world.now = DAY + hour * HOUR + minute * MINUTE + second * SECOND
        self.sandbox.set_time(self.world.now.timestamp())

    def collect(self, hour: int, minute: int) -> None:
        """Let a pass run at that time."""
        self.at(hour, minute)
        self.world.collect()

    def deliver(self, hour: int, minute: int, second: int = 2) -> None:
        """Let delivery run once at that time."""
        self.at(hour, minute, second)
        world = self.world
        [feed] = world.registered.feeds
        Sender(world.outbox, cast("Any", world.sink), feed.sink_id, lambda: world.now).run_once(world.now)

    def explain(self, customer: str, span: Span = WINDOW, *, live: bool = True, **more: Any) -> Explanation:
        """Explain it at eight in the evening."""
        self.at(20, 0)
        question = Question("api_requests", customer, span, self.world.now, live, **more)
        source = ExplainedSource(self.source, Decimal(1), DETAIL)
        return explain(self.facts, question, ["api_requests"], lambda _: source)

    def story(self, customer: str, **more: Any) -> Story:
        """Return the one story of a window."""
        [only] = self.explain(customer, **more).stories
        return only


@pytest.fixture
def scene(database: Database, source_url: str, server: RunningSandbox) -> Iterator[Scene]:
    """The scene, empty."""
    server.reset()
    sink = StripeSink(
        "stripe",
        api_key="sk_test_1",
        mode="test",
        api_base=server.url,
        rates=Rates(1_000.0, 1_000.0, stream_by_event=False),
        timeout=dt.timedelta(seconds=20),
        max_in_flight=4,
        meters={"api_requests": StripeMeter(event_name="api_requests")},
    )
    scene = Scene(database, source_url, server, sink)
    try:
        yield scene
    finally:
        sink.close()
        scene.source.close()


def text_of(story: Story) -> str:
    """Return a story as it is printed; the sandbox's requests are numbered as they come up in it."""
    text = "\n".join(story_lines(story))
    for number, request in enumerate(dict.fromkeys(re.findall(r"req_\w+", text)), 1):
        text = text.replace(request, f"req_{number:018d}")
    return text


def shown(heading: str) -> str:
    """Return the story that the page has below a heading."""
    found = re.search(
        rf"^## {re.escape(heading)}\n.*?^```\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    assert found is not None, f"{PAGE} has no story below {heading}"
    return found[1].partition("\n")[2].rstrip("\n")


def test_the_story_of_a_corrected_window(scene: Scene) -> None:
    """Usage came late and was added; some was taken back, and a person let that go: as the page has it."""
    scene.use("cus_ada", 12, 4.5)
    scene.use("cus_ada", 28, 41)
    scene.use("cus_bob", 7, 12)
    scene.collect(10, 5)
    scene.deliver(10, 5)
    scene.use("cus_ada", 5, 22)
    scene.collect(10, 35)
    scene.deliver(10, 35)
    scene.run("update usage set quantity = 9 where customer = 'cus_ada' and quantity = 12")
    scene.collect(11, 35)
    scene.at(14, 10)
    scene.world.outbox.release([4], scene.world.now, Decider("jo", "the rows were a test, INC-7"))
    scene.deliver(14, 10)
    story = scene.story("cus_ada", rows=10)
    assert text_of(story) == shown("A corrected window")
    assert story.detail is not None
    assert [row[1] for row in story.detail.rows] == [9, 28, 5]
    assert scene.world.sink.total("api_requests", "cus_ada", WINDOW) == 42


def test_the_story_of_a_window_that_was_refused_in_part(scene: Scene) -> None:
    """The first event was taken at the second try; the correction was not, as the customer is gone: as the page has it."""
    scene.use("cus_eve", 30, 17)
    scene.collect(10, 5)
    scene.sandbox.set_faults(too_many_requests=1.0)
    scene.deliver(10, 5)
    scene.sandbox.set_faults()
    scene.deliver(10, 6)
    scene.sandbox.set_faults(refuse_customers=["cus_eve"], refuse_message="No such customer: 'cus_eve'")
    scene.use("cus_eve", 12, 50)
    scene.collect(10, 35)
    scene.deliver(10, 35)
    story = scene.story("cus_eve")
    assert text_of(story) == shown("A window that was refused in part")
    assert (story.facts.billed, story.facts.waiting) == (30, 12)


def test_the_story_of_a_window_that_was_billed_again(scene: Scene) -> None:
    """The sink found an event invalid after it had taken it; it was planned anew, and the source has changed since."""
    scene.use("cus_max", 18, 30)
    scene.use("cus_bob", 7, 12)
    scene.collect(10, 5)
    scene.deliver(10, 5)
    scene.at(10, 20)
    world = scene.world
    name = world.one("select identifier from aggregator.event where customer = 'cus_max'")
    [feed] = world.registered.feeds
    rejection = Rejection(name, "no customer with the id cus_max")
    reject_by_report(InDoubt(world.database), feed.sink_id, [rejection], world.now)
    scene.at(10, 50)
    [event] = world.rows("select id from aggregator.event where customer = 'cus_max'")
    world.outbox.release(list(event), world.now, Decider("kim", "created the customer again"))
    scene.collect(11, 5)
    scene.deliver(11, 5)
    scene.use("cus_max", 4, 55)
    scene.use("cus_bob", 116, 56)
    story = scene.story("cus_max")
    assert text_of(story) == shown("A window that was billed again")
    assert story.now is not None
    assert (story.now.customers, story.now.change) == (2, 120)


def test_the_query_gives_the_number_when_it_is_pasted(scene: Scene) -> None:
    """As it is, into a session of the source: the customer's number, and nobody else's."""
    scene.use("cus_ada", 12, 4.5)
    scene.use("cus_o'hara", 28, 41)
    scene.use("cus_bob", 7, 75)
    scene.collect(11, 5)
    for customer, number in (("cus_ada", 12), ("cus_o'hara", 28)):
        with psycopg.connect(scene.source_url) as connection:
            found = connection.execute(scene.story(customer).query.encode()).fetchall()
        assert [(row[0], row[1]) for row in found] == [(customer, number)]


def test_without_the_source_everything_else_is_told(scene: Scene) -> None:
    """What it says now is not known, with the reason; the rows behind it neither. The story before that is the same."""
    scene.use("cus_ada", 12, 4.5)
    scene.collect(10, 5)
    scene.deliver(10, 5)
    before = scene.story("cus_ada", rows=3)
    scene.source.close()
    nowhere = Source(
        "app", "postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=2", statement_timeout=SECOND
    )
    scene.source = nowhere
    after = scene.story("cus_ada", rows=3)
    assert after.sentences[:2] == before.sentences[:2]
    assert after.sentences[2].text.startswith(
        "What source app says now is not known: Source app cannot be read:"
    )
    assert after.detail is not None
    assert after.detail.trouble is not None
    assert scene.explain("cus_ada", live=False).notes == [
        "Source app was not asked what it says now: --live does."
    ]


def test_of_a_range_only_what_has_a_story_is_told(scene: Scene) -> None:
    """The others are counted with their sums; too many stories are cut, and that is said."""
    for hour in range(6):
        scene.use("cus_ada", 10 + hour, 60 * hour + 5)
        scene.use("cus_bob", 1, 60 * hour + 6)
    scene.collect(15, 5)
    scene.deliver(15, 5)
    scene.use("cus_ada", 100, 60 * 5 + 9)
    scene.use("cus_ada", 100, 60 * 4 + 9)
    scene.collect(15, 35)
    scene.deliver(15, 35)
    found = scene.explain("cus_ada", Span(NINE, NINE + 6 * HOUR), live=False)
    assert [story.facts.window.start for story in found.stories] == [NINE + 4 * HOUR, NINE + 5 * HOUR]
    [plain] = found.plain
    assert (plain.windows, plain.quantity, plain.billed) == (4, 46, 46)
    cut = scene.explain("cus_ada", Span(NINE, NINE + 6 * HOUR), live=False, stories=1)
    assert (len(cut.stories), cut.left_out) == (1, 1)
    live = scene.explain("cus_ada", Span(NINE, NINE + 6 * HOUR))
    assert [story.now.quantity if story.now else None for story in live.stories] == [114, 115]
    with pytest.raises(UsageError, match="windows, and at most 50,000 are explained at once"):
        scene.explain("cus_ada", Span(NINE, NINE + 60_000 * HOUR))


def test_an_event_is_found_by_its_number_and_by_its_identifier(scene: Scene) -> None:
    """However long ago it was planned; what is neither is not found."""
    scene.use("cus_ada", 12, 4.5)
    scene.use("cus_bob", 7, 65)
    scene.collect(11, 5)
    [(event, identifier)] = scene.world.rows(
        "select id, identifier from aggregator.event where customer = 'cus_bob'"
    )
    much_later = scene.world.now + dt.timedelta(days=400)
    for name in (str(event), identifier):
        for now in (scene.world.now, much_later):
            place = scene.facts.place(name, now)
            assert place is not None
            assert (place.customer, place.window, place.feed.sink) == (
                "cus_bob",
                Span(NINE + HOUR, NINE + 2 * HOUR),
                "stripe",
            )
    assert scene.facts.place("99", much_later) is None
    assert scene.facts.place("9" * 40, much_later) is None
    assert scene.facts.place("agg_nothing", much_later) is None
    assert window_at(scene.facts, "api_requests", NINE + 90 * MINUTE) == Span(NINE + HOUR, NINE + 2 * HOUR)


def said(story: Story) -> str:
    """Return what stands at the end of a story."""
    return " ".join(each.text for each in story.sentences if each.at is None)


def test_where_nothing_was_billed_the_reason_is_told(scene: Scene) -> None:
    """Too small, unusable, of nobody, not read yet, not given by the source: each in a sentence of its own."""
    scene.use("cus_small", "0.4", 5)
    scene.use("cus_odd", "NaN", 5)
    scene.collect(10, 5)
    assert "The source said 0.4, too small to bill by itself, it is carried to a later window." in said(
        scene.story("cus_small")
    )
    assert "Rows of cus_odd in this window cannot be billed" in said(scene.story("cus_odd"))
    assert "The window was read, and the source had nothing of cus_new in it." in said(scene.story("cus_new"))
    scene.use("cus_small", 2, 65)
    later = Span(NINE + HOUR, NINE + 2 * HOUR)
    story = scene.story("cus_small", span=later)
    assert "api_requests is read up to 2026-11-20 10:00:00Z: this window has not been read yet." in said(
        story
    )
    assert "source app said 2, and the window has not been read yet." in said(story)
    scene.world.execute(
        "insert into aggregator.unread (meter_id, window_start, reason, since, next_at)"
        " values (1, %s, 'it takes too long', now(), now())", NINE + HOUR,
    )  # fmt: skip
    assert "The source could not give this window: it takes too long." in said(
        scene.story("cus_small", span=later)
    )
    before = Span(NINE - HOUR, NINE)
    assert "stripe does not bill this window" in said(scene.story("cus_small", span=before))


def test_what_was_carried_is_told_where_it_was_billed(scene: Scene) -> None:
    """A fraction waits, and is billed with a later window."""
    scene.use("cus_ada", "1.75", 5)
    scene.use("cus_ada", "1.5", 65)
    scene.collect(11, 5)
    first = scene.story("cus_ada")
    assert (
        "1 to bill. What is too small to bill (0.75) is carried to a later window." in first.sentences[0].text
    )
    second = scene.story("cus_ada", span=Span(NINE + HOUR, NINE + 2 * HOUR))
    assert "2 to bill. Of it, 0.5 had been carried from other windows." in second.sentences[0].text


def test_what_waits_is_told_with_the_command(scene: Scene) -> None:
    """Due, being sent, held; and dismissed, with the time."""
    scene.use("cus_ada", 12, 5)
    scene.collect(10, 5)
    world = scene.world
    assert "Event 1 is due: it is sent to stripe at 2026-11-20 10:05:00Z or later." in said(
        scene.story("cus_ada")
    )
    scene.at(10, 5, 2)
    assert world.outbox.claim(world.registered.feeds[0].sink_id, 10, world.now)
    assert "Event 1 is being sent to stripe, and has no answer yet." in said(scene.story("cus_ada"))
    scene.deliver(10, 10)
    scene.run("update usage set quantity = 10")
    scene.collect(10, 35)
    story = scene.story("cus_ada")
    assert "It was held for a person: lowers what was planned before." in story.sentences[-4].text
    assert "Event 2 (-2) waits for a person: `aggregator events release 2` sends it." in said(story)
    world.execute("update aggregator.parked set dismissed_at = %s", DAY + 12 * HOUR)
    story = scene.story("cus_ada")
    assert (DAY + 12 * HOUR, "A person dismissed event 2: nothing of it is billed.") in story.sentences
    assert "releases" not in said(story)


def test_a_meter_that_is_not_configured_is_explained_from_the_ledger(scene: Scene) -> None:
    """Its query is filled in as Postgres has it; a meter that nobody knows is an error that names those there are."""
    scene.use("cus_ada", 12, 5)
    scene.collect(10, 5)
    question = Question("api_requests", "cus_ada", WINDOW, scene.world.now, live=True)
    found = explain(scene.facts, question, [], lambda _: None)
    assert "timestamptz '2026-11-20 09:00:00+00:00'" in found.stories[0].query
    assert found.stories[0].now is None
    assert "is not in the configuration, so its source cannot be asked" in found.notes[0]
    with pytest.raises(UsageError, match=r"There is no meter seats, .* there are: api_requests"):
        explain(scene.facts, question._replace(meter="seats"), ["api_requests"], lambda _: None)
    with pytest.raises(UsageError, match="Nothing of meter seats was read yet"):
        explain(scene.facts, question._replace(meter="seats"), ["seats"], lambda _: None)


def test_the_command_explains_a_window_and_an_event(
    scene: Scene, ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its window, by an event of it, and as JSON with every fact; what is wrong with another call is said."""
    monkeypatch.setattr("aggregator.wiring.opening.unfit", lambda database: [])
    scene.use("cus_ada", 12, 5)
    scene.collect(10, 5)
    scene.deliver(10, 5)
    sink = "type: stripe, api_key: sk_test_1, mode: test, api_base: 'http://127.0.0.1:1'"
    query = "'" + " ".join(QUERY.split()).replace("'", "''") + "'"
    path = written(tmp_path, ledger_url, sink, name="stripe", app=scene.source_url, query=query)
    path.write_text(path.read_text() + f"    detail_query: '{' '.join(DETAIL.split())}'\n")

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(command, [*arguments, "--config", str(path)])

    by_window = call("api_requests", "--customer", "cus_ada", "--window", "2026-11-20T09:30Z")
    assert by_window.exception is None, by_window.output
    assert (
        "api_requests for cus_ada, 2026-11-20 09:00 to 10:00 UTC, to stripe\n12 used = 12 billed\n"
        in by_window.output
    )
    assert "stripe accepted event 1 by v1: 12 (request req_" in by_window.output
    assert "rows behind it" in by_window.output
    assert " said 12, as when it was last read." in by_window.output
    by_event = call("--event", "1", "--no-live")
    assert "stripe accepted event 1" in by_event.output
    assert "Source app was not asked what it says now: --live does." in by_event.output
    assert "rows behind it" not in by_event.output
    known = json.loads(
        call("api_requests", "--customer", "cus_ada", "--window", "2026-11-20T09:30Z", "--json").output
    )
    [window] = known["windows"]
    assert (window["used"], window["billed"], window["from"]) == ("12", "12", "2026-11-20T09:00:00Z")
    [event] = window["events"]
    assert (event["state"], event["planned_by"]["kind"], event["attempts"]) == ("accepted", "live", 1)
    assert window["story"][0] == {
        "at": "2026-11-20T10:05:00Z", "text": window["story"][0]["text"],
    }  # fmt: skip
    assert window["now"]["checksum"] == window["evidence"][0]["checksum"]
    assert window["rows"]["columns"] == ["id", "quantity", "created_at"]
    in_range = call(
        "api_requests", "--customer", "cus_ada", "--from", "2026-11-20T09:00Z", "--to", "2026-11-21"
    )
    assert (
        "1 window of api_requests for cus_ada to stripe was read once and billed at once: 12 used, 12 billed."
        in in_range.output
    )
    for arguments, what in (
        (("api_requests",), "Name the number"),
        (("api_requests", "--customer", "cus_ada"), "Name the time"),
        (("--event", "1", "--customer", "cus_ada"), "--event is enough"),
        (("--event", "agg_1"), "The ledger has no event agg_1"),
        (
            ("api_requests", "--customer", "c", "--window", "2026-11-20", "--from", "2026-11-20"),
            "--window is a range already",
        ),
        (("api_requests", "--customer", "c", "--from", "2026-11-20", "--to", "2026-11-19"), "is empty"),
        (("seats", "--customer", "c", "--window", "2026-11-20"), "There is no meter seats"),
    ):
        ran = call(*arguments)
        assert isinstance(ran.exception, UsageError), (arguments, ran.output)
        assert what in str(ran.exception)


def test_windows_are_found_by_their_key_however_large_the_ledger_is(scene: Scene, ledger_url: str) -> None:
    """What is asked is one customer's windows: neither slots, events, claims nor reports are read as a whole."""
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        connection.execute(
            """
            with billed as (
                insert into aggregator.slot (id, feed_id, revision, window_start, customer, quantity, total, tail)
                select nextval('aggregator.event_id'), 1, 1, %s + hour * interval '1 hour', 'cus_' || who, 2, 2,
                       currval('aggregator.event_id')
                  from generate_series(0, 999) as hour, generate_series(1, 40) as who
                returning *
            ), sent as (
                insert into aggregator.event_at_rest (id, pass_id, feed_id, window_start, at, planned_at, state, customer,
                                                      identifier, delta, attempted_at)
                select tail, 1, 1, window_start, window_start, window_start, 'accepted', customer, 'agg_' || id, 2,
                       window_start
                  from billed
                returning id, window_start
            ), claimed as (
                insert into aggregator.claim (sink_id, owner, claimed_at, settled_at, events)
                select 1, gen_random_uuid(), window_start, window_start, array[id] from sent order by window_start
            )
            insert into aggregator.rejection (sink_id, identifier, reason, received_at)
            select 1, 'other_' || id, '', window_start from sent
            """,
            [NINE],
        )
        connection.execute(
            "vacuum analyze aggregator.slot, aggregator.event_at_rest, aggregator.claim, aggregator.rejection"
        )
        starts = [NINE + hour * HOUR for hour in range(24)]
        values = {"feed": 1, "customer": "cus_7", "starts": starts}
        for statement in (SLOTS, EVENTS, ENTRIES):
            asked = psycopg.ClientCursor(connection).execute(f"explain {statement}".encode(), values)
            plan = "\n".join(row[0] for row in asked)
            assert "slot_pkey" in plan, plan
            for table in ("slot", "event", "claim", "rejection"):
                assert f"Seq Scan on {table}" not in plan, plan
    [known] = scene.explain("cus_7", Span(NINE, NINE + 24 * HOUR), live=False).plain
    assert (known.windows, known.billed) == (24, 48)
