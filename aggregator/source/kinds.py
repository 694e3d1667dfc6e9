"""Which kind of database a URL names."""

from collections.abc import Mapping

import sqlalchemy as sa

from aggregator.source.clickhouse import CLICKHOUSE
from aggregator.source.dialects import Dialect
from aggregator.source.duckdb import duckdb_dialect
from aggregator.source.file_views import Files
from aggregator.source.mysql import MYSQL
from aggregator.source.other import other
from aggregator.source.postgres import POSTGRES
from aggregator.source.spark import SPARK
from aggregator.source.sqlite import SQLITE


def dialect_of(url: sa.URL, files: Mapping[str, Files]) -> Dialect:
    """Return what is known of the kind of database a URL names; `files` are what it is to show as tables."""
    match url.get_backend_name():
        case "postgresql" | "postgres":
            return POSTGRES
        case "sqlite":
            return SQLITE
        case "mysql" | "mariadb":
            return MYSQL
        case "duckdb":
            return duckdb_dialect(files)
        case "clickhouse" | "clickhouses" | "clickhousedb":
            return CLICKHOUSE
        case "spark":
            return SPARK
        case name:
            return other(name)
