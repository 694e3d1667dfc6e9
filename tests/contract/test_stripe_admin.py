"""What changes a Stripe account, and what asks about a key: against the sandbox, through the official library.

Where an answer has to be lost or kept back, a server that follows a script stands in.
"""

import datetime as dt
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
import stripe

from aggregator.errors import SinkError, SinkHalted, SinkUnreachable
from aggregator.sandbox import MeterSpec, RunningSandbox, SandboxOptions, running
from aggregator.sinks.stripe import AdminClient, StripeMeter
from aggregator.sinks.stripe.admin import REPEATS, creation, idempotency_key
from aggregator.sinks.stripe.differences import MeterState
from aggregator.sinks.stripe.permissions import EVERYDAY, NEEDED, Answer, Use, named
from tests.contract.making import making
from tests.contract.scripted import Told, serving

KEY = "sk_test_0123456789abcdefghij"
RESTRICTED = "rk_test_0123456789abcdefghij"
SECONDS = 20
NOW = dt.datetime(2026, 11, 24, 17, 30, tzinfo=dt.UTC)

FILLERS = tuple(MeterSpec(f"filler_{number:03}") for number in range(120))
ENOUGH = ("meter_events_write", "meters_read", "account_read")

MakeDesk = Callable[..., AdminClient]


@pytest.fixture(scope="module")
def shared_sandbox() -> Iterator[RunningSandbox]:
    """One sandbox for all tests here."""
    with running(SandboxOptions(meters=FILLERS)) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(shared_sandbox: RunningSandbox) -> RunningSandbox:
    """The sandbox, as it was at the start."""
    shared_sandbox.reset()
    return shared_sandbox


@pytest.fixture
def make_desk() -> Iterator[MakeDesk]:
    """Make desks for the meter `api`, and close them when the test ends."""
    with making(
        partial(AdminClient, "stripe"), api_key=KEY, mode="test", timeout=dt.timedelta(seconds=SECONDS)
    ) as made:

        def make(url: str, meter: StripeMeter | None = None, **settings: Any) -> AdminClient:
            meters = {"api": meter or StripeMeter(event_name="api_requests")}
            return made(url, **{"meters": meters, **settings})

        yield make


def meters_there(admin: AdminClient, *names: str) -> int:
    """Return how many of these meters of ours the account has."""
    return sum(each.known is not None for each in admin.compare(names or ("api",)))


def all_meters(sandbox: RunningSandbox) -> list[str]:
    """Return the event names of all meters there are, as Stripe's library lists them."""
    client = stripe.StripeClient(KEY, base_addresses={"api": sandbox.url})
    return [each.event_name for each in client.v1.billing.meters.list({"limit": 100}).auto_paging_iter()]


# -- making a meter -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "meter",
    [
        StripeMeter(event_name="plain"),
        StripeMeter(event_name="hourly", event_time_window="hour", display_name="By the hour"),
        StripeMeter(event_name="daily", event_time_window="day"),
        StripeMeter(event_name="seats", formula="last"),
        StripeMeter(event_name="keyed", customer_key="who", value_key="much"),
    ],
    ids=lambda meter: meter.event_name,
)
def test_what_is_made_is_what_was_configured(
    sandbox: RunningSandbox, make_desk: MakeDesk, meter: StripeMeter
) -> None:
    """Every field goes over the wire and comes back, so that comparing again finds nothing."""
    admin = make_desk(sandbox.url, meter)
    made = admin.create("api", NOW)
    assert made.by_us
    assert made.comparison.meter_state is MeterState.EQUAL
    [found] = admin.compare(["api"])
    assert found.meter_state is MeterState.EQUAL
    assert found.known is not None
    assert found.known.display_name == (meter.display_name or meter.event_name)


def test_a_meter_on_the_last_page_is_not_made_again(sandbox: RunningSandbox, make_desk: MakeDesk) -> None:
    """A hundred and twenty meters are two pages, and the list is newest first."""
    for name in ("filler_000", "filler_119"):
        [found] = make_desk(sandbox.url, StripeMeter(event_name=name)).compare(["api"])
        assert found.meter_state is MeterState.EQUAL


