"""What becomes of an event after each word of a sink, and that no sequence of words books it twice."""

import datetime as dt
from dataclasses import dataclass, field, replace
from decimal import Decimal
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.core.model import (
    Answer,
    Event,
    EventId,
    Outcome,
    State,
    Verdict,
    WriteModel,
)
from aggregator.core.retry import (
    FIRST_WAIT_SECONDS,
    LONGEST_WAIT_SECONDS,
    LONGEST_WISH_SECONDS,
    backoff_seconds,
    before_sending,
    forgotten,
    judge,
)
from tests.core.usage import HOUR, LIMITS, TODAY, TOMORROW, table

NOW = TOMORROW
EARLIER = NOW - 2 * HOUR
SECOND = dt.timedelta(seconds=1)


def event(*, attempts: int = 1, exposed_at: dt.datetime | None = None, at: dt.datetime = TODAY) -> Event:
    """Return an event as it is claimed."""
    one = Decimal(1)
    return Event(EventId(1), "api_requests", "acme", TODAY, 0, one, one, at, "agg_1", attempts, exposed_at)


# `exposed` is whether an earlier attempt may have arrived; `tries` whether there were any; `counts` whether this is one.
TABLE = """
answer    | exposed | tries  | becomes  | again   | exposed since | counts
accepted  | no      | any    | accepted |         | began         | yes
accepted  | yes     | any    | accepted |         | earlier       | yes
duplicate | no      | first  | refused  |         |               | yes
duplicate | no      | later  | in_doubt |         | began         | yes
duplicate | yes     | any    | accepted |         | earlier       | yes
refused   | no      | any    | refused  |         |               | yes
refused   | yes     | any    | in_doubt |         | earlier       | yes
busy      | no      | any    | due      | backoff |               | yes
busy      | yes     | any    | due      | backoff | earlier       | yes
unknown   | no      | any    | due      | backoff | began         | yes
unknown   | yes     | any    | due      | backoff | earlier       | yes
unsent    | no      | any    | due      | at once |               | no
unsent    | yes     | any    | due      | at once | earlier       | no
"""

TRIES = {"first": [1], "later": [2, 9, 50], "any": [1, 2, 9, 50]}

ROWS = table(TABLE)


def test_table_is_complete() -> None:
    """Every answer is judged, with and without an earlier exposure (B2, B3)."""
    assert {(row["answer"], row["exposed"]) for row in ROWS} == {
        (answer.value, exposed) for answer in Answer for exposed in ("yes", "no")
    }


@pytest.mark.parametrize(
    ("row", "attempts"),
    [
        pytest.param(row, tries, id=f"{row['answer']}, exposed: {row['exposed']}, tries: {tries}")
        for row in ROWS
        for tries in TRIES[row["tries"]]
    ],
)
def test_judge(row: dict[str, str], attempts: int) -> None:
    """Each answer means what the table says, however often it was tried (B2, B3)."""
    given_ = event(attempts=attempts, exposed_at=EARLIER if row["exposed"] == "yes" else None)
    began = NOW - 10 * SECOND
    outcome = judge(Verdict(given_.id, Answer(row["answer"]), "why", "req_1"), given_, NOW, began)
    waits = {
        "": None,
        "at once": NOW,
        "backoff": NOW + SECOND * backoff_seconds(attempts, given_.identifier),
    }
    since = {"": None, "began": began, "earlier": EARLIER}
    assert outcome.event == given_.id
    assert outcome.state.value == row["becomes"]
    assert outcome.due_at == waits[row["again"]]
    assert outcome.exposed_at == since[row["exposed since"]]
    assert outcome.counts == (row["counts"] == "yes")


def test_request_id_is_kept() -> None:
    """The sink's name for the request is kept with whatever it answered, so that its support can find it."""
    for answer in set(Answer) - {Answer.UNSENT}:
        for exposed_at in (None, EARLIER):
            given_ = event(exposed_at=exposed_at)
            assert judge(Verdict(given_.id, answer, "why", "req_1"), given_, NOW, NOW).request_id == "req_1"


