"""Any other database that SQLAlchemy knows: read as it comes, but not before it has shown what its bounds mean.

Rules
- Each transaction begins by asking the bounds back: rows around `:start` and `:end`, whose instants the database makes of
  seconds since 1970, must be in and out as they should. So a session that is not in UTC, and a driver that drops a zone, are
  refused before they bill. Timestamps without a zone are asked, too; a database that refuses to compare them may.
- The session is set to UTC where it is known how. That is tried and not relied on: what counts is what it shows.
"""

import datetime as dt
from collections.abc import Callable
from typing import Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from aggregator.source.contract.times import INSIDE, ORDINARY, borders
from aggregator.source.contract.wording import Wording, wordings
from aggregator.source.dialects import UNPROVEN_BOUNDS, Dialect, Fault, Reading, Renew, Unproven, not_idle

ASKED = ORDINARY[-1]
"""From winter to summer: no zone but UTC and its like has the same time as UTC in both."""

LONGEST = 400
"""An error's words run over several lines; what names the column is rarely on the first."""

EXTRAS = {
    "databricks": "databricks",
    "firebird": "firebird",
    "snowflake": "snowflake",
    "bigquery": "bigquery",
    "trino": "trino",
    "redshift": "redshift",
    "mssql": "sqlserver",
    "oracle": "oracle",
    "cockroachdb": "cockroachdb",
}
"""The extra of ours that brings a driver, by the name of SQLAlchemy's dialect."""

Form = Callable[[dt.datetime], object]

FORMS: tuple[Form, ...] = (
    lambda instant: instant,
    lambda instant: instant.astimezone(dt.UTC).replace(tzinfo=None),
    lambda instant: f"{instant.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S}",
)
"""As what a bound may be handed to a driver, the first that arrives as the instant meant: with its zone, without it in UTC,
as text."""


class Found(NamedTuple):
    """How a database says an instant, the form of a bound that arrives as one, and the question that shows it."""

    words: Wording
    form: Form
    question: str
    rows: int