def test_making_twice_makes_one(sandbox: RunningSandbox, make_desk: MakeDesk) -> None:
    """Within the hour Stripe answers from memory; later it says that the name is taken, and the account has it."""
    admin = make_desk(sandbox.url)
    first = admin.create("api", NOW)
    again = admin.create("api", NOW)
    later = admin.create("api", NOW + dt.timedelta(hours=1))
    assert [each.comparison.meter_state for each in (first, again, later)] == [MeterState.EQUAL] * 3
    assert (first.by_us, later.by_us) == (True, False)
    assert len({each.comparison.known for each in (first, again, later)}) == 1


def test_two_at_once_make_one(sandbox: RunningSandbox, make_desk: MakeDesk) -> None:
    """Several people at several desks: all are told that it is there, and there is one."""
    admins = [make_desk(sandbox.url) for _ in range(6)]
    ready = threading.Barrier(len(admins))

    def create(admin: AdminClient) -> Any:
        ready.wait(SECONDS)
        return admin.create("api", NOW)

    with ThreadPoolExecutor(len(admins)) as pool:
        made = list(pool.map(create, admins))
    assert {each.comparison.meter_state for each in made} == {MeterState.EQUAL}
    assert all_meters(sandbox).count("api_requests") == 1


def test_two_at_once_who_differ_make_one_and_one_is_told(
    sandbox: RunningSandbox, make_desk: MakeDesk
) -> None:
    """The second finds a meter of the name that is not what it wanted: compared anew, it is for a person."""
    first, second = (
        make_desk(sandbox.url),
        make_desk(sandbox.url, StripeMeter(event_name="api_requests", formula="last")),
    )
    assert first.create("api", NOW).comparison.meter_state is MeterState.EQUAL
    made = second.create("api", NOW)
    assert (made.by_us, made.comparison.meter_state) == (False, MeterState.FIXED)


@pytest.mark.parametrize("fault", ["drop_after", "error_after", "drop_before", "error_before"])
def test_an_answer_that_is_lost_makes_no_second_meter(
    sandbox: RunningSandbox, make_desk: MakeDesk, fault: str
) -> None:
    """Whether the call was carried out or not, afterwards there is one meter, and it is said to be there."""
    sandbox.set_faults(**{fault: 1.0}, applies_to="all", times=1)
    admin = make_desk(sandbox.url)
    assert admin.create("api", NOW).comparison.meter_state is MeterState.EQUAL
    assert all_meters(sandbox).count("api_requests") == 1


def test_a_saved_error_stands_in_the_way_for_an_hour_at_most(
    sandbox: RunningSandbox, make_desk: MakeDesk
) -> None:
    """Whatever Stripe has saved under a key: the next hour has another, and makes the meter."""
    admin = make_desk(sandbox.url)
    sandbox.set_faults(error_before=1.0, applies_to="all", times=1 + REPEATS)
    with pytest.raises(SinkUnreachable, match=r"make the meter api_requests .* Run the command again"):
        admin.create("api", NOW)
    assert meters_there(admin) == 0
    assert admin.create("api", NOW + dt.timedelta(minutes=30)).by_us
    assert meters_there(admin) == 1


class _Failing(BaseHTTPRequestHandler):
    """Answers every call with an error that may pass, and notes the keys under which something was to be made."""

    keys: ClassVar[list[str | None]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.keys.append(self.headers["Idempotency-Key"])
        self._fail()

    def do_GET(self) -> None:
        self._fail()

    def _fail(self) -> None:
        body = b'{"error": {"type": "api_error", "message": "An error."}}'
        self.send_response(500)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named so by the base class
        """Say nothing."""


def test_every_try_goes_out_under_that_key(make_desk: MakeDesk) -> None:
    """The library's own repeats, and another desk's tries within the hour."""
    meter = StripeMeter(event_name="api_requests")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Failing) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            for minutes in (0, 29):
                with pytest.raises(SinkUnreachable):
                    make_desk(f"http://127.0.0.1:{server.server_port}", meter).create(
                        "api", NOW + dt.timedelta(minutes=minutes)
                    )
        finally:
            server.shutdown()
            thread.join()
    assert _Failing.keys == [idempotency_key(creation(meter), NOW)] * 2 * (1 + REPEATS)


