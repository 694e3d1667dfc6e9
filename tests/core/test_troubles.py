"""When people are told what: once it has lasted, all at once, not too often, and again when it is over."""

import datetime as dt

import pytest

from aggregator.core.troubles import LONGEST_TEXT, MOST_NAMED, Announcer, Message, Trouble

NOW = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)
MINUTE = dt.timedelta(minutes=1)
HALTED = Trouble("sink stripe", "Sink stripe refuses every call.", "aggregator status")
AWAY = Trouble("source app", "Source app cannot be reached.", "aggregator check")


class Day:
    """A day on which people are told what the announcer says, if that can be sent."""

    def __init__(self, again: dt.timedelta = dt.timedelta(days=1)) -> None:
        self.announcer = Announcer(5 * MINUTE, again)
        self.reaches = True

    def at(self, minutes: float, *found: Trouble) -> Message | None:
        """Look at a minute, and tell."""
        now = NOW + minutes * MINUTE
        message = self.announcer.next_message(found, now)
        if message is not None:
            if self.reaches:
                self.announcer.note_sent(message, now)
            else:
                self.announcer.failed(now)
        return message


@pytest.fixture
def day() -> Day:
    return Day()


def test_what_passes_by_itself_wakes_nobody(day: Day) -> None:
    """Neither that it began is told, nor that it is over; and if it comes again, it has to last anew."""
    assert [day.at(0, HALTED), day.at(4, HALTED), day.at(5), day.at(6, HALTED), day.at(10, HALTED)] == [
        None
    ] * 5
    assert day.at(11, HALTED) == Message((HALTED,), (), ())


def test_what_lasts_is_told_once(day: Day) -> None:
    """And that it is over, once; then it is forgotten."""
    day.at(0, HALTED)
    assert day.at(5, HALTED) == Message((HALTED,), (), ())
    assert [day.at(minute, HALTED) for minute in (6, 20, 60)] == [None] * 3
    assert day.at(70) == Message((), (HALTED,), ())
    assert [day.at(80), day.at(90)] == [None] * 2


def test_what_comes_together_is_one_message(day: Day) -> None:
    """What comes soon after is in the next one, with what is over by then: never two within the least time."""
    day.at(0, HALTED)
    day.at(1, HALTED, AWAY)
    assert day.at(6, HALTED, AWAY) == Message((HALTED, AWAY), (), ())
    other = HALTED._replace(key="sink other")
    day.at(6.5, AWAY, other)
    assert [day.at(minute, AWAY, other) for minute in (7, 10.9)] == [None] * 2
    assert day.at(11.5, AWAY, other) == Message((other,), (HALTED,), ())


def test_what_comes_and_goes_is_not_told_each_time(day: Day) -> None:
    """At most one message per least time, whatever happens in between."""
    day.at(0, HALTED)
    told = [day.at(minute / 2, *([HALTED] if minute % 3 else [])) for minute in range(10, 130)]
    assert sum(message is not None for message in told) <= 60 / 5


def test_people_are_reminded(day: Day) -> None:
    """Each day, of what still lasts; and never, if that is off."""
    day.at(0, HALTED)
    day.at(5, HALTED)
    assert day.at(24 * 60, HALTED) is None
    assert day.at(24 * 60 + 5, HALTED) == Message((), (), (HALTED,))
    assert day.at(24 * 60 + 10, HALTED) is None
    off = Day(dt.timedelta(0))
    off.at(0, HALTED)
    off.at(5, HALTED)
    assert off.at(100 * 24 * 60, HALTED) is None


def test_what_could_not_be_sent_is_told_again(day: Day) -> None:
    """After the least time; and what was never told is not over."""
    day.reaches = False
    day.at(0, HALTED)
    assert day.at(5, HALTED) == Message((HALTED,), (), ())
    assert day.at(6, HALTED) is None
    assert day.at(10, HALTED) == Message((HALTED,), (), ())
    day.reaches = True
    assert day.at(16) is None


def test_a_message_names_each_with_its_command() -> None:
    """New ones, what lasts, and what is over."""
    message = Message((HALTED,), (AWAY,), ())
    assert message.title == "aggregator: 1 new problem, 1 over"
    assert message.body == (
        "Sink stripe refuses every call.\n  run: aggregator status\nOver: Source app cannot be reached."
    )


def test_a_message_is_short() -> None:
    """However many troubles there are, and however long their words."""
    many = tuple(Trouble(str(n), "x" * 5_000, "aggregator status") for n in range(500))
    body = Message(many, many, many).body
    assert len(body) < 3 * (MOST_NAMED + 1) * (LONGEST_TEXT + 50)
    assert "and 490 more: aggregator status" in body
