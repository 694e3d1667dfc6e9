"""Facts about how a source behaves: with many rows, with what takes too long, with what it must refuse. Pure."""

import datetime as dt
from collections.abc import Sequence

from aggregator.errors import QueryRejected, QueryTimedOut, Rejected, SourceUnreachable
from aggregator.source.contract.fact import (
    DAY,
    Conclusion,
    Doing,
    Got,
    Question,
    Verdict,
    refused,
    seconds_of,
    words_of,
)
from aggregator.source.contract.wording import Wording

TIMEOUT = dt.timedelta(seconds=1)
"""How long a statement may take that is to be stopped."""

STOPPED_WITHIN = dt.timedelta(seconds=2)
"""How much later it may end, on a busy machine; and how long it may take to give a read up."""

MANY = 100_000
"""How many rows are read to the end: twenty batches."""

BREAKS_AT = MANY - 1
"""The row that fails: the last one, whichever of its digits a database counts up first."""

VERY_MANY = 1_000_000
"""How many rows are begun and given up: none of a driver's habits takes longer than a minute over these."""

WHOLE_RESULT = 64 << 20
"""A driver that grows by more than this for the first rows of very many holds all of them."""

UNDER_WAY = dt.timedelta(seconds=1)
"""After how long a statement surely is under way."""

LEFT_RUNNING = dt.timedelta(seconds=4)
"""Its timeout, where nothing else stops it."""

LONGEST_SUM = 11
"""The sum that must be stopped goes over 10 ** this many numbers at most; it grows until it takes long enough."""


def digits(words: Wording) -> str:
    """Return a common table of the numbers from 0 to 9."""
    return f"with d as ({' union all '.join(f'select {n} as n{words.nothing}' for n in range(10))}) "


def numbered(size: int) -> str:
    """Return rows numbered from 0 on: as many as the power of ten `size`."""
    places = "abcdefghijk"[: len(str(size)) - 1]
    number = " + ".join(f"{10**power} * {place}.n" for power, place in enumerate(places))
    tables = ", ".join(f"d {place}" for place in places)
    return f"(select {number} as id from {tables}) t"


def many(words: Wording) -> list[Question]:
    """Ask for more rows than fit one batch."""
    return [Question(f"{digits(words)}select 'cus' as customer, id as quantity from {numbered(MANY)}", DAY)]


