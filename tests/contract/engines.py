"""Engines that nobody here knows: SQLite under other names, so that it is read as any database that SQLAlchemy reaches.

`otherdb` is nothing else; `mutedb` cannot make an instant of a number; `asyncdb` is for asyncio; `zonedb` makes instants of
seconds since 1970 in the zone of its session, as MariaDB does with a TIMESTAMP column.
"""

import datetime as dt
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite


class ZonedDialect(SQLiteDialect_pysqlite):
    """The dialect of `zonedb`; `zone` is what the server is set to, for the sessions that begin from now on."""

    zone = "UTC"
    supports_statement_cache = True

    def on_connect(self) -> Callable[[Any], Any]:
        """Give each connection a function of the session's zone."""
        plain = super().on_connect()

        def made(connection: Any) -> None:
            if plain is not None:
                plain(connection)
            zone = ZoneInfo(self.zone)

            def from_unixtime(seconds: float) -> str:
                micros = dt.timedelta(microseconds=round(seconds * 1_000_000))
                moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + micros
                return f"{moment.astimezone(zone):%Y-%m-%d %H:%M:%S.%f}"

            connection.create_function("from_unixtime", 1, from_unixtime)

        return made


class MuteDialect(SQLiteDialect_pysqlite):
    """The dialect of `mutedb`, which has no way to make an instant of a number."""

    supports_statement_cache = True

    def on_connect(self) -> Callable[[Any], Any]:
        """Take that away from each connection."""
        plain = super().on_connect()

        def made(connection: Any) -> None:
            if plain is not None:
                plain(connection)
            connection.create_function("datetime", -1, None)

        return made


class AsyncDialect(SQLiteDialect_pysqlite):
    """The dialect of `asyncdb`."""

    supports_statement_cache = True
    is_async = True


def register() -> None:
    """Let SQLAlchemy know them."""
    sa.dialects.registry.register("asyncdb", "tests.contract.engines", "AsyncDialect")
    sa.dialects.registry.register("mutedb", "tests.contract.engines", "MuteDialect")
    sa.dialects.registry.register("otherdb", "sqlalchemy.dialects.sqlite.pysqlite", "SQLiteDialect_pysqlite")
    sa.dialects.registry.register("zonedb", "tests.contract.engines", "ZonedDialect")
