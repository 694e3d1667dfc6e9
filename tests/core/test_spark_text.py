"""What is refused of a query for Spark before it is sent, what is sent for a value, and what is told of an error."""

import datetime as dt

import pytest

from aggregator.source.dialects import Fault
from aggregator.source.spark import SPARK
from aggregator.source.spark_session import ServerError, literal
from aggregator.source.spark_text import not_a_read

READS = [
    "select 1",
    "\n  select 1;  ",
    "(select 1) union all (select 2)",
    "with a as (select 1) select * from a",
    "from usage select customer, quantity",
    "values (1, 2)",
    "--delete\n/* update */ select 1",
    "-- delete \\\n delete\nselect 1",
    r"select r'\', 'it\'s; delete', `insert` from t -- ; drop",
    "select t.update from t",
    "select sum(delete) from t",
    "select a from t join u using (a)",
    "select /*+ broadcast(t) */ 1 from t",
    "select transform(array(1), x -> x + 1)",
]

WRITES = {
    "": "it is empty",
    "-- select 1": "it is empty",
    "drop table t": "it begins with `drop`",
    "set spark.sql.ansi.enabled=false": "it begins with `set`",
    "begin select 1; end": "it begins with `begin`",
    "select 1; drop table t": "another statement follows its `;`",
    "with a as (select 1) insert into t select * from a": (
        "`insert` begins a statement that writes; put the name of a column into back quotes"
    ),
    "from t insert into u select a": (
        "`insert` begins a statement that writes; put the name of a column into back quotes"
    ),
    "with a as (select 1) delete from t": (
        "`delete` begins a statement that writes; put the name of a column into back quotes"
    ),
    "select transform(a) using 'cat' from t": "`using` and a text runs a program",
    "select reflect('java.lang.System', 'exit', 1)": "`reflect` calls Java, which may do anything",
    r"select r'\', `Java_Method` /* so */ ('java.lang.System', 'exit', 1)": (
        "`java_method` calls Java, which may do anything"
    ),
}


@pytest.mark.parametrize("text", READS)
def test_one_query_is_sent(text: str) -> None:
    """Whatever its quotes and comments hold."""
    assert not_a_read(text) is None


@pytest.mark.parametrize("text", WRITES)
def test_what_is_no_reading_is_not_sent(text: str) -> None:
    """The reason names the word."""
    assert not_a_read(text) == WRITES[text]


def test_values_are_sent_as_literals_that_cannot_be_misread() -> None:
    """An instant in UTC with its zone; a text by its bytes, so that no quote in it ends it."""
    noon = dt.datetime(2026, 11, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=45)))
    assert literal(noon) == "timestamp'2026-11-01 06:15:00Z'"
    assert literal("it's") == "cast(x'69742773' as string)"
    assert (literal(5), literal(True), literal(None)) == ("5", "true", "null")
    with pytest.raises(TypeError):
        literal(1.5)


STACK = (
    "\n\tat org.apache.spark.sql.hive.thriftserver.HiveThriftServerErrors$.runningQueryError(Errors.scala:43)"
)
RUNNING = "org.apache.hive.service.cli.HiveSQLException: Error running query: "

NO_COLUMN = (
    "[UNRESOLVED_COLUMN.WITH_SUGGESTION] A column with name `nope` cannot be resolved. Did you mean [`n`]?"
)
OVERFLOW = (
    "org.apache.spark.SparkArithmeticException: [ARITHMETIC_OVERFLOW] long overflow. Use 'try_add' to tolerate overflow "
    'and return NULL instead. If necessary set "spark.sql.ansi.enabled" to "false" to bypass this error. '
    "SQLSTATE: 22003\n== SQL (line 1, position 8) ==\nselect a+b\n"
)
WIDER = (
    "[ARITHMETIC_OVERFLOW] long overflow; add up a wider type, `sum(cast(... as decimal(38, 0)))`, or one with fewer "
    "decimal places"
)
FILE_GONE = "[FAILED_READ_FILE.FILE_NOT_EXIST] Error while reading file /lake/a.parquet. File does not exist"
EXECUTOR_LOST = "org.apache.spark.SparkException: Job aborted: executor lost"

ERRORS = [
    (
        f"{RUNNING}[X] Exception: {NO_COLUMN} SQLSTATE: 42703; line 3 pos 7;\n'Project ['nope]\n{STACK}",
        Fault.REFUSED,
        f"{NO_COLUMN} (line 2)",
    ),
    (OVERFLOW, Fault.REFUSED, WIDER),
    (f"{FILE_GONE}. SQLSTATE: KD001", Fault.TRANSIENT, FILE_GONE),
    (f"{RUNNING}{EXECUTOR_LOST}{STACK}", Fault.TRANSIENT, EXECUTOR_LOST),
]


@pytest.mark.parametrize(("words", "fault", "said"), ERRORS)
def test_an_error_is_told_in_spark_s_own_words(words: str, fault: Fault, said: str) -> None:
    """Without Java's stack and plan, by the line of the query, and without advice to lose what does not fit."""
    error = ServerError(words, None)
    assert SPARK.fault(error) is fault
    assert SPARK.said(error) == said