@pytest.mark.parametrize(
    ("answer", "exposed_at", "said"),
    [
        (Answer.REFUSED, None, "no such customer"),
        (
            Answer.REFUSED,
            EARLIER,
            "refused (no such customer), but an earlier attempt without an answer may have been",
        ),
        (
            Answer.DUPLICATE,
            None,
            "the sink has this identifier already, though we never sent it: no such customer",
        ),
        (Answer.BUSY, None, "no such customer"),
        (Answer.UNKNOWN, None, "no such customer"),
    ],
)
def test_reasons(answer: Answer, exposed_at: dt.datetime | None, said: str) -> None:
    """Whatever did not end well says why, in the sink's words and ours."""
    given_ = event(exposed_at=exposed_at)
    assert said in (judge(Verdict(given_.id, answer, "no such customer"), given_, NOW, NOW).reason or "")


def test_known_to_the_sink_after_it_was_proven_absent() -> None:
    """A duplicate where nothing should have arrived is neither delivered nor refused: the sink is read back (B2, B4)."""
    outcome = judge(Verdict(EventId(1), Answer.DUPLICATE, "exists"), event(attempts=3), NOW, EARLIER)
    assert outcome.state is State.IN_DOUBT
    assert outcome.exposed_at == EARLIER
    assert outcome.reason == (
        "the sink has this identifier already, though no earlier attempt should have arrived: exists"
    )


OVERWRITE = replace(LIMITS, write_model=WriteModel.OVERWRITE)


@pytest.mark.parametrize("since", [dt.timedelta(0), LIMITS.memory + SECOND, dt.timedelta(days=400)])
def test_a_total_may_always_be_sent_again(since: dt.timedelta) -> None:
    """Where the sink books the total, a resend changes nothing, however long ago the first attempt was."""
    assert before_sending(event(attempts=7, exposed_at=NOW - since), NOW, OVERWRITE) is None
    assert before_sending(event(at=NOW - 2 * LIMITS.past), NOW, OVERWRITE) is not None, "too old is too old"


@pytest.mark.parametrize("attempts", [1, 3])
@pytest.mark.parametrize("exposed_at", [None, EARLIER])
@pytest.mark.parametrize("answer", list(Answer))
def test_a_total_is_never_in_doubt(answer: Answer, exposed_at: dt.datetime | None, attempts: int) -> None:
    """Whatever such a sink answers: accepted, refused, or due again; a refused total is replaced by the next one."""
    given_ = event(attempts=attempts, exposed_at=exposed_at)
    outcome = judge(Verdict(given_.id, answer, "why"), given_, NOW, NOW, WriteModel.OVERWRITE)
    assert outcome.state in {State.ACCEPTED, State.REFUSED, State.DUE}
    if answer is Answer.DUPLICATE:
        assert outcome.state is (State.ACCEPTED if exposed_at else State.REFUSED)
    if answer is Answer.REFUSED:
        assert outcome.exposed_at == exposed_at, "it may stand at the sink for all that"


@pytest.mark.parametrize("answer", list(Answer))
def test_only_a_duplicate_of_what_was_never_tried_shows_that_the_ledger_forgot(answer: Answer) -> None:
    """It names the event; an earlier attempt, whether it may have arrived or not, explains it otherwise."""
    said = forgotten(Verdict(EventId(1), answer), event())
    assert (said is not None) == (answer is Answer.DUPLICATE)
    if said is not None:
        assert "event 1 already (api_requests of acme, window" in said
        assert "identifier agg_1" in said
    assert forgotten(Verdict(EventId(1), answer), event(exposed_at=EARLIER)) is None
    assert forgotten(Verdict(EventId(1), answer), event(attempts=2)) is None


def test_somebody_else_used_our_identifier() -> None:
    """A duplicate that we never sent is a collision: refused, loudly, and never taken for delivered (B2)."""
    outcome = judge(Verdict(EventId(1), Answer.DUPLICATE), event(), NOW, NOW)
    assert outcome.state is State.REFUSED
    assert "though we never sent it" in (outcome.reason or "")


@pytest.mark.parametrize(
    ("since", "state"),
    [
        (dt.timedelta(0), None),
        (LIMITS.memory, None),
        (LIMITS.memory + SECOND, State.IN_DOUBT),
        (dt.timedelta(days=400), State.IN_DOUBT),
    ],
)
def test_the_cliff(since: dt.timedelta, state: State | None) -> None:
    """An event exposed longer ago than the sink surely remembers is not sent again; it is in doubt (B4)."""
    stopped = before_sending(event(attempts=7, exposed_at=NOW - since), NOW, LIMITS)
    assert (stopped and stopped.state) == state
    if stopped:
        assert stopped.exposed_at == NOW - since, "what it waits for proof of stays on record"
        assert not stopped.counts
        assert stopped.reason == "no answer, and 20 h after the first attempt a resend might be booked twice"


