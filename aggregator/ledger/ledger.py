"""The ledger as a whole: its parts, each with the verbs about one thing, made once for one process.

Whoever needs one part takes that part; commands, the wiring and an adoption take the whole.
"""

import datetime as dt
import uuid

from aggregator.ledger.adoption import Adopting
from aggregator.ledger.applying import Applying
from aggregator.ledger.archived import Archived
from aggregator.ledger.archives import Archives
from aggregator.ledger.configurations import Configurations
from aggregator.ledger.customers import Customers
from aggregator.ledger.cutovers import Cutovers
from aggregator.ledger.database import Database, ledger_id_of
from aggregator.ledger.drift import DriftReport
from aggregator.ledger.facts import Facts
from aggregator.ledger.figures import Figures
from aggregator.ledger.history import Records
from aggregator.ledger.identity import Failover, LedgerIdentity
from aggregator.ledger.meters import Meters
from aggregator.ledger.notifications import Notifications, Origins
from aggregator.ledger.outbox.files import Files
from aggregator.ledger.outbox.first_use import FirstUses
from aggregator.ledger.outbox.moved_files import Places
from aggregator.ledger.outbox.outbox import Outbox
from aggregator.ledger.outbox.rate_shares import RateShares
from aggregator.ledger.outbox.uploads import Uploads
from aggregator.ledger.parity import PlannedUsage
from aggregator.ledger.passes.passes import Passes
from aggregator.ledger.passes.running_totals import RunningTotals
from aggregator.ledger.reads import Reads
from aggregator.ledger.reports import Reports
from aggregator.ledger.review.cancellations import Cancellations
from aggregator.ledger.review.checks import Checks
from aggregator.ledger.review.decisions import Decisions
from aggregator.ledger.review.in_doubt import InDoubt
from aggregator.ledger.review.parked import ParkedEvents
from aggregator.ledger.review.repairs import Repairs
from aggregator.ledger.samples import Samples
from aggregator.ledger.usage import UsageReport
from aggregator.ledger.usage_days import UsageDays
from aggregator.ledger.usage_windows import UsageWindows
from aggregator.runtime.claim_counter import ClaimCounter
from aggregator.runtime.clock import monotonic


class Ledger:
    """A ledger that is open. Raises LedgerOutdated if its schema is not the one that this version works with.

    A meter is held for `lease`, a claim's events may leave within `leave`, and their answers have `answer` more; a file is
    its owner's for `hold` without a sign of life.
    """

    def __init__(
        self,
        database: Database,
        counter: ClaimCounter,
        failover: Failover,
        *,
        lease: dt.timedelta,
        leave: dt.timedelta,
        answer: dt.timedelta,
        hold: dt.timedelta,
    ) -> None:
        who = uuid.uuid4()
        self.id = str(ledger_id_of(database).ledger_id)
        self.database = database
        self.identity = LedgerIdentity(database, counter, failover)
        self.meters = Meters(database, who, lease)
        self.customers = Customers(database)
        self.cutovers = Cutovers(database)
        self.passes = Passes(database, lease, monotonic, self.identity)
        self.running_totals = RunningTotals(database, self.identity)
        self.samples = Samples(database, self.identity)
        self.outbox = Outbox(database, who, leave, answer, self.identity)
        self.rate_shares = RateShares(database, who)
        self.first_uses = FirstUses(database)
        self.files = Files(database, who, hold, self.identity)
        self.uploads = Uploads(database)
        self.places = Places(database)
        self.parked = ParkedEvents(database)
        self.decisions = Decisions(database)
        self.in_doubt = InDoubt(database)
        self.cancellations = Cancellations(database)
        self.notifications = Notifications(database)
        self.origins = Origins(database)
        self.adoption = Adopting(database)
        self.archives = Archives(database, self.identity)
        self.archived = Archived()
        self.parity = PlannedUsage(database, self.archived)
        self.configurations = Configurations(database)
        self.applying = Applying(database)
        self.reports = Reports(database)
        self.usage = UsageReport(database, self.archived)
        self.records = Records(database)
        self.figures = Figures(database)
        self.drift = DriftReport(database, self.archived)
        self.reads = Reads(database)
        self.checks = Checks(database)
        self.repairs = Repairs(database)
        self.usage_days = UsageDays(database)
        self.usage_windows = UsageWindows(database)
        self.facts = Facts(database, self.archived)

    def now(self) -> dt.datetime:
        """Return the present instant by the ledger's clock. Raises ClocksApart while this host's differs."""
        return self.database.now()

    def instant(self) -> dt.datetime:
        """Return the same, whatever this host's clock shows: for whoever only looks, or settles what is in the air."""
        return self.database.instant()

    def clocks_differ(self) -> bool:
        """Tell whether this host's clock and the ledger's differ too much, as they were last heard; it asks nobody."""
        clock = self.database.clock
        return clock is not None and clock.apart() is not None
