"""How each kind of database says what a proof asks of it: an instant, a decimal, its zone. Pure: texts and nothing else.

Rules
- An instant is made of the seconds since 1970 by the database's own arithmetic, and never of a bound: so it can tell whether
  a bound is what was meant.
- What is not known of a kind is None, and its fact is then not proven.
"""

import datetime as dt
from typing import NamedTuple

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MICROSECOND = dt.timedelta(microseconds=1)


def at(text: str) -> dt.datetime:
    """Return an instant in UTC."""
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


class Wording(NamedTuple):
    """The words of one kind of database. In an instant, `{s}` are whole seconds since 1970, `{f}` the microseconds of one
    second in six digits, `{n}` the same as a number, `{us}` all microseconds, `{text}` is the time in UTC, and
    `{short}` the same without a fraction that is nothing."""

    instant: str | None
    """An instant with its zone, or as near as the database has it."""
    plain: str = "timestamp '{text}'"
    """A timestamp without a zone that holds UTC."""
    zone: str | None = None
    """What gives the name of the session's zone."""
    hour: str | None = "date_trunc('hour', {})"
    """The hour that an instant lies in, as a usage query would say it."""
    nothing: str = ""
    """What a select without a table needs."""
    decimal: str = "decimal({digits}, {places})"
    bigint: str = "bigint"
    char: str | None = "cast('cus_padded' as char(20))"
    broken: str | None = "case when id = {} then (select d.n from d where d.n <> id) else 1 end"
    """An expression over `id` that fails in one row and is 1 in all others."""
    write: str = "drop table if exists aggregator_asks_whether_this_is_refused"
    """What writes, and does no harm where it is let through."""
    quote: str = '"'
    least: dt.timedelta = MICROSECOND
    """The shortest time by which two instants differ."""
    utc: tuple[str, ...] = ()
    """Statements that set the session to UTC."""
    advice: str = "set the session's time zone to UTC, in the URL or for the role"
    """What to write so that the session is in UTC."""

    def at(self, moment: dt.datetime) -> str | None:
        """Return the SQL of an instant."""
        return None if self.instant is None else _filled(self.instant, moment)

    def unzoned(self, moment: dt.datetime) -> str:
        """Return the SQL of the same as a timestamp without a zone."""
        return _filled(self.plain, moment)

    def column(self, name: str) -> str:
        """Return a column's name in quotes: `window` and `at` are reserved words somewhere."""
        return f"{self.quote}{name}{self.quote}"


def _filled(form: str, moment: dt.datetime) -> str:
    micros = (moment - EPOCH) // MICROSECOND
    seconds, fraction = divmod(micros, 1_000_000)
    text = f"{moment.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S.%f}"
    short = text.removesuffix(".000000")
    return form.format(s=seconds, f=f"{fraction:06}", n=fraction, us=micros, text=text, short=short)


BY_ROLE = "`alter role ... set timezone = 'UTC'`"

POSTGRES = Wording(
    instant="to_timestamp({s}) + {n} * interval '1 microsecond'",
    zone="current_setting('TimeZone')",
)
"""Aggregator sets the session to UTC in each transaction."""

SQLITE = Wording(
    instant="datetime({s}, 'unixepoch') || '.{f}'",
    plain="'{short}'",
    hour="strftime('%Y-%m-%d %H:00:00', {})",
    bigint="integer",
    broken="abs(case when id = {} then -9223372036854775807 - 1 else 1 end)",
    # A table that is not there it drops without a look at who asks; a database in memory goes with the connection.
    write="attach ':memory:' as asked_whether_this_is_refused",
)
"""Times are texts, with a fraction of a second or without; a zone is not a thing it has."""

MYSQL = Wording(
    instant="from_unixtime({s}.{f})",
    zone="concat(@@session.time_zone, ' (the server: ', @@system_time_zone, ')')",
    hour="date_format({}, '%Y-%m-%d %H:00:00')",
    bigint="signed",
    broken="exp(case when id = {} then 1000 else 0 end)",
    quote="`",
    utc=("set time_zone = '+00:00'",),
    advice="add `?init_command=set time_zone='%2B00:00'` to the URL",
)

DUCKDB = Wording(
    instant="to_timestamp({s}) + to_microseconds({n})",
    zone="current_setting('TimeZone')",
    broken="case when id = {} then error('broken off') else 1 end",
    utc=("set timezone = 'UTC'",),
    advice="run it with `TZ=UTC` in its environment",
)

CLICKHOUSE = Wording(
    instant="fromUnixTimestamp64Micro(toInt64({us}))",
    plain="toDateTime64('{text}', 6)",
    zone="timeZone()",
    hour="toStartOfHour({})",
    # Sums of narrower types go round; aggregator refuses them.
    decimal="decimal(76, {places})",
    bigint="Int128",
    char="toFixedString('cus_padded', 20)",
    broken="1 + throwIf(id = {})",
    quote="`",
    advice="let the profile of the user have `session_timezone = 'UTC'`",
)

