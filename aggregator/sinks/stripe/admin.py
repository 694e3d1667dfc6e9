"""A Stripe account as a person works on it: compared, changed and asked about its key, one call after the other.

Rules
- It sends no usage; for that there is the sink. Everything else that writes to an account is in here.
- Nothing is opened before the first use, and whoever opened it closes it.
- A meter is made once, whoever asks, and however often. Its event name is its own at Stripe, and the Idempotency-Key is
  derived from what is made, so that two who ask at once make one. Whatever went wrong, the account is read again and has
  the last word.
- Only what `apply` is for is changed: a meter that is missing, a display name. Naming has no such key: to give a name, take
  it back and give it again within a day would be answered from memory, and change nothing.
"""

import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn, Self

from aggregator.errors import SinkError, SinkHalted, SinkUnreachable
from aggregator.sinks.event_loop import LazyLoop
from aggregator.sinks.responses import NoResponse
from aggregator.sinks.stripe.account import Account, described
from aggregator.sinks.stripe.account_context import AccountContext
from aggregator.sinks.stripe.client import Client
from aggregator.sinks.stripe.differences import Comparison, Known, compare
from aggregator.sinks.stripe.permissions import EVERYDAY, KeyPermissions, KeyReport, Use
from aggregator.sinks.stripe.responses import describe, why_halt
from aggregator.sinks.stripe_meter import StripeMeter

if TYPE_CHECKING:
    from stripe.params.billing import MeterCreateParams, MeterUpdateParams

REPEATS = 2
"""How often the library repeats a call of its own accord, under the same key, after a conflict or without an answer."""


class Made(NamedTuple):
    """How a meter stands after it was to be made, and whether it was this call that made it, as far as Stripe says."""

    comparison: Comparison
    by_us: bool