class Careful:
    """Begins transactions of one source, and remembers what it found out about it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._found: Found | None = None

    def bound(self, instant: dt.datetime) -> object:
        """Return an instant in the form that arrives as such."""
        return (FORMS[0] if self._found is None else self._found.form)(instant)

    def begin(self, connection: sa.Connection, reading: Reading) -> Renew:
        """Ask the bounds back. Raises Unproven if they are not what was meant."""
        if self._found is None:
            found = self._find(connection)
            if isinstance(found, Found):
                self._found = found
            elif UNPROVEN_BOUNDS not in reading.accepts:
                raise Unproven(found)
            return not_idle
        _to_utc(connection, self._found.words)
        taken = _taken(connection, self._found.question, self._found.form)
        if len(taken) != self._found.rows or set(taken) != INSIDE:
            reason = "it did, and does not any more: of rows around its borders, a span takes others than it should"
            if UNPROVEN_BOUNDS not in reading.accepts:
                raise Unproven(_refusal(reason, self._found.words))
        return not_idle

    def _find(self, connection: sa.Connection) -> Found | str:
        """Return what shows the bounds, or a sentence on why nothing does."""
        connection.execute(sa.select(sa.literal(1))).all()  # what fails here is the database's own trouble
        known = wordings(self._name)
        for words in known:
            _to_utc(connection, words)
            questions = [
                question.text
                for said in (words.at, words.unzoned)
                for question in borders(words, said, [ASKED])
            ]
            answers = [[_judged(connection, question, form) for question in questions] for form in FORMS]
            for form, answer in zip(FORMS, answers, strict=True):
                if answer == ["right", "right"]:
                    return Found(words, form, " union all ".join(questions), 2 * len(INSIDE))
                if answer == ["right", "refused"]:
                    return Found(words, form, questions[0], len(INSIDE))
            # Instants that are understood and come out wrong say what bounds mean; another spelling would only hide it.
            if any(instants != "refused" for instants, _ in answers):
                return _refusal("of rows around its borders, a span takes others than it should", words)
        return _refusal("no way known here makes an instant of seconds since 1970", known[0])


Answer = Literal["right", "wrong", "refused"]


def _judged(connection: sa.Connection, question: str, form: Form) -> Answer:
    """Ask which rows a span takes. Aloud is not wrong: a comparison that is refused takes no row into another window."""
    try:
        taken = _taken(connection, question, form)
    except Exception:  # noqa: BLE001 - drivers raise what they like; this one does not understand the question
        connection.rollback()
        return "refused"
    return "right" if sorted(taken) == sorted(INSIDE) else "wrong"


def _taken(connection: sa.Connection, question: str, form: Form) -> list[str]:
    values = {"start": form(ASKED.start), "end": form(ASKED.end)}
    return [str(label) for label, _ in connection.execute(sa.text(question), values).all()]


def _to_utc(connection: sa.Connection, words: Wording) -> None:
    """Set the session to UTC if there are words for it; whether they had an effect, the bounds show."""
    for statement in words.utc:
        try:
            connection.exec_driver_sql(statement)
        except Exception:  # noqa: BLE001 - as above
            connection.rollback()


def _refusal(reason: str, words: Wording) -> str:
    return (
        f"it does not show that `:start` arrives as the instant meant ({reason}), so usage could land in other hours: "
        f"{words.advice}; or, if each query converts its bounds itself, `accepts: [{UNPROVEN_BOUNDS}]` on the source "
        "(docs/engines.md)"
    )


def other(name: str) -> Dialect:
    """Return what is known of a kind of database that we do not know; of each source anew, as it is found out."""
    careful = Careful(name)
    return Dialect(
        name=name,
        engine=_engine,
        extra=EXTRAS.get(name),
        begin=careful.begin,
        bound=careful.bound,
        fault=_unknown_fault,
        said=_all_lines,
        naive_is_utc=False,
        from_number="a conversion to a timestamp with time zone",
        kind=lambda code: code.lower() if isinstance(code, str) else None,
        snapshot=False,
        cannot_promise=(
            f"{name}: the queries of one span may see different states; what takes several is refused, so return `window`.",
            f"{name}: no statement timeout is set; set one for the role.",
            f"{name}: nothing but the role's privileges keeps a query from writing.",
            f"{name}: the driver may hold a whole result in memory.",
            f"{name}: a mistake in a query may be taken for trouble that passes by itself.",
            f"{name}: `aggregator check --prove-source` shows what holds of all else.",
        ),
    )


def _engine(url: sa.URL, _: str) -> sa.Engine:
    engine = sa.create_engine(by_server(url), poolclass=sa.NullPool, hide_parameters=True)
    if engine.dialect.is_async:
        raise ArgumentError(
            f"{engine.dialect.driver} is made for asyncio; name another one, as in kind+driver://"
        )
    return engine


def by_server(url: sa.URL) -> sa.URL:
    """Name the server along with the path, where a driver knows a database by its path alone.

    sqlalchemy-firebird 2.2 keeps one configuration by path for the process: of two servers with the same path, both sources
    would read the one that was named last. A path with its server in front is handed on as it is.
    """
    if url.get_backend_name() != "firebird" or not url.host:
        return url
    database = f"{url.host}/{url.port or 3050}:{url.database}"
    return sa.URL.create(url.drivername, url.username, url.password, database=database, query=url.query)


def _all_lines(error: BaseException) -> str:
    """Return the words of an error on one line; where they begin with its kind only, the rest says what it is about."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _unknown_fault(error: BaseException) -> Fault:
    """Go by the names that every driver shares (PEP 249)."""
    if isinstance(error, Unproven):
        return Fault.UNPROVEN
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"OperationalError", "InterfaceError"}:
        return Fault.TRANSIENT
    known = names & {"Error", "Warning", "SQLAlchemyError", "UnicodeError"}
    return Fault.REFUSED if known else Fault.UNEXPECTED