def each_once(_: Wording, got: Sequence[Got]) -> Conclusion:
    """As many as there are, and their sum."""
    if aloud := refused(got):
        return aloud
    count, total = len(got[0].readings), sum(each.quantity or 0 for each in got[0].readings)
    if (count, total) != (MANY, MANY * (MANY - 1) // 2):
        return Conclusion(Verdict.WRONG, f"{count:,} of {MANY:,} rows arrive, with the sum {total:,}")
    return Conclusion(Verdict.PROVEN, f"{MANY:,} rows, each once")


def breaking(words: Wording) -> list[Question]:
    """Ask for rows of which one fails."""
    if words.broken is None:
        return []
    failing = words.broken.format(BREAKS_AT)
    text = f"{digits(words)}select 'cus' as customer, {failing} as quantity from {numbered(MANY)}"
    return [Question(text, DAY)]


def broken_off(_: Wording, got: Sequence[Got]) -> Conclusion:
    """It ends in an error, and never as if it were whole."""
    [one] = got
    count = len(one.readings)
    if one.error is not None:
        return Conclusion(Verdict.PROVEN, f"an error after {count:,} rows: {words_of(one.error)}")
    if count < MANY:
        return Conclusion(Verdict.WRONG, f"{count:,} of {MANY:,} rows arrive, as if they were all")
    return Conclusion(Verdict.NOT_PROVEN, "nothing here breaks a result off", "nothing")


def endless(words: Wording) -> list[Question]:
    """Ask for rows by the million, of which only the first are taken."""
    text = f"{digits(words)}select 'cus' as customer, id as quantity from {numbered(VERY_MANY)}"
    return [
        Question(text, DAY, Doing.GIVE_UP),
        Question(f"select 'cus' as customer, 1 as quantity{words.nothing}", DAY),
    ]


def let_go(_: Wording, got: Sequence[Got]) -> Conclusion:
    """It ends soon, and the next question is answered."""
    if aloud := refused(got):
        return aloud
    if got[0].took > STOPPED_WITHIN:
        return Conclusion(
            Verdict.NOT_PROVEN, f"it took {seconds_of(got[0].took)} to give up a read of {VERY_MANY:,} rows"
        )
    return Conclusion(
        Verdict.PROVEN, f"given up within {seconds_of(got[0].took)}; the next question is answered"
    )


def in_batches(_: Wording, got: Sequence[Got]) -> Conclusion:
    """The process does not grow with the result."""
    if got[0].error is not None or got[0].grew is None:
        return Conclusion(
            Verdict.NOT_PROVEN, words_of(got[0].error) if got[0].error else "this system does not tell"
        )
    grew = f"{max(0, got[0].grew) >> 20} MiB for the first of {VERY_MANY:,} rows"
    if got[0].grew > WHOLE_RESULT:
        return Conclusion(Verdict.NOT_PROVEN, f"the driver holds the whole result: {grew}")
    return Conclusion(Verdict.PROVEN, grew)


def endless_only(words: Wording) -> list[Question]:
    """Ask the same, to look at the memory."""
    return endless(words)[:1]


def sums(words: Wording) -> list[Question]:
    """Ask for sums that take ten times as long each, to be stopped at the first that takes too long."""
    questions = []
    for power in range(5, LONGEST_SUM + 1):
        places = "abcdefghijk"[:power]
        summed = " + ".join(f"{place}.n * {places[0]}.n" for place in places)
        tables = ", ".join(f"d {place}" for place in places)
        text = f"select 'cus' as customer, sum(cast({summed} as {words.bigint})) as quantity from {tables}"
        questions.append(Question(digits(words) + text, DAY, Doing.STOP))
    return questions


def stopped(_: Wording, got: Sequence[Got]) -> Conclusion:
    """The first that takes longer than it may ends soon after, by an error of its own."""
    late = TIMEOUT + STOPPED_WITHIN
    asked = f"{TIMEOUT.total_seconds():g} s asked, {seconds_of(got[-1].took)} taken"
    match got[-1].error:
        case QueryTimedOut():
            return Conclusion(Verdict.PROVEN if got[-1].took <= late else Verdict.NOT_PROVEN, asked)
        case None if got[-1].took > late:
            return Conclusion(Verdict.WRONG, f"{asked}, and no error")
        case None:
            return Conclusion(Verdict.NOT_PROVEN, "nothing took long enough to be stopped")
        case error:
            return Conclusion(Verdict.NOT_PROVEN, f"{asked}: {words_of(error)}")


def longest(words: Wording) -> list[Question]:
    """Ask for the longest sum of all, to be ended from elsewhere."""
    return [sums(words)[-1]._replace(doing=Doing.CLOSE)]


def ended(_: Wording, got: Sequence[Got]) -> Conclusion:
    """It ends once nobody waits for it any more, and not at its timeout only."""
    [one] = got
    if one.error is None:
        return Conclusion(Verdict.NOT_PROVEN, "it came to its end before it could be stopped")
    if isinstance(one.error, QueryRejected):
        return Conclusion(Verdict.NOT_PROVEN, words_of(one.error))
    if one.took > STOPPED_WITHIN:
        return Conclusion(Verdict.NOT_PROVEN, f"it ran on for {seconds_of(one.took)}, until its timeout")
    return Conclusion(Verdict.PROVEN, f"stopped within {seconds_of(one.took)}")


def mistaken(words: Wording) -> list[Question]:
    """Ask for a column that there is not."""
    return [
        Question(
            f"select no_such_column as customer, n as quantity from (select 1 as n{words.nothing}) t", DAY
        )
    ]


def named_as_such(_: Wording, got: Sequence[Got]) -> Conclusion:
    """A mistake is no trouble that passes by itself, and has its name in the message."""
    match got[0].error:
        case QueryRejected() as error if "no_such_column" in str(error).lower():
            return Conclusion(Verdict.PROVEN, words_of(error))
        case None:
            return Conclusion(Verdict.WRONG, "a column that there is not is taken for one")
        case SourceUnreachable() as error:
            return Conclusion(
                Verdict.NOT_PROVEN, f"taken for trouble that passes by itself: {words_of(error)}"
            )
        case error:
            return Conclusion(Verdict.NOT_PROVEN, f"the message does not name the column: {words_of(error)}")


def two(words: Wording) -> list[Question]:
    """Ask two selects at once."""
    one = f"select 'cus' as customer, 1 as quantity{words.nothing}"
    return [Question(f"{one}; {one}", DAY)]


def refused_as_two(_: Wording, got: Sequence[Got]) -> Conclusion:
    """Both are refused."""
    match got[0].error:
        case None | QueryRejected(rejected=Rejected.AFTER_IT_RAN):
            return Conclusion(Verdict.WRONG, "two statements in one text are run")
        case error:
            return Conclusion(Verdict.PROVEN, words_of(error))


def writing(words: Wording) -> list[Question]:
    """Ask for what is a write, and does no harm if it is let through."""
    return [Question(words.write, DAY)]


def kept_from_writing(words: Wording, got: Sequence[Got]) -> Conclusion:
    """It is refused for what it is, before it is looked at."""
    match got[0].error:
        case None | QueryRejected(rejected=Rejected.AFTER_IT_RAN):
            return Conclusion(Verdict.WRONG, f"`{words.write}` was run")
        case QueryRejected(rejected=Rejected.AS_A_WRITE) as error:
            return Conclusion(Verdict.PROVEN, words_of(error))
        case error:
            return Conclusion(Verdict.NOT_PROVEN, f"refused, maybe for another reason: {words_of(error)}")
