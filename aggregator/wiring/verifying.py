"""Whether every sink is the one it was, and fits: asked before anything is sent."""

from collections.abc import Mapping

from aggregator.config import Config
from aggregator.errors import LedgerStopped, SinkError, SinkHalted
from aggregator.ledger.ledger import Ledger
from aggregator.sinks.protocol import Destination, HasCaveats
from aggregator.wiring.sinks import counted_twice


def stop_if(trouble: str | None) -> None:
    """Raise LedgerStopped if there is any trouble."""
    if trouble is not None:
        raise LedgerStopped(trouble)


def verify_sinks(
    config: Config, ledger: Ledger, sinks: Mapping[str, Destination]
) -> tuple[dict[str, SinkError], dict[str, list[str]], dict[str, str | None]]:
    """Return which sinks could not be asked, and why; what others cannot promise; and to which account each of them goes.

    Whoever would send to another account than before sends nothing. It is nobody else's trouble: the ledger is what it was.
    """
    misfits: list[str] = []
    unverified: dict[str, SinkError] = {}
    unpromised: dict[str, list[str]] = {}
    accounts: dict[str, str | None] = {}
    for name, sink in sinks.items():
        try:
            accounts[name] = sink.account()
            stop_if(ledger.identity.account(name, accounts[name], ledger.instant()))
            misfits += sink.preflight([meter.name for meter in config.meters.values() if name in meter.sinks])
            unpromised[name] = sink.cannot_promise() if isinstance(sink, HasCaveats) else []
        except SinkError as error:
            unverified[name] = error
    misfits += counted_twice(config, accounts)
    if misfits:
        raise SinkError("\n".join(misfits))
    return unverified, unpromised, accounts


def refuses(sink: Destination, why: SinkError) -> bool:
    """Tell whether a sink that could not be asked refuses us as a whole: a key may be kept from looking, and yet send."""
    if not isinstance(why, SinkHalted):
        return False
    try:
        sink.resume()
    except SinkHalted:
        return True
    except SinkError:
        return False
    return False


def note_halts(
    ledger: Ledger,
    sink_ids: Mapping[str, int],
    unverified: Mapping[str, SinkError],
    refused: Mapping[str, str],
) -> None:
    """Note for `status` which sinks refuse us now, and which do not any more, whether anything is due or not."""
    for sink, sink_id in sink_ids.items():
        if sink in refused:
            ledger.outbox.halt(sink_id, refused[sink], ledger.instant())
        elif sink not in unverified:
            ledger.outbox.resume(sink_id)
