"""Facts about times: what bounds take, what comes back as `at` and `window`, and in which zone the session is. Pure."""

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

from aggregator.core.model import Span
from aggregator.source.contract.fact import DAY, Conclusion, Got, Question, Verdict, refused, words_of
from aggregator.source.contract.wording import Wording, at

HOUR = dt.timedelta(hours=1)


def spans(*pairs: tuple[str, str]) -> tuple[Span, ...]:
    """Return spans by their borders in UTC."""
    return tuple(Span(at(start), at(end)) for start, end in pairs)


ORDINARY = spans(
    ("2026-01-15 12:00", "2026-01-15 13:00"),
    ("2026-07-15 12:00", "2026-07-15 13:00"),
    ("2026-01-15 00:00", "2026-07-15 00:00"),  # where winter and summer differ, its length is another one
)

CLOCK_CHANGES = spans(
    ("2026-11-01 05:00", "2026-11-01 06:00"),  # New York's repeated hour, for the first time
    ("2026-11-01 06:00", "2026-11-01 07:00"),  # and for the second
    ("2026-03-08 02:00", "2026-03-08 03:00"),  # as text, the hour that New York leaves out
    ("2026-03-08 06:00", "2026-03-08 07:00"),
    ("2026-10-25 00:00", "2026-10-25 01:00"),  # Paris
    ("2026-10-25 01:00", "2026-10-25 02:00"),
    ("2026-03-29 01:00", "2026-03-29 02:00"),  # London leaves it out
)

HALF_HOURS = spans(
    ("2026-06-01 18:15", "2026-06-01 18:30"),  # midnight in Kathmandu
    ("2026-04-04 14:30", "2026-04-04 15:00"),  # Lord Howe repeats half an hour
    ("2026-04-04 15:00", "2026-04-04 15:30"),
)

INSIDE = frozenset("bcd")
"""Which of the six rows around the borders of a span lie in it."""


def around(span: Span, least: dt.timedelta) -> dict[str, dt.datetime]:
    """Return six instants: at each border the last before it, the border itself, and the first after it."""
    start, end = span
    return dict(
        zip("abcdef", (start - least, start, start + least, end - least, end, end + least), strict=True)
    )


def borders(
    words: Wording, said: Callable[[dt.datetime], str | None], asked: Iterable[Span]
) -> list[Question]:
    """Return the question which of six rows a span takes, for each span."""
    questions = []
    for span in asked:
        rows = [
            f"select '{label}' as label, {said(moment)} as moment{words.nothing}"
            for label, moment in around(span, words.least).items()
        ]
        if said(span.start) is not None:
            text = f"select label as customer, 1 as quantity from ({' union all '.join(rows)}) t"
            questions.append(Question(f"{text} where moment >= :start and moment < :end", span))
    return questions


def spelling(words: Wording) -> Question:
    """Ask whether a database understands how an instant is said here."""
    moment = words.at(DAY.start)
    text = f"select 'cus' as customer, 1 as quantity from (select {moment} as moment{words.nothing}) t"
    return Question(f"{text} where moment is not null", DAY)


def zoned(words: Wording) -> list[Question]:
    """Return the borders of ordinary days, of instants."""
    return borders(words, words.at, ORDINARY)


def unzoned(words: Wording) -> list[Question]:
    """Return the same of timestamps without a zone that hold UTC."""
    return borders(words, words.unzoned, ORDINARY)


def changes(words: Wording) -> list[Question]:
    """Return the borders of hours at which clocks change somewhere, of both kinds."""
    return [*borders(words, words.at, CLOCK_CHANGES), *borders(words, words.unzoned, CLOCK_CHANGES)]


def halves(words: Wording) -> list[Question]:
    """Return borders at no full hour of some zones, of both kinds."""
    return [*borders(words, words.at, HALF_HOURS), *borders(words, words.unzoned, HALF_HOURS)]


def within(_: Wording, got: Sequence[Got]) -> Conclusion:
    """Rows on a start are in, rows on an end are out; a comparison that is refused takes no wrong row."""
    for one in got:
        if one.error is None and {each.customer for each in one.readings} != INSIDE:
            listed = ", ".join(sorted(each.customer or "?" for each in one.readings)) or "none"
            return Conclusion(
                Verdict.WRONG,
                f"of rows before, at and after the borders (a to f) it takes {listed}, and should take b, c, d",
            )
    return refused(got) or Conclusion(
        Verdict.PROVEN, f"{len(got)} spans, to the shortest time it tells apart"
    )


def finest(words: Wording) -> list[Question]:
    """Return borders that are no whole seconds."""
    start = at("2026-06-01 12:00:00.123456")
    said = words.at if words.instant else words.unzoned
    return borders(words, said, [Span(start, start + dt.timedelta(seconds=2))])


def to_microseconds(words: Wording, got: Sequence[Got]) -> Conclusion:
    """Bounds in whole seconds are enough for windows, which are whole minutes."""
    found = within(words, got)
    if found.verdict is not Verdict.WRONG:
        return found
    return Conclusion(
        Verdict.NOT_PROVEN,
        "bounds arrive rounded; windows begin at whole minutes",
        "nothing: this does no harm",
    )


