"""Whether a customer stands ready at Metronome to be billed there from an instant on: pure, what it says in, sentences out.

From Stripe's steps (docs.stripe.com/billing/subscriptions/usage-based/migrate-to-metronome/migrate-existing-customers): each
customer has an ingest alias, is unbillable while both systems get usage, and has a contract.
Metronome says of a customer whether it is billable now, and since when; not what it will be. Whether it says so at all
depends on the client's configuration (docs.metronome.com, API reference, get a customer).
"""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence

BILLABLE, UNBILLABLE = "billable", "unbillable"


def missing(
    customer: str,
    known: Mapping[str, object],
    contracts: Sequence[Mapping[str, object]],
    at: dt.datetime,
    now: dt.datetime,
    *,
    parallel: bool,
) -> Iterator[str]:
    """Say what keeps a customer, as Metronome describes it, from being billed right from `at` on.

    `contracts` are those in effect then. With `parallel`, usage of before is sent as well, and must not be billed.
    """
    when = f"{at:%Y-%m-%dT%H:%MZ}"
    if known.get("archived_at") is not None:
        yield f"{customer} is archived at Metronome: it can get no invoice there."
    if not contracts:
        yield f"{customer} has no contract at Metronome that is in effect at {when}: its usage would be on no invoice."
    value = _status(known)
    if value == UNBILLABLE and now >= at:
        yield (
            f"{customer} is unbillable at Metronome, and has been due to be billed there since {when}: set it billable from "
            "then on (`setBillableStatus`)."
        )
    if value == BILLABLE and parallel and now < at:
        yield (
            f"{customer} is billable at Metronome already, so what is sent there before {when} would be billed twice: set "
            "it unbillable until then (`setBillableStatus`)."
        )


def unseen(customer: str, known: Mapping[str, object], at: dt.datetime, now: dt.datetime) -> str | None:
    """Say what a person is to see to, because Metronome does not tell; None if nothing is left open."""
    value, when = _status(known), f"{at:%Y-%m-%dT%H:%MZ}"
    if value is None:
        return f"{customer}: Metronome does not say whether it is billable; look there that it is from {when} on."
    if value == UNBILLABLE and now < at:
        return f"{customer} is unbillable at Metronome now; see to it that it is billable from {when} on."
    return None


def _status(known: Mapping[str, object]) -> str | None:
    found = known.get("current_billable_status")
    value = found.get("value") if isinstance(found, Mapping) else None
    return value if value in (BILLABLE, UNBILLABLE) else None
