"""A Stripe account from a desk: compared, changed and asked about its key by a command, one call after the other.

Rules
- It sends no usage; for that there is the sink.
- Nothing is opened before the first use, and whoever opened it closes it.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Literal, NamedTuple, Self

from aggregator.sinks.event_loop import Lazily
from aggregator.sinks.stripe.account import Account
from aggregator.sinks.stripe.account_context import Office
from aggregator.sinks.stripe.administration import Administration, Made
from aggregator.sinks.stripe.client import Client
from aggregator.sinks.stripe.differences import Comparison, Known
from aggregator.sinks.stripe.permissions import EVERYDAY, KeyReport, Keyring, Use
from aggregator.sinks.stripe_meter import StripeMeter


class _Line(NamedTuple):
    """What is open while a desk is in use."""

    client: Client
    account: Account
    administration: Administration
    keyring: Keyring


class Desk:
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
        self._line = Lazily(f"desk-{sink}", self._connect, _shut)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def compare(self, names: Iterable[str]) -> list[Comparison]:
        """Compare these meters of ours with the account's, in their order."""
        return self._line.ask(lambda line: line.account.comparisons(names))

    def account(self) -> str | None:
        """Name the account, as `acct_1`; None if the key may not ask."""
        named = self._line.ask(lambda line: line.account.identity())
        return named.split()[0] if named else None

    def create(self, name: str, now: dt.datetime) -> Made:
        """Make the Stripe meter of one of ours, or find that it is there by now."""
        return self._line.ask(lambda line: line.administration.create(name, now))

    def rename(self, name: str, known: Known) -> Comparison:
        """Give a Stripe meter the display name that one of ours has."""
        return self._line.ask(lambda line: line.administration.rename(name, known))

    def deactivate(self, known: Known) -> Known:
        """Let a meter take no more events."""
        return self._line.ask(lambda line: line.administration.deactivate(known))

    def reactivate(self, known: Known) -> Known:
        """Let a meter take events again."""
        return self._line.ask(lambda line: line.administration.reactivate(known))

    def key_report(self, uses: Iterable[Use]) -> KeyReport:
        """Say what the key may do."""
        return self._line.ask(lambda line: line.keyring.report(uses))

    def close(self) -> None:
        """Give back connection and thread. Doing it twice does no harm."""
        self._line.close()

    async def _connect(self) -> _Line:
        client = Client(
            self._api_key,
            api_base=self._api_base,
            timeout_seconds=self._timeout.total_seconds(),
            connections=1,
            account=self._account,
        )
        livemode = self.mode == "live"
        office = Office(
            client=client, sink=self.sink, meters=self.meters, livemode=livemode, account=self._account
        )
        account = Account(office)
        administration = Administration(client, self.sink, self.meters, account, livemode=livemode)
        keyring = Keyring(client, self.sink, restricted=self._api_key.startswith("rk_"))
        return _Line(client, account, administration, keyring)


async def _shut(line: _Line) -> None:
    await line.client.close()
