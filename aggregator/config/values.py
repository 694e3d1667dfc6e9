"""The kinds of value the models are made of: durations, instants, addresses, keys, queries.

Rules
- Every refusal is made by `refuse`, so its words are ours and reach the reader unchanged.
- No refusal repeats the value: what is refused may be a secret that stands in the wrong place.
"""

import datetime as dt
import ipaddress
import re
from decimal import Decimal
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    PlainSerializer,
    SecretStr,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from aggregator.config import cron
from aggregator.config.durations import DURATION_PATTERN, format_duration, parse_duration
from aggregator.config.query import DETAIL_PARAMETERS, final_query

OURS = "aggregator"
"""The type of every pydantic error whose message is already in our words."""

DAY = dt.timedelta(days=1)
MINUTE = dt.timedelta(minutes=1)
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

NAME_PATTERN = "[a-z][a-z0-9_]{0,62}"
NAME_RULE = "small letters, digits and _, starting with a letter, 63 characters at most"


def refuse(message: str, within: str | None = None) -> PydanticCustomError:
    """Return the error that tells the reader exactly this; `within` is the key of a block that it is about."""
    return PydanticCustomError(OURS, "{message}", {"message": message, "within": (within,) if within else ()})


def plain_number(value: object, pattern: str) -> Decimal | None:
    """Return a number of the file that is written as the pattern says, without `_` in it; None if it is not one."""
    text = str(value).replace("_", "").strip() if isinstance(value, int | float | str) else ""
    return None if isinstance(value, bool) or not re.fullmatch(pattern, text) else Decimal(text)


def _duration(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    if not isinstance(value, str):
        raise refuse(
            f"has no unit: write `{value}s` for seconds, `{value}m` for minutes, `{value}h` or `{value}d`"
        )
    try:
        return parse_duration(value)
    except ValueError as error:
        raise refuse(str(error)) from None


Duration = Annotated[
    dt.timedelta,
    BeforeValidator(_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": f"^(?=.){DURATION_PATTERN}$"}),
]


MONTHS_PATTERN = r"([1-9]\d{0,3})(mo|y)"


def _months(value: object) -> object:
    """Read months or years, as a number of months."""
    found = re.fullmatch(MONTHS_PATTERN, value.strip(), re.ASCII) if isinstance(value, str) else None
    if found is None:
        raise refuse("is no number of months: write it as `18mo`, or in years as `2y`")
    months = int(found[1]) * (12 if found[2] == "y" else 1)
    if months > 1_200:
        raise refuse("is longer than a hundred years: write a shorter one")
    return months


Months = Annotated[
    int,
    BeforeValidator(_months),
    PlainSerializer(lambda months: f"{months}mo", return_type=str),
    WithJsonSchema({"type": "string", "pattern": f"^{MONTHS_PATTERN}$"}),
]

BUCKET_PATTERN = r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?"


def _archive_place(place: str) -> str:
    """A directory, or a bucket with a folder in it."""
    if not place or not place.isprintable():
        raise refuse("must be the path of a directory, or `s3://BUCKET/FOLDER/`")
    if "://" not in place:
        return place
    found = re.fullmatch(BUCKET_PATTERN, place)
    if found is None or "//" in (found[2] or ""):
        raise refuse("must be the path of a directory, or `s3://BUCKET/FOLDER/`")
    return place if place.endswith("/") else f"{place}/"


ArchivePlace = Annotated[str, AfterValidator(_archive_place)]

OFF = dt.timedelta(0)


def _interval(value: object) -> object:
    """Read a duration, or `off`."""
    interval = OFF if value == "off" else _duration(value)
    if isinstance(interval, dt.timedelta) and OFF < interval < dt.timedelta(seconds=5):
        raise refuse("is too short: 5s is the least; `off` is for never")
    return interval


Interval = Annotated[
    dt.timedelta,
    BeforeValidator(_interval),
    PlainSerializer(lambda value: format_duration(value) if value else "off", return_type=str),
    WithJsonSchema({"type": "string", "pattern": f"^(off|(?=.){DURATION_PATTERN})$"}),
]
"""How often something is done; zero, written `off`, is never."""


def at_least(text: str) -> AfterValidator:
    """Refuse a duration shorter than this."""
    least = parse_duration(text)

    def check(value: dt.timedelta) -> dt.timedelta:
        if value < least:
            raise refuse(f"is too short: {text} is the least")
        return value

    return AfterValidator(check)


def at_most(text: str, reason: str) -> AfterValidator:
    """Refuse a duration longer than this, and say why."""
    most = parse_duration(text)

    def check(value: dt.timedelta) -> dt.timedelta:
        if value > most:
            raise refuse(f"is too long: {text} is the most, because {reason}")
        return value

    return AfterValidator(check)


def _tiles_a_day(window: dt.timedelta) -> dt.timedelta:
    if not MINUTE <= window <= DAY:
        raise refuse("must be from `1m` to `1d`: longer spans add up on the invoice anyway")
    if DAY % window:
        fits = [MINUTE * n for n in range(1, 1441) if 1440 % n == 0]
        near = [max(w for w in fits if w < window), min(w for w in fits if w > window)]
        shorter, longer = map(format_duration, near)
        raise refuse(f"must divide a day exactly; the nearest that do are `{shorter}` and `{longer}`")
    return window


WindowLength = Annotated[Duration, AfterValidator(_tiles_a_day)]

_TIMESTAMP_HINT = "write it with its zone, such as `2026-11-01T00:00Z` or `2026-11-01T00:00+01:00`"


def read_instant(value: object) -> dt.datetime:
    """Return an instant of the file in UTC; it needs a zone."""
    if isinstance(value, str):
        try:
            # YAML allows a space before the offset; ISO 8601 does not.
            value = dt.datetime.fromisoformat(re.sub(r"\s+(?=[-+Z]\S*$)", "", value.strip()))
        except ValueError:
            raise refuse(f"is not a point in time: {_TIMESTAMP_HINT}") from None
    if not isinstance(value, dt.date):
        raise refuse(f"must be a point in time: {_TIMESTAMP_HINT}")
    if not isinstance(value, dt.datetime) or value.tzinfo is None:
        raise refuse(f"has no time zone, and guessing one would bill the wrong hours: {_TIMESTAMP_HINT}")
    if not 2000 <= value.year < 3000:
        raise refuse("must lie between the years 2000 and 3000")
    return value.astimezone(dt.UTC)


def iso(instant: dt.datetime) -> str:
    """Return an instant as a file has it."""
    precise = instant.second or instant.microsecond
    return instant.isoformat(timespec="auto" if precise else "minutes").replace("+00:00", "Z")


Instant = Annotated[
    dt.datetime,
    BeforeValidator(read_instant),
    PlainSerializer(iso, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.0+)?)?\s*([Zz]|[-+]\d\d(:?\d\d)?)$",
        }
    ),
]