def test_one_meter_after_the_other(sandbox: RunningSandbox, make_desk: MakeDesk) -> None:
    """Each has a key of its own, so that no saved answer stands in for the second."""
    meters = {name: StripeMeter(event_name=name) for name in ("first", "second")}
    admin = make_desk(sandbox.url, meters=meters)
    assert [admin.create(name, NOW).comparison.meter_state for name in meters] == [MeterState.EQUAL] * 2
    assert {"first", "second"} <= set(all_meters(sandbox))


def test_the_key_is_that_of_what_is_made() -> None:
    """Whoever makes the same sends the same key; who makes something else another."""
    meter = StripeMeter(event_name="api_requests")
    others = [
        StripeMeter(event_name="api"),
        StripeMeter(event_name="api_requests", formula="last"),
        StripeMeter(event_name="api_requests", event_time_window="hour"),
        StripeMeter(event_name="api_requests", value_key="n"),
        StripeMeter(event_name="api_requests", display_name="API"),
    ]
    keys = [idempotency_key(creation(each), NOW) for each in (meter, *others)]
    assert len(set(keys)) == len(keys)
    assert idempotency_key(creation(StripeMeter(event_name="api_requests")), NOW) == keys[0]
    assert max(map(len, keys)) <= 255


def test_nobody_there_says_to_run_it_again(make_desk: MakeDesk) -> None:
    """Without an answer to anything, nobody knows; and it is said that nothing is done twice."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        port = closed.server_port
    with pytest.raises(SinkUnreachable, match=r"make the meter api_requests .* Run the command again"):
        make_desk(f"http://127.0.0.1:{port}").create("api", NOW)


def test_a_refusal_keeps_stripes_words(sandbox: RunningSandbox, make_desk: MakeDesk) -> None:
    """What Stripe does not take as a meter is told as it says it."""
    with pytest.raises(SinkError, match=r"refuses to make the meter x+ for sink stripe: .*100"):
        make_desk(sandbox.url, StripeMeter(event_name="x" * 101)).create("api", NOW)


def test_a_key_that_may_only_read_makes_nothing(sandbox: RunningSandbox, make_desk: MakeDesk) -> None:
    """The permission that is lacking is named, the key is not quoted, and nothing is there afterwards."""
    sandbox.set_permissions(RESTRICTED, "meters_read")
    admin = make_desk(sandbox.url, api_key=RESTRICTED)
    with pytest.raises(SinkHalted, match="rak_billing_meter_write") as halted:
        admin.create("api", NOW)
    assert RESTRICTED not in str(halted.value)
    assert meters_there(admin) == 0


# -- changing one ---------------------------------------------------------------------------------


def test_a_display_name_is_changed_and_nothing_else(sandbox: RunningSandbox, make_desk: MakeDesk) -> None:
    """To one name, to another, and back to the first at once: no saved answer stands in for the last."""
    made = make_desk(sandbox.url).create("api", NOW).comparison.known
    assert made is not None
    for title in ("First", "Second", "First"):
        admin = make_desk(sandbox.url, StripeMeter(event_name="api_requests", display_name=title))
        assert admin.rename("api", made).meter_state is MeterState.EQUAL
        [found] = admin.compare(["api"])
        assert found.known == made._replace(display_name=title)


def test_switched_off_and_on(sandbox: RunningSandbox, make_desk: MakeDesk) -> None:
    """Both may be said twice."""
    admin = make_desk(sandbox.url)
    made = admin.create("api", NOW).comparison.known
    assert made is not None
    for active in (False, False, True, True):
        changed = admin.reactivate(made) if active else admin.deactivate(made)
        assert changed == made._replace(active=active)
        [found] = admin.compare(["api"])
        assert found.meter_state is (MeterState.EQUAL if active else MeterState.INACTIVE)


def test_changes_without_an_answer(sandbox: RunningSandbox, make_desk: MakeDesk) -> None:
    """Trouble that may pass and a key that is refused are two different things, whatever is to be changed."""
    admin = make_desk(sandbox.url, StripeMeter(event_name="api_requests", display_name="API"))
    made = admin.create("api", NOW).comparison.known
    assert made is not None
    for change in (
        lambda: admin.rename("api", made),
        lambda: admin.deactivate(made),
        lambda: admin.reactivate(made),
    ):
        sandbox.set_faults(error_before=1.0, applies_to="all")
        with pytest.raises(SinkUnreachable, match="Run the command again"):
            change()
        sandbox.set_faults()
        sandbox.set_keys(revoked=[KEY])
        with pytest.raises(SinkHalted, match="does not accept the API key"):
            change()
        sandbox.set_keys()


def test_a_desk_leaves_no_thread(sandbox: RunningSandbox, make_desk: MakeDesk) -> None:
    """Closing gives everything back, also if nothing was opened, also twice."""
    before = threading.active_count()
    with make_desk(sandbox.url) as admin:
        admin.compare(["api"])
    admin.close()
    with make_desk(sandbox.url):
        pass
    assert threading.active_count() == before


# -- what a key may do ----------------------------------------------------------------------------


def reported(
    admin: AdminClient, uses: frozenset[Use] = EVERYDAY | {Use.APPLY}, *, to_apply: bool = False
) -> list[tuple[str, str]]:
    """What `check` says of a key."""
    return list(admin.key_report(uses).sentences(to_apply=to_apply))


def test_a_key_with_what_is_needed_is_fine(sandbox: RunningSandbox, make_desk: MakeDesk) -> None:
    """One sentence; what could not be tried for certain is said to be probable."""
    sandbox.set_permissions(RESTRICTED, *ENOUGH)
    assert reported(make_desk(sandbox.url, api_key=RESTRICTED)) == [
        ("ok", "it has what is needed: `Meter events: write` (probably), `Meters: read`")
    ]


@pytest.mark.parametrize(
    ("lacks", "told"),
    [
        (
            "meter_events_write",
            ["`Meter events: write` (Stripe calls it rak_billing_meter_event_write): no usage"],
        ),
        (
            "meters_read",
            ["`Meters: read` (Stripe calls it rak_billing_meter_read): nobody", "`Meters: read` (Stripe"],
        ),
    ],
)
def test_what_is_missing_is_wrong(
    sandbox: RunningSandbox, make_desk: MakeDesk, lacks: str, told: list[str]
) -> None:
    """By its name and by Stripe's, and what does not work without it."""
    sandbox.set_permissions(RESTRICTED, *[each for each in ENOUGH if each != lacks])
    found = reported(make_desk(sandbox.url, api_key=RESTRICTED))
    assert [verdict for verdict, _ in found] == ["wrong"] * len(told)
    for (_, text), words in zip(found, told, strict=True):
        assert words in text