class Administration:
    """Changes the meters of the account that a key belongs to."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self._context = account.context
        self._calls = account.context.client.api.v1.billing.meters

    async def create(self, name: str, now: dt.datetime, event_name: str | None = None) -> Made:
        """Make the Stripe meter of one of ours, or find that it is there.

        Raises SinkHalted if the key may not, SinkUnreachable if it may have been made, SinkError if it was refused.
        """
        meter = self._needed(name, event_name)
        event_name = meter.event_name
        params = creation(meter)
        try:
            made = await self._calls.create_async(
                params,
                {
                    **self._context.options,
                    "idempotency_key": idempotency_key(params, now),
                    "max_network_retries": REPEATS,
                },
            )
            known = described(made)
        except Exception as error:  # noqa: BLE001 - the account says what came of it; else it is turned into ours, and raised
            found = await self._after(error, name, event_name)
            if found is None:
                self._raise(error, f"make the meter {meter.event_name}")
            return Made(found, by_us=False)
        return Made(compare(name, meter, known, livemode=self._context.livemode), by_us=True)

    async def rename(self, name: str, known: Known) -> Comparison:
        """Give a Stripe meter the display name that one of ours has. Raises SinkHalted, SinkUnreachable or SinkError."""
        meter = self._needed(name, known.event_name)
        assert meter.display_name is not None, f"meter {name} has no display name to give"
        params: MeterUpdateParams = {"display_name": meter.display_name}
        with self._changing(f"rename the meter {known.event_name}"):
            renamed = described(await self._calls.update_async(known.id, params, self._context.options))
        return compare(name, meter, renamed, livemode=self._context.livemode)

    async def deactivate(self, known: Known) -> Known:
        """Let a meter take no more events. Raises SinkHalted, SinkUnreachable or SinkError."""
        with self._changing(f"deactivate the meter {known.event_name}"):
            return described(await self._calls.deactivate_async(known.id, None, self._context.options))

    async def reactivate(self, known: Known) -> Known:
        """Let a meter take events again. Raises SinkHalted, SinkUnreachable or SinkError."""
        with self._changing(f"reactivate the meter {known.event_name}"):
            return described(await self._calls.reactivate_async(known.id, None, self._context.options))

    def _needed(self, name: str, event_name: str | None) -> StripeMeter:
        """Return what one of ours needs under an event name, the first without one."""
        needed = self._context.meters[name].needed
        return next(each for each in needed if event_name in (None, each.event_name))

    async def _after(self, error: Exception, name: str, event_name: str) -> Comparison | None:
        """Return what the account has after a failure: somebody else's meter, or ours whose answer was lost."""
        failure = self._context.client.describe(error)
        if not isinstance(failure, NoResponse) and why_halt(failure, self._context.sink):
            return None
        try:
            compared = await self.account.comparisons([name])
        except SinkError:
            return None  # the first failure is the one to tell
        return next((each for each in compared if each.event_name == event_name and each.known), None)

    @contextmanager
    def _changing(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - turned into ours, and raised
            self._raise(error, what)

    def _raise(self, error: Exception, what: str) -> NoReturn:
        failure = self._context.client.describe(error)
        if isinstance(failure, NoResponse) or failure.status >= 500 or failure.status in (409, 429):
            why = failure.what if isinstance(failure, NoResponse) else describe(failure)
            raise SinkUnreachable(
                f"Stripe did not {what} for sink {self._context.sink}, or did not say so: {why}. "
                "Run the command again; what is done already is not done twice."
            ) from error
        halt = why_halt(failure, self._context.sink)
        if halt:
            raise SinkHalted(halt) from error
        raise SinkError(
            f"Stripe refuses to {what} for sink {self._context.sink}: {describe(failure)}."
        ) from error


def creation(meter: StripeMeter) -> "MeterCreateParams":
    """Return everything that is said of a meter when it is made (docs.stripe.com/api/billing/meter/create)."""
    params: MeterCreateParams = {
        "display_name": meter.display_name or meter.event_name,
        "event_name": meter.event_name,
        "default_aggregation": {"formula": meter.formula},
        "customer_mapping": {"type": "by_id", "event_payload_key": meter.customer_key},
        "value_settings": {"event_payload_key": meter.value_key},
    }
    if meter.event_time_window is not None:
        params["event_time_window"] = meter.event_time_window
    return params


def idempotency_key(params: "MeterCreateParams", now: dt.datetime) -> str:
    """Return a key that is the same for all who make the same meter within an hour.

    Stripe keeps an answer for a day, a 500 too (docs.stripe.com/api/idempotent_requests): for ever the same key would stand
    in the way that long. In the next hour the event name still sees to it that there is one.
    """
    content = json.dumps([params, f"{now:%Y-%m-%dT%H}"], sort_keys=True)
    return f"aggregator-meter-{hashlib.sha256(content.encode()).hexdigest()[:40]}"


class AdminClient:
    """Works on the account that a key belongs to. `meters` says what our meters are to be at Stripe.

    Every method raises SinkHalted, SinkUnreachable or SinkError when Stripe does not do or say what it is asked.
    """

    def __init__(
        self,
        sink: str,
        *,
        api_key: str,
        mode: Literal["live", "test"],
        api_base: str | None,
        timeout: dt.timedelta,
        meters: Mapping[str, StripeMeter],
        account: str | None = None,
        uses: Iterable[Use] = EVERYDAY | {Use.APPLY},
    ) -> None:
        self.sink = sink
        self.uses = frozenset(uses)
        self.mode = mode
        self.meters = meters
        self._api_key = api_key
        self._api_base = api_base
        self._timeout = timeout
        self._account = account
        self._loop = LazyLoop(f"sink-{sink}", self._connect, _shut)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def compare(self, names: Iterable[str]) -> list[Comparison]:
        """Compare these meters of ours with the account's, in their order."""
        return self._loop.ask(lambda there: there.account.comparisons(names))

    def others(self) -> list[Known]:
        """Return the active meters of the account that none of ours feeds: they belong to somebody else."""
        return self._loop.ask(lambda there: there.account.others())

    def account(self) -> str | None:
        """Name the account, as `acct_1`; None if the key may not ask."""
        named = self._loop.ask(lambda there: there.account.identity())
        return named.split()[0] if named else None

    def create(self, name: str, now: dt.datetime, event_name: str | None = None) -> Made:
        """Make a Stripe meter of one of ours, or find that it is there: the one of an event name, if it has several."""
        return self._loop.ask(lambda there: there.create(name, now, event_name))

    def rename(self, name: str, known: Known) -> Comparison:
        """Give a Stripe meter the display name that one of ours has."""
        return self._loop.ask(lambda there: there.rename(name, known))

    def deactivate(self, known: Known) -> Known:
        """Let a meter take no more events."""
        return self._loop.ask(lambda there: there.deactivate(known))

    def reactivate(self, known: Known) -> Known:
        """Let a meter take events again."""
        return self._loop.ask(lambda there: there.reactivate(known))

    def key_report(self, uses: Iterable[Use]) -> KeyReport:
        """Say what the key may do."""
        restricted = self._api_key.startswith("rk_")
        return self._loop.ask(
            lambda there: KeyPermissions(there.account.context, restricted=restricted).report(uses)
        )

    def close(self) -> None:
        """Give back connection and thread. Doing it twice does no harm."""
        self._loop.close()

    async def _connect(self) -> Administration:
        client = Client(
            self._api_key,
            api_base=self._api_base,
            timeout_seconds=self._timeout.total_seconds(),
            connections=1,
        )
        livemode = self.mode == "live"
        context = AccountContext(client, self.sink, self.meters, livemode, self._account)
        return Administration(Account(context))


async def _shut(administration: Administration) -> None:
    await administration.account.context.client.close()