def zone(words: Wording) -> list[Question]:
    """Ask whether a timestamp without a zone is one in UTC, and what the session's zone is called."""
    # Not at a full second, which a database that compares texts may write in two ways.
    winter, summer = (span.start + words.least for span in ORDINARY[:2])
    same = " and ".join(f"{words.unzoned(each)} = {words.at(each)}" for each in (winter, summer))
    asked = [
        f"select case when {same} then 'UTC' else 'another' end as customer, 1 as quantity{words.nothing}"
    ]
    if words.zone is not None:
        asked.append(f"select {words.zone} as customer, 1 as quantity{words.nothing}")
    return [Question(text, DAY) for text in asked] if words.instant else []


def in_utc(_: Wording, got: Sequence[Got]) -> Conclusion:
    """Judge by what timestamps mean, and say what the zone is called."""
    named = got[1].readings[0].customer if len(got) > 1 and got[1].readings else None
    called = f", the session's zone is called {named}" if named else ""
    if got[0].error is not None:
        return Conclusion(Verdict.NOT_PROVEN, f"{words_of(got[0].error)}{called}")
    if got[0].readings[0].customer == "UTC":
        return Conclusion(Verdict.PROVEN, f"a timestamp without a zone is UTC{called}")
    return Conclusion(Verdict.WRONG, f"a timestamp without a zone is not UTC{called}")


SPREAD = tuple(
    at(f"2026-11-01 {each}")
    for each in ("04:59:59.999999", "05:00", "05:30", "06:30", "06:59:59.999999", "07:00")
)

NIGHT = Span(at("2026-11-01 04:00"), at("2026-11-01 08:00"))


def _listed(words: Wording, moments: Iterable[dt.datetime]) -> str | None:
    rows = [
        f"select 'row {number}' as label, {words.at(moment)} as moment{words.nothing}"
        for number, moment in enumerate(moments)
    ]
    return None if words.instant is None else f"({' union all '.join(rows)}) t"


def instants(words: Wording) -> list[Question]:
    """Ask for instants back, in the night in which New York has an hour twice."""
    text = f"select label as customer, 1 as quantity, moment as {words.column('at')} from {_listed(words, SPREAD)}"
    return [Question(text, NIGHT)] if words.instant else []


def come_back(words: Wording, got: Sequence[Got]) -> Conclusion:
    """Each instant is the one that was made."""
    if got[0].error is not None:
        return Conclusion(Verdict.NOT_PROVEN, words_of(got[0].error))
    arrived = {each.customer: each.at for each in got[0].readings}
    for number, moment in enumerate(SPREAD):
        found = arrived.get(f"row {number}")
        if found is None or abs(found - moment) >= max(words.least, dt.timedelta(microseconds=1)):
            return Conclusion(
                Verdict.WRONG, f"{moment:%H:%M:%S.%f} arrives as {found and f'{found:%H:%M:%S.%f}'}"
            )
    return Conclusion(Verdict.PROVEN, "with their microseconds, also in an hour that is repeated")


def hours(words: Wording) -> list[Question]:
    """Ask for the hour of each instant, as a query that returns `window` does."""
    if words.hour is None or words.instant is None:
        return []
    text = (
        f"select label as customer, 1 as quantity, {words.hour.format('moment')} as {words.column('window')}"
    )
    return [Question(f"{text} from {_listed(words, SPREAD)}", NIGHT, window=HOUR)]


def in_their_hours(_: Wording, got: Sequence[Got]) -> Conclusion:
    """No two hours become one."""
    if got[0].error is not None:
        return Conclusion(Verdict.NOT_PROVEN, words_of(got[0].error))
    arrived = {each.customer: each.window_start for each in got[0].readings}
    for number, moment in enumerate(SPREAD):
        found, meant = arrived.get(f"row {number}"), moment.replace(minute=0, second=0, microsecond=0)
        if found != meant:
            return Conclusion(
                Verdict.WRONG, f"{moment:%H:%M:%S} is put in the hour {found and f'{found:%H:%M}'}"
            )
    return Conclusion(Verdict.PROVEN, "also where New York has one twice")


def usual(words: Wording) -> list[Question]:
    """Ask in the shape that the docs show: a sum, and the last instant as `at`."""
    columns = f"'cus' as customer, count(*) as quantity, max(moment) as {words.column('at')}"
    text = f"select {columns} from {_listed(words, SPREAD)} where moment >= :start and moment < :end"
    return [Question(text, spans(("2026-11-01 05:00", "2026-11-01 07:00"))[0])] if words.instant else []


def as_written(_: Wording, got: Sequence[Got]) -> Conclusion:
    """Four of the rows, and the last of them."""
    if aloud := refused(got):
        return aloud
    found = [(each.quantity, each.at) for each in got[0].readings]
    if found != [(Decimal(4), SPREAD[4])]:
        return Conclusion(Verdict.WRONG, f"4 rows up to {SPREAD[4]:%H:%M:%S.%f} arrive as {_shown(found)}")
    return Conclusion(Verdict.PROVEN, "as it is written in the docs")


def _shown(found: Sequence[tuple[Decimal | None, dt.datetime | None]]) -> str:
    return ", ".join(f"{count} up to {last and f'{last:%H:%M:%S.%f}'}" for count, last in found) or "none"