@pytest.mark.parametrize(
    ("age", "state"),
    [(LIMITS.past, None), (LIMITS.past + SECOND, State.REFUSED), (2 * LIMITS.past, State.REFUSED)],
)
def test_too_old_to_be_sent(age: dt.timedelta, state: State | None) -> None:
    """An event that has become too old for the sink is set down by name, not sent with a younger instant (B19)."""
    stopped = before_sending(event(at=NOW - age), NOW, LIMITS)
    assert (stopped and stopped.state) == state
    if stopped:
        assert stopped.reason == "became older than the 35 days that the sink takes"
        assert stopped.exposed_at is None
        assert not stopped.counts


def test_too_old_but_perhaps_booked() -> None:
    """An event that may have arrived while it was young enough is asked for once more, or in doubt; never just refused."""
    old = NOW - 2 * LIMITS.past
    assert before_sending(event(at=old, exposed_at=EARLIER), NOW, LIMITS) is None
    stopped = before_sending(event(at=old, exposed_at=NOW - 2 * LIMITS.memory), NOW, LIMITS)
    assert stopped is not None
    assert stopped.state is State.IN_DOUBT


def test_a_night_between_request_and_lost_answer() -> None:
    """The sink's memory counts from when the attempt began, not from when a suspended machine woke to a dead line (B4)."""
    morning = NOW + 30 * HOUR
    outcome = judge(Verdict(EventId(1), Answer.UNKNOWN), event(), morning, NOW)
    assert outcome.exposed_at == NOW
    stopped = before_sending(event(attempts=2, exposed_at=outcome.exposed_at), morning, LIMITS)
    assert stopped is not None
    assert stopped.state is State.IN_DOUBT


IDENTIFIERS = [f"agg_{number}" for number in range(300)]


@settings(max_examples=60)
@given(st.integers(1, 10_000), st.text(max_size=9))
def test_backoff_is_bounded(attempts: int, identifier: str) -> None:
    """A wait lies between half and all of a doubling figure that has an upper bound, and is the same each time."""
    full = min(FIRST_WAIT_SECONDS * 2 ** min(attempts - 1, 60), LONGEST_WAIT_SECONDS)
    wait = backoff_seconds(attempts, identifier)
    assert full / 2 <= wait <= full
    assert wait == backoff_seconds(attempts, identifier)


def test_backoff_grows_and_spreads() -> None:
    """On average a wait grows with each attempt until it is at its longest, and events that fail together part."""
    waits = [[backoff_seconds(attempts, name) for name in IDENTIFIERS] for attempts in range(1, 30)]
    means = [mean(each) for each in waits]
    longest = next(number for number, each in enumerate(waits) if max(each) > LONGEST_WAIT_SECONDS / 2 * 1.9)
    assert means[: longest + 1] == sorted(means[: longest + 1])
    assert all(
        abs(each - 0.75 * LONGEST_WAIT_SECONDS) < 0.05 * LONGEST_WAIT_SECONDS for each in means[longest:]
    )
    for each in waits:
        assert len(set(each)) == len(each)
        assert max(each) - min(each) > 0.4 * max(each), "spread over half of it"


@pytest.mark.parametrize(
    ("wish", "granted"),
    [
        (None, None),
        (0.0, None),
        (-5.0, None),
        (float("nan"), None),
        (120.0, 120.0),
        (LONGEST_WISH_SECONDS, LONGEST_WISH_SECONDS),
        (1e300, LONGEST_WISH_SECONDS),
        (float("inf"), LONGEST_WISH_SECONDS),
    ],
)
@pytest.mark.parametrize("answer", [Answer.BUSY, Answer.UNKNOWN])
def test_wish_of_the_sink(answer: Answer, wish: float | None, granted: float | None) -> None:
    """A sink that says when to come again is heeded, unless we would wait longer anyway; nonsense does no harm."""
    given_ = event()
    outcome = judge(Verdict(given_.id, answer, retry_after=wish), given_, NOW, NOW)
    wait = granted if granted is not None else backoff_seconds(1, given_.identifier)
    assert outcome.due_at == NOW + wait * SECOND


# What may happen to one attempt. A sink remembers an identifier for a day at least; the worst is that it is exactly one.
HAPPENINGS = [
    "booked",
    "booked, answer lost",
    "not booked, no answer",
    "refused",
    "busy",
    "unsent",
    "booked, process dies",
    "process dies before sending",
]