SPARK = Wording(
    instant="timestamp_micros({us})",
    plain="timestamp_ntz '{text}'",
    zone="current_timezone()",
    broken="case when id = {} then raise_error('broken off') else 1 end",
    quote="`",
    utc=("set time zone 'UTC'",),
    advice="set `spark.sql.session.timeZone` to UTC",
)

BIGQUERY = Wording(
    instant="timestamp_micros({us})",
    plain="datetime '{text}'",
    hour="timestamp_trunc({}, hour)",
    decimal="bignumeric({digits}, {places})",
    bigint="int64",
    char=None,  # it has no padded type
    broken="case when id = {} then error('broken off') else 1 end",
    quote="`",
)

SNOWFLAKE = Wording(
    instant="to_timestamp_tz({us}, 6)",
    plain="to_timestamp_ntz('{text}')",
    zone="to_char(current_timestamp(), 'TZHTZM')",
    utc=("alter session set timezone = 'UTC'",),
    advice="`alter user ... set timezone = 'UTC'`",
)

TRINO = Wording(
    instant="from_unixtime_nanos({us}000)",
    zone="current_timezone()",
    broken="case when id = {} then fail('broken off') else 1 end",
    utc=("set time zone 'UTC'",),
)

REDSHIFT = Wording(
    instant="timestamptz 'epoch' + {s} * interval '1 second' + {n} * interval '1 microsecond'",
    zone="current_setting('timezone')",
    broken="1 / case when id = {} then 0 else 1 end",
    utc=("set timezone to 'UTC'",),
    advice="`alter user ... set timezone to 'UTC'`",
)

SQL_SERVER = Wording(
    instant="dateadd(microsecond, {n}, dateadd(second, {s}, cast('1970-01-01T00:00:00+00:00' as datetimeoffset(6))))",
    plain="cast('{text}' as datetime2(6))",
    hour="dateadd(minute, -datepart(minute, {0}), dateadd(second, -datepart(second, {0}), cast({0} as datetimeoffset(0))))",
    broken="1 / case when id = {} then 0 else 1 end",
    advice="it has no zone of the session: compare `datetime2` columns in UTC, or `datetimeoffset` columns",
)

ORACLE = Wording(
    instant=(
        "(timestamp '1970-01-01 00:00:00 +00:00'"
        " + numtodsinterval({s}, 'second') + numtodsinterval({n} / 1000000, 'second'))"
    ),
    zone="sessiontimezone",
    hour="trunc(cast({} as date), 'hh24')",
    nothing=" from dual",
    decimal="number({digits}, {places})",
    bigint="number(19)",
    broken="1 / case when id = {} then 0 else 1 end",
    utc=("alter session set time_zone = '+00:00'",),
    advice="set `ORA_SDTZ=UTC` in the environment",
)

COCKROACHDB = Wording(
    instant="to_timestamp({s}) + {n} * interval '1 microsecond'",
    zone="current_setting('timezone')",
    broken="case when id = {} then crdb_internal.force_error('22012', 'broken off') else 1 end",
    utc=("set timezone = 'UTC'",),
    advice=BY_ROLE,
)

FIREBIRD = Wording(
    instant="dateadd({n} / 1000.0 millisecond to dateadd({s} second to timestamp '1970-01-01 00:00:00'))",
    plain="timestamp '{text}'",
    hour=None,
    nothing=" from rdb$database",
    decimal="decimal({digits}, {places})",
    broken="1 / case when id = {} then 0 else 1 end",
    least=dt.timedelta(microseconds=100),
    advice="set `SessionTimeZone` to UTC (Firebird 4 and later; earlier ones have no zones)",
)

KINDS = {
    "postgresql": POSTGRES,
    "sqlite": SQLITE,
    "mysql": MYSQL,
    "mariadb": MYSQL,
    "duckdb": DUCKDB,
    "clickhouse": CLICKHOUSE,
    "clickhousedb": CLICKHOUSE,
    "hive": SPARK,
    "spark": SPARK,
    "databricks": SPARK,
    "bigquery": BIGQUERY,
    "snowflake": SNOWFLAKE,
    "trino": TRINO,
    "presto": TRINO,
    "awsathena": TRINO,
    "redshift": REDSHIFT,
    "mssql": SQL_SERVER,
    "oracle": ORACLE,
    "cockroachdb": COCKROACHDB,
    "firebird": FIREBIRD,
}
"""By the name of SQLAlchemy's dialect."""

UNKNOWN = Wording(instant=None)

SPELLINGS = (POSTGRES, MYSQL, SPARK, SQLITE)
"""How a kind that nobody here knows may spell an instant, in the order in which it is asked."""


def wordings(kind: str) -> tuple[Wording, ...]:
    """Return how a kind of database may say it: one way of a known one, several to be tried of any other."""
    return (
        (KINDS[kind],) if kind in KINDS else tuple(each._replace(advice=UNKNOWN.advice) for each in SPELLINGS)
    )