def test_what_can_be_done_without_is_worth_a_note(sandbox: RunningSandbox, make_desk: MakeDesk) -> None:
    """The account; and changing meters, only where there is something to apply."""
    sandbox.set_permissions(RESTRICTED, *ENOUGH[:2])
    admin = make_desk(sandbox.url, api_key=RESTRICTED)
    assert [verdict for verdict, text in reported(admin) if "`Account: read`" in text] == ["note"]
    assert not any("Meters: write" in text for _, text in reported(admin))
    assert [verdict for verdict, text in reported(admin, to_apply=True) if "Meters: write" in text] == [
        "note"
    ]


def test_writing_includes_reading(sandbox: RunningSandbox, make_desk: MakeDesk) -> None:
    """A key that may write meters may read them."""
    sandbox.set_permissions(RESTRICTED, "meter_events_write", "meters_write", "account_read")
    assert [
        verdict for verdict, _ in reported(make_desk(sandbox.url, api_key=RESTRICTED), to_apply=True)
    ] == ["ok"]


def test_what_is_not_needed_is_noticed(make_desk: MakeDesk) -> None:
    """A key that reads charges and payouts is more than meters need."""
    with serving() as everything:
        everything.answer = lambda _: Told(200, {})
        [(verdict, text), (fine, _)] = reported(make_desk(everything.url, api_key=RESTRICTED))
    assert (verdict, fine) == ("note", "ok")
    assert "also read charges, payouts" in text
    assert "leave it only `Meter events: write`, `Meters: read`, `Account: read`" in text