SINK_REMEMBERS = dt.timedelta(hours=24)


@dataclass
class Life:
    """One event, a ledger that knows what we do of it, and a sink that books it, perhaps twice."""

    now: dt.datetime = TODAY + HOUR
    known: Event = field(default_factory=event)
    state: State = State.DUE
    due_at: dt.datetime = TODAY
    remembered_since: dt.datetime | None = None
    booked: int = 0
    sent_at: list[dt.datetime] = field(default_factory=list)

    def attempt(self, happens: str, takes: dt.timedelta) -> None:
        """Claim, send, judge, as delivery does; between the request and its answer so much time passes."""
        if self.state not in {State.DUE, State.SENDING} or self.now < self.due_at:
            return
        began, exposed_at = self.now, self.known.exposed_at
        claimed = self.known._replace(attempts=self.known.attempts + 1)
        self.known = claimed._replace(exposed_at=exposed_at or began)
        self.state = State.SENDING
        outcome = before_sending(claimed, began, LIMITS)
        if outcome is None and happens != "process dies before sending":
            answer = self._take(happens)
            self.now += takes
            if answer is not None:
                outcome = judge(Verdict(claimed.id, answer), claimed, self.now, began)
        if outcome is not None:
            self._settle(outcome)

    def _take(self, happens: str) -> Answer | None:
        """Let the request reach the sink, or not; None if nobody is left to hear the answer."""
        if not happens.startswith("booked"):
            words = {"refused": Answer.REFUSED, "busy": Answer.BUSY, "unsent": Answer.UNSENT}
            return words.get(happens, Answer.UNKNOWN)
        self.sent_at.append(self.now)
        since = self.remembered_since
        new = since is None or self.now - since >= SINK_REMEMBERS
        if new:
            self.booked, self.remembered_since = self.booked + 1, self.now
        answer = Answer.ACCEPTED if new else Answer.DUPLICATE
        return {"booked": answer, "booked, answer lost": Answer.UNKNOWN}.get(happens)

    def _settle(self, outcome: Outcome) -> None:
        self.state, self.due_at = outcome.state, outcome.due_at or self.now
        attempts = self.known.attempts - (not outcome.counts)
        self.known = self.known._replace(attempts=attempts, exposed_at=outcome.exposed_at)


@settings(max_examples=500)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(HAPPENINGS),
            st.sampled_from([0, 1, 60, 3600, 9 * 3600, 30 * 3600]).map(lambda number: number * SECOND),
            st.sampled_from([0, 10, 3600, 9 * 3600, 19 * 3600, 40 * 24 * 3600]).map(
                lambda number: number * SECOND
            ),
        ),
        max_size=12,
    )
)
def test_booked_at_most_once(happenings: list[tuple[str, dt.timedelta, dt.timedelta]]) -> None:
    """Whatever is answered, lost or asleep, in whatever order: one event is booked once at most, and we know it (B1-B4)."""
    life = Life()
    for happens, takes, nap in happenings:
        life.attempt(happens, takes)
        life.now += nap
        assert life.booked <= 1, "booked twice"
        assert life.state is not State.ACCEPTED or life.booked == 1, "accepted, and yet not booked"
        assert life.state is not State.REFUSED or life.booked == 0, "refused, and yet booked"
        if life.sent_at:
            assert life.sent_at[-1] - life.sent_at[0] <= LIMITS.memory, "sent again after the cliff"


@settings(max_examples=100)
@given(st.lists(st.sampled_from(sorted(set(HAPPENINGS) - {"refused"})), max_size=12))
def test_accepted_in_the_end(happenings: list[str]) -> None:
    """Once the sink answers again, an event that was never refused is accepted, and booked exactly once (B1, B3)."""
    life = Life()
    for happens in [*happenings, "booked"]:
        life.attempt(happens, SECOND)
        life.now += 10 * 60 * SECOND
    assert (life.state, life.booked) == (State.ACCEPTED, 1)


def test_limits_are_the_sinks() -> None:
    """Another sink has another memory and another past; ours are not written into the rules."""
    longer = replace(LIMITS, memory=dt.timedelta(days=34), past=dt.timedelta(days=34))
    assert before_sending(event(exposed_at=NOW - 30 * HOUR), NOW, longer) is None
    assert before_sending(event(at=NOW - dt.timedelta(days=34, hours=1)), NOW, longer) is not None
