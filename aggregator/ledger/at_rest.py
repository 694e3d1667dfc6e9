"""How an event goes from the outbox to where it rests, and back: statements that others are made of.

While an event is to be sent or being sent, `aggregator.outbox` has all of it; before and after, `aggregator.event_at_rest`.
The view `aggregator.event` shows both. Whoever takes an event from one table puts it into the other in the same statement;
the ledger's triggers refuse everything else, and every step that is not in `core.states`.

At rest, a column that says what it says of nearly all events is null, and takes no room.
"""

RESTING = (
    "id, slot_id, pass_id, window_start, at, planned_at, exposed_at, attempted_at, settled_at, combination, feed_id,"
    " revision, attempts, state, customer, identifier, delta, total, quantity, transport, request_id, reason"
)
OWED = (
    "event_id, slot_id, pass_id, window_start, at, planned_at, due_at, exposed_at, attempted_at, combination, sink_id,"
    " feed_id, revision, attempts, customer, identifier, delta, total, quantity, transport, request_id, reason"
)


def to_rest(
    of: str,
    *,
    state: str,
    reason: str,
    settled_at: str,
    number: str = "event_id",
    exposed_at: str = "",
    attempted_at: str = "",
    attempts: str = "",
    request_id: str = "",
) -> str:
    """Return what puts the rows of `of`, which has the columns of the outbox, to rest; what it reads from comes behind.

    What is named is SQL; what is left out stays as it is. `number` is the column with the number of the event.
    """
    exposed_at = exposed_at or f"{of}.exposed_at"
    attempted_at = attempted_at or f"{of}.attempted_at"
    attempts = attempts or f"{of}.attempts"
    request_id = request_id or f"{of}.request_id"
    return f"""
    insert into aggregator.event_at_rest ({RESTING})
    select {of}.{number}, case when {of}.revision > 0 then {of}.slot_id end, {of}.pass_id, {of}.window_start, {of}.at,
           {of}.planned_at, {exposed_at}, nullif({attempted_at}, {exposed_at}), {settled_at}, nullif({of}.combination, 0),
           {of}.feed_id, nullif({of}.revision, 0), nullif({attempts}, 1), {state}, {of}.customer, {of}.identifier,
           {of}.delta, {stands_at(of)}, {of}.quantity, {of}.transport, {request_id}, {reason}
    """


def stands_at(of: str) -> str:
    """Return what the total of an event is at rest: null where it is the delta, digit by digit."""
    return f"case when {of}.total <> {of}.delta or scale({of}.total) <> scale({of}.delta) then {of}.total end"


def to_outbox(of: str, *, sink: str, due_at: str, reason: str, exposed_at: str = "") -> str:
    """Return what puts the rows of `of`, which has the columns of events at rest, into the outbox; see `to_rest`."""
    return f"""
    insert into aggregator.outbox ({OWED})
    select {of}.id, coalesce({of}.slot_id, {of}.id), {of}.pass_id, {of}.window_start, {of}.at, {of}.planned_at, {due_at},
           {exposed_at or f"{of}.exposed_at"}, coalesce({of}.attempted_at, {of}.exposed_at), coalesce({of}.combination, 0),
           {sink}, {of}.feed_id, coalesce({of}.revision, 0), coalesce({of}.attempts, 1), {of}.customer, {of}.identifier,
           {of}.delta, coalesce({of}.total, {of}.delta), {of}.quantity, {of}.transport, {of}.request_id, {reason}
    """
