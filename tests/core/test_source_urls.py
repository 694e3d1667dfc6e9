"""The URL of a source, with one host and with several."""

import pytest
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from aggregator.errors import SourceError
from aggregator.source.urls import parsed, secrets_of


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("postgresql://me:p%2Cw@h1:1,h2:2/db?target_session_attrs=read-write", "h1,h2", "1,2"),
        ("postgres://h1,h2/db", "h1,h2", "5432,5432"),
        ("postgresql+psycopg2://me@h1,[::1]:7/db", "h1,::1", "5432,7"),
        ("postgresql://me@%2Frun%2Fpg,h2/db", "/run/pg,h2", "5432,5432"),
        ("postgresql://me@/db?host=h1,h2&port=1,2", "h1,h2", "1,2"),
    ],
)
def test_several_hosts_reach_the_driver_as_libpq_takes_them(url: str, host: str, port: str) -> None:
    """In the authority, where libpq has them, or among the parameters."""
    dialect = PGDialect_psycopg()  # type: ignore[no-untyped-call]  # as the library has it
    _, told = dialect.create_connect_args(parsed("app", url))  # type: ignore[no-untyped-call]  # the same
    assert (told["host"], told["port"], told["dbname"]) == (host, port, "db")


def test_the_rest_of_the_url_stays() -> None:
    """User, password and parameters are those of every host."""
    url = parsed("app", "postgresql://me:p%2Cw@h1:1,h2:2/db?target_session_attrs=read-write")
    assert (url.username, url.password, url.database) == ("me", "p,w", "db")
    assert url.query["target_session_attrs"] == "read-write"


@pytest.mark.parametrize("url", ["postgresql://h1:x,h2/db", "postgresql://h1:1:2,h2/db", "no url"])
def test_what_is_no_url_is_refused_without_being_repeated(url: str) -> None:
    """It may hold a password in the wrong place."""
    with pytest.raises(SourceError) as caught:
        parsed("app", url)
    assert url not in str(caught.value)


def test_secrets_are_found_in_the_user_part_and_the_parameters() -> None:
    """The whole URL is one as well."""
    text = "postgresql://me:p%2Cw@h1,h2/db?sslpassword=key-password"
    assert secrets_of(parsed("app", text), text) == [text, "key-password", "p,w"]
