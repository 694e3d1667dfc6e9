"""The table of facts: what a source must keep so that usage read from it is right. Pure.

Rules
- A fact is asked by plain selects that touch no table and make nothing; what must not be done is tried on what is not there.
- `wrong` is only what was seen to be wrong. What could not be asked, or is refused aloud, is `not proven`.
- Each kind of database is asked the same; `wording` says how.
"""

from aggregator.source.contract import behaviour, times, values
from aggregator.source.contract.fact import Fact

ROLE = "a role that may only read"
SUM_UP = "sum up in the query, so that it returns fewer rows"

FACTS: tuple[Fact, ...] = (
    Fact("bounds", "`:start` and `:end` arrive as the instants meant", times.zoned, times.within),
    Fact(
        "bounds without a zone",
        "they do for timestamps without a zone that hold UTC",
        times.unzoned,
        times.within,
    ),
    Fact("microseconds", "they arrive with their microseconds", times.finest, times.to_microseconds),
    Fact("zone", "the session is in UTC", times.zone, times.in_utc),
    Fact("clock changes", "borders hold where an hour is repeated or left out", times.changes, times.within),
    Fact("half hours", "borders hold where zones are not at full hours", times.halves, times.within),
    Fact(
        "instants",
        "`at` comes back as the instant it was",
        times.instants,
        times.come_back,
        "`timezone: UTC` on the source",
    ),
    Fact(
        "hours",
        "`window` comes back as the hour it was",
        times.hours,
        times.in_their_hours,
        "the hour as this database says it, in UTC",
    ),
    Fact(
        "usual shape",
        "`max(...) as at` beside bounds is what it says",
        times.usual,
        times.as_written,
        "what the message says",
    ),
    Fact(
        "decimals",
        "38 digits arrive exactly",
        values.decimals,
        values.to_the_last_digit,
        "integers of the smallest unit",
    ),
    Fact(
        "integers",
        "a sum beyond 64 bits does not wrap",
        values.integers,
        values.not_around,
        "`sum(cast(... as decimal(38, 0)))`",
    ),
    Fact(
        "wide sums",
        "a sum beyond 38 digits is not cut off",
        values.wide,
        values.not_cut,
        "a type with fewer decimal places",
    ),
    Fact(
        "nothing",
        "NULL, empty and no rows stay what they are",
        values.absent,
        values.unmapped,
        "`nullif(key, 0)`, `nullif(key, '')`",
    ),
    Fact(
        "keys",
        "keys arrive as they are, and apart",
        values.keys,
        values.apart,
        "`group by` a binary form of the key",
    ),
    Fact(
        "padded keys",
        "a key of a CHAR column has no blanks behind it",
        values.padded,
        values.trimmed,
        "`trim(key)`",
    ),
    Fact("many rows", "each row arrives once", behaviour.many, behaviour.each_once, SUM_UP),
    Fact(
        "broken off",
        "a result that breaks off is an error",
        behaviour.breaking,
        behaviour.broken_off,
        SUM_UP,
    ),
    Fact("given up", "a read that is given up ends", behaviour.endless, behaviour.let_go, SUM_UP),
    Fact("memory", "rows stream", behaviour.endless_only, behaviour.in_batches, SUM_UP),
    Fact(
        "timeout",
        "`statement_timeout` holds",
        behaviour.sums,
        behaviour.stopped,
        "a limit for the role, in the database",
    ),
    Fact(
        "cancel",
        "a statement ends when aggregator stops",
        behaviour.longest,
        behaviour.ended,
        "a short `statement_timeout`: that is how long it may go on",
    ),
    Fact(
        "mistakes",
        "a mistake is told from trouble that passes",
        behaviour.mistaken,
        behaviour.named_as_such,
        "look at `check` after a change",
    ),
    Fact("one statement", "several statements are refused", behaviour.two, behaviour.refused_as_two, ROLE),
    Fact("only reads", "what writes is refused", behaviour.writing, behaviour.kept_from_writing, ROLE),
)
"""In the order in which they matter."""
