"""The ledger in memory has the verbs of the real one: the same names, taking and giving the same."""

import inspect
from collections.abc import Iterator

import pytest

from aggregator.ledger.adoption import Adopting
from aggregator.ledger.archives import Archives
from aggregator.ledger.customers import Customers
from aggregator.ledger.cutovers import Cutovers
from aggregator.ledger.identity import LedgerIdentity
from aggregator.ledger.meters import Meters
from aggregator.ledger.notifications import Notifications
from aggregator.ledger.outbox.files import Files
from aggregator.ledger.outbox.first_use import FirstUses
from aggregator.ledger.outbox.moved_files import Places
from aggregator.ledger.outbox.outbox import Outbox
from aggregator.ledger.outbox.uploads import Uploads
from aggregator.ledger.passes.passes import Passes
from aggregator.ledger.passes.running_totals import RunningTotals
from aggregator.ledger.review.cancellations import Cancellations
from aggregator.ledger.review.in_doubt import InDoubt
from aggregator.ledger.samples import Samples
from tests.simulation.memory import MemoryMeters
from tests.simulation.memory_adopting import MemoryAdopting
from tests.simulation.memory_archives import MemoryArchives
from tests.simulation.memory_cancelling import MemoryCancellations
from tests.simulation.memory_customers import MemoryCustomers
from tests.simulation.memory_cutovers import MemoryCutovers
from tests.simulation.memory_files import MemoryFiles
from tests.simulation.memory_first_use import MemoryFirstUses
from tests.simulation.memory_identity import MemoryIdentity
from tests.simulation.memory_in_doubt import MemoryInDoubt
from tests.simulation.memory_notifications import MemoryNotifications
from tests.simulation.memory_outbox import MemoryOutbox
from tests.simulation.memory_passes import MemoryPasses
from tests.simulation.memory_samples import MemorySamples
from tests.simulation.memory_totals import MemoryRunningTotals
from tests.simulation.memory_uploads import MemoryPlaces, MemoryUploads

TWINS: dict[type, type] = {
    MemoryMeters: Meters,
    MemoryPasses: Passes,
    MemoryRunningTotals: RunningTotals,
    MemorySamples: Samples,
    MemoryOutbox: Outbox,
    MemoryInDoubt: InDoubt,
    MemoryIdentity: LedgerIdentity,
    MemoryFiles: Files,
    MemoryCancellations: Cancellations,
    MemoryNotifications: Notifications,
    MemoryFirstUses: FirstUses,
    MemoryUploads: Uploads,
    MemoryPlaces: Places,
    MemoryAdopting: Adopting,
    MemoryArchives: Archives,
    MemoryCutovers: Cutovers,
    MemoryCustomers: Customers,
}

NOT_LIVED: dict[type, set[str]] = {
    Archives: {"old", "open", "sizes"},
    Meters: {"look", "memory", "note_unstable", "redefine"},
    Passes: {"preview"},
    RunningTotals: {"of_all"},
    Outbox: {"clock_set_back", "planned_by", "waiting"},
    InDoubt: {"sent_silently"},
    LedgerIdentity: {"accounts", "follow", "remarks"},
    Cancellations: {"candidates", "undecided"},
    Customers: {"keys", "mapped_meters", "names", "states", "waiting"},
    Cutovers: {"crossings", "known", "unmoved"},
    Notifications: {"last_pass_at", "poll_states"},
    Samples: {"gaps", "states"},
    Uploads: {"listed", "of_range", "reject", "states"},
}
"""Verbs that no life needs: they serve a person's commands, a daemon's reports, or sinks of another kind."""

BETWEEN_PARTS: dict[type, set[str]] = {
    MemoryOutbox: {"settle_members"},
    MemoryInDoubt: {"in_span", "refuse_known"},
    MemoryIdentity: {"count_claim", "stopped"},
    LedgerIdentity: {"count_claim", "stopped"},
}
"""What parts of a ledger ask of each other, inside of a transaction, which only the real one has."""


def verbs(part: type) -> Iterator[tuple[str, object]]:
    """Yield the public methods and properties of a class, and of those that it is made of."""
    members = {name: member for each in reversed(part.__mro__[:-1]) for name, member in vars(each).items()}
    for name, member in members.items():
        if not name.startswith("_") and (callable(member) or isinstance(member, property)):
            yield name, member


def shapes(part: type) -> dict[str, tuple[str, str]]:
    """Return the shape of each verb that a shell may use."""
    left_out = NOT_LIVED.get(part, set()) | BETWEEN_PARTS.get(part, set())
    found = dict(verbs(part))
    assert left_out <= found.keys(), (
        f"{part.__name__} lacks {left_out - found.keys()}: say no more of it here"
    )
    return {name: shape(member) for name, member in found.items() if name not in left_out}


def shape(member: object) -> tuple[str, str]:
    """Return whether it is called or only read, and what it takes and gives."""
    if isinstance(member, property):
        return "property", str(inspect.signature(member.fget)) if member.fget else ""
    assert callable(member)
    return "method", str(inspect.signature(member))


@pytest.mark.parametrize(("twin", "real"), TWINS.items(), ids=lambda each: each.__name__)
def test_a_twin_has_the_verbs_of_the_part_that_it_stands_for(twin: type, real: type) -> None:
    """Whoever takes the real part can be given the twin: nothing is missing, called otherwise, or of its own."""
    assert shapes(twin) == shapes(real)