def test_looking_customers_up_is_optional(sandbox: RunningSandbox, make_desk: MakeDesk) -> None:
    """Without it there is a note with what does not work; with it nothing is said, and it is not called useless."""
    admin, uses = make_desk(sandbox.url, api_key=RESTRICTED), EVERYDAY | {Use.LOOK_UP}
    sandbox.set_permissions(RESTRICTED, *ENOUGH)
    [(verdict, text), (fine, _)] = reported(admin, uses)
    assert (verdict, fine) == ("note", "ok")
    assert "it lacks `Customers: read` (Stripe calls it rak_customer_read): `aggregator check`" in text
    sandbox.set_permissions(RESTRICTED, *[*ENOUGH, "customers_read"])
    assert [verdict for verdict, _ in reported(admin, uses)] == ["ok"]


def test_a_full_key_is_more_than_needed_and_is_not_tried(
    sandbox: RunningSandbox, make_desk: MakeDesk
) -> None:
    """It is seen by how it begins; the advice names what a restricted one needs."""
    before = sandbox.stats()
    [(verdict, text)] = reported(make_desk(sandbox.url))
    assert verdict == "note"
    assert "`Meter events: write`, `Meters: read`, `Account: read`" in text
    assert sandbox.stats() == before


@pytest.mark.parametrize("use", Use)
def test_each_use_asks_for_its_own(sandbox: RunningSandbox, make_desk: MakeDesk, use: Use) -> None:
    """Nothing granted, nothing found; everything granted, everything found; and of no other use is spoken."""
    wanted = [each for each in NEEDED if each.use is use]
    admin = make_desk(sandbox.url, api_key=RESTRICTED)
    for nothing, answers in ((True, {Answer.NO}), (False, {Answer.YES, Answer.PROBABLY})):
        sandbox.set_keys()
        if nothing:
            sandbox.set_permissions(RESTRICTED)
        held = admin.key_report({use}).held
        assert [each.permission for each in held] == wanted
        assert {each.answer for each in held} <= answers


def test_asking_makes_nothing(sandbox: RunningSandbox, make_desk: MakeDesk) -> None:
    """With every permission there is: no event, no meter, no cancellation comes of it."""
    admin = make_desk(
        sandbox.url,
        api_key=RESTRICTED,
        meters={each.event_name: StripeMeter(event_name=each.event_name) for each in FILLERS},
    )
    report = admin.key_report(Use)
    assert {each.answer for each in report.held} <= {Answer.YES, Answer.PROBABLY}
    assert sandbox.events() == []
    assert sandbox.stats()["accepted"] == 0
    assert sandbox.adjustments() == []
    assert {each.meter_state for each in admin.compare(admin.meters)} == {MeterState.EQUAL}
    assert len(all_meters(sandbox)) == len(FILLERS)


def test_no_write_that_is_tried_has_parameters() -> None:
    """All that a call without its required parameters can do is be refused."""
    assert [each for each in NEEDED if each.level == "write" and (each.method != "post" or each.params)] == []
    assert {each.method for each in NEEDED if each.level == "read"} == {"get"}


def test_a_key_that_is_no_good_is_told_as_such(sandbox: RunningSandbox, make_desk: MakeDesk) -> None:
    """Revoked, or nobody there: that is about the key and the address, not about a permission."""
    sandbox.set_keys(revoked=[RESTRICTED])
    with pytest.raises(SinkHalted, match="does not accept the API key of sink stripe"):
        make_desk(sandbox.url, api_key=RESTRICTED).key_report(EVERYDAY)
    sandbox.set_keys()
    sandbox.set_faults(black_hole=True, applies_to="all")
    with pytest.raises(SinkUnreachable):
        make_desk(sandbox.url, api_key=RESTRICTED, timeout=dt.timedelta(seconds=1)).key_report(EVERYDAY)


def test_a_busy_server_leaves_it_unclear(sandbox: RunningSandbox, make_desk: MakeDesk) -> None:
    """A 500 is no word on a permission: it is a note, and no permission is called missing or there."""
    sandbox.set_faults(error_before=1.0, applies_to="all")
    found = reported(make_desk(sandbox.url, api_key=RESTRICTED))
    assert {verdict for verdict, _ in found} == {"note"}
    assert all("could not be found out" in text for _, text in found)


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (
            "Having the 'rak_billing_meter_write' permission would allow this request to continue.",
            "rak_billing_meter_write",
        ),
        ("This key cannot do that.", None),
    ],
)
def test_stripes_name_of_a_permission_is_found_in_its_message(message: str, name: str | None) -> None:
    """It is what people look for in the Dashboard."""
    assert named(message) == name
