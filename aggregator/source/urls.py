"""The URL of a source: SQLAlchemy's form, and libpq's where that has several hosts."""

import re
from urllib.parse import unquote

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from aggregator.errors import SourceError

SECRET_OPTIONS = ("password", "sslpassword")

DEFAULT_PORT = "5432"

SEVERAL_HOSTS = re.compile(r"(postgres(?:ql)?(?:\+\w+)?://(?:[^/?#]*@)?)([^/?#@]*,[^/?#@]*)(.*)", re.DOTALL)
"""A URL with several hosts, as libpq takes it (postgresql.org/docs/current/libpq-connect.html, "Connection URIs").
SQLAlchemy takes them among the parameters only."""

HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::(\d*))?")


def parsed(name: str, url: str) -> sa.URL:
    """Return the parts of a source's URL. Raises SourceError if it has none."""
    several = SEVERAL_HOSTS.fullmatch(url)
    try:
        if several is None:
            return sa.make_url(url)
        before, hosts, after = several.groups()
        return sa.make_url(before + after).update_query_dict(_parameters(hosts))
    except (ArgumentError, ValueError):
        raise SourceError(
            f"Source {name}: its URL cannot be understood; write kind://user:password@host/database"
        ) from None


def _parameters(hosts: str) -> dict[str, str]:
    """Return `h1:p1,h2` as the two parameters that mean the same. Raises ValueError for a port that is none."""
    found = [HOST.fullmatch(each) for each in hosts.split(",")]
    if not all(found):
        raise ValueError(hosts)
    each = [(unquote(one[1].strip("[]")), one[2] or DEFAULT_PORT) for one in found if one]
    return {"host": ",".join(host for host, _ in each), "port": ",".join(port for _, port in each)}


def secrets_of(url: sa.URL, text: str) -> list[str]:
    """Return what may not appear in any message, the longest first."""
    options = [url.query.get(option) for option in SECRET_OPTIONS]
    found = {text, url.password, *(value for value in options if isinstance(value, str))}
    return sorted((secret for secret in found if secret), key=len, reverse=True)