def check_boundary(instant: dt.datetime, window: dt.timedelta, within: str | None = None) -> None:
    """Refuse an instant that is not a multiple of the window since 1970-01-01T00:00Z; `within` as for `refuse`."""
    beyond = (instant - EPOCH) % window
    if beyond:
        before = instant - beyond
        raise refuse(
            "must be the start of a window, in UTC; "
            f"the nearest to it are `{iso(before)}` and `{iso(before + window)}`",
            within,
        )


def _database_url(url: SecretStr) -> SecretStr:
    text = url.get_secret_value()
    if not text.strip():
        raise refuse("is empty: give an SQLAlchemy URL such as `postgresql://user@host/database`")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+_.-]*://\S*", text):
        raise refuse(
            "must be an SQLAlchemy URL, such as `postgresql://user@host/database`, without white space"
        )
    _well_encoded(text)
    return url


def _well_encoded(url: str) -> None:
    """Refuse a URL that drivers would misread: they would take part of a password for a host or a port, and tell it."""
    kind, _, rest = url.partition("://")
    place, _, options = rest.partition("?")
    if kind.startswith("sqlite") or "@" not in place:
        return
    hosts = place.partition("/")[0].rpartition("@")[2].split(",")
    if re.search("%(?![0-9A-Fa-f]{2})", rest):
        raise refuse("has a `%` that begins no `%xx`: write `%25` for one in a password")
    if place.count("@") > 1:
        raise refuse("has more than one `@`: write `%40` for one in a password")
    if not all(re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(:\d*)?", host) for host in hosts):
        raise refuse("has a port that is no number: write `%3A` for a `:` and `%2F` for a `/` in a password")
    if options and not all("=" in option for option in options.split("&")):
        raise refuse("has an option without `=`: write `?name=value`, and `%3F` for a `?` in a password")


def _postgres_url(url: SecretStr) -> SecretStr:
    if not re.match(r"postgres(ql)?(\+\w+)?:", url.get_secret_value()):
        raise refuse(
            "must begin with `postgresql://`: the ledger lives in Postgres; leave it out for an embedded one"
        )
    # psycopg takes libpq's own form, which names no driver.
    return SecretStr(re.sub(r"^postgres(ql)?(\+\w+)?:", "postgresql:", url.get_secret_value()))


DatabaseUrl = Annotated[SecretStr, AfterValidator(_database_url)]
PostgresUrl = Annotated[DatabaseUrl, AfterValidator(_postgres_url)]

API_KEY = re.compile(r"(?:sk|rk)_(test|live)_\S+")


def _stripe_key(key: SecretStr) -> SecretStr:
    if not API_KEY.fullmatch(key.get_secret_value()):
        raise refuse(
            "must be a Stripe secret key: "
            "it starts with sk_test_, rk_test_, sk_live_ or rk_live_, and has no white space"
        )
    return key


StripeKey = Annotated[SecretStr, AfterValidator(_stripe_key)]


def _signing_secrets(text: SecretStr) -> SecretStr:
    secrets = text.get_secret_value().replace(",", " ").split()
    if not secrets or not all(re.fullmatch(r"whsec_\S+", secret) for secret in secrets):
        raise refuse(
            "must be the signing secret of an event destination at Stripe, which starts with whsec_; several are separated "
            "by commas"
        )
    return text


SigningSecrets = Annotated[SecretStr, AfterValidator(_signing_secrets)]


_ADDRESS_HINT = "must be an address such as `https://api.stripe.com` or `http://127.0.0.1:12111`"


def _web_address(value: str) -> str:
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise refuse(_ADDRESS_HINT) from None
    if not host or parts.scheme not in {"http", "https"} or re.search(r"\s", value):
        raise refuse(_ADDRESS_HINT)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise refuse("must be scheme, host and port only: remove the user, password, query or fragment")
    if parts.scheme == "http" and not _is_loopback(host):
        raise refuse(
            "would send the key unencrypted: use https, or http to this machine only, such as 127.0.0.1"
        )
    return value.rstrip("/")


def on_this_machine(address: str) -> bool:
    """Tell whether an address that was taken leads to this machine and no further."""
    return _is_loopback(urlsplit(address).hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


WebAddress = Annotated[
    str, AfterValidator(_web_address), WithJsonSchema({"type": "string", "pattern": "^https?://"})
]


def _utc_only(value: object) -> object:
    if value != "UTC":
        raise refuse(
            "must be `UTC` or left out: where columns hold local time, convert in the query, "
            "such as `created_at at time zone 'Europe/Paris'`"
        )
    return value


ZoneOfColumns = BeforeValidator(_utc_only)


def _cron(value: str) -> str:
    try:
        cron.parse(value)
        return cron.normalised(value)
    except ValueError as error:
        raise refuse(str(error)) from None


Cron = Annotated[str, AfterValidator(_cron)]


def query_with(*parameters: str) -> AfterValidator:
    """Return what takes a query that uses exactly these parameters."""

    def check(value: str) -> str:
        try:
            return final_query(value, parameters)
        except ValueError as error:
            raise refuse(str(error)) from None

    return AfterValidator(check)


DetailQuery = Annotated[str, query_with(*DETAIL_PARAMETERS)]


def _share(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"\d{1,3}(\.\d{1,2})?\s*%", value.strip()):
        value = Decimal(value.strip().removesuffix("%").strip())
        if 0 < value <= 100:
            return value / 100
    raise refuse("must be a share, above `0%` and up to `100%`, such as `20%`")


Share = Annotated[
    Decimal,
    BeforeValidator(_share),
    PlainSerializer(lambda share: f"{(share * 100).normalize():f}%", return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^\d{1,3}(\.\d{1,2})?\s*%$"}),
]


def _since_or_for(value: object) -> object:
    """Read an instant, or a duration back from now."""
    if isinstance(value, str) and re.fullmatch(DURATION_PATTERN, value.strip(), re.ASCII):
        return _duration(value)
    try:
        return read_instant(value)
    except PydanticCustomError:
        raise refuse(
            "must be a point in time with its zone, such as `2026-11-01T00:00Z`, or how long rows are kept, such as `90d`"
        ) from None


SinceOrFor = Annotated[
    dt.datetime | dt.timedelta,
    BeforeValidator(_since_or_for),
    PlainSerializer(
        lambda value: format_duration(value) if isinstance(value, dt.timedelta) else iso(value),
        return_type=str,
    ),
    WithJsonSchema({"type": "string"}),
]
