"""What one life is like: how long it is, who is in it, and how often each thing goes wrong. A seed draws it.

Rates are drawn anew for every seed, some of them zero and some extreme (swarm testing): faults that hide each other when
all of them happen all the time are met alone.
"""

import datetime as dt
import random
from dataclasses import dataclass, fields

from aggregator.core.customers import Moved
from aggregator.core.model import Decreases, WriteModel
from aggregator.core.sampling import Reads
from aggregator.ledger.identity import Failover

SECOND = dt.timedelta(seconds=1)
MINUTE = dt.timedelta(minutes=1)
HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)


@dataclass(slots=True)
class Conditions:
    """Everything that is drawn for one life. Rates are per call, per event or per transaction."""

    days: int = 4
    begins_after: dt.timedelta = dt.timedelta(0)
    """How much later than others it begins."""
    goes_on_at: dt.datetime | None = None
    """When it goes on after months in which nothing ran; None: it ends before anything is old."""
    notes: int = 0
    """How often a person writes something beside an event of a closed month."""
    window: dt.timedelta = HOUR
    customers: int = 3
    models: int = 0
    """By how many values of a dimension the usage of each customer is kept apart; 0: there is no dimension."""
    meters: int = 1
    daemons: int = 1
    workers: int = 1
    batch: int = 100
    decimals: int = 0
    fractions: bool = False
    """Quantities have parts that are too small to bill."""
    zeros: float = 0.0
    """How many quantities are zero: of seats there may be none, which is to be said."""
    by_cursor: bool = False
    """Rows are read once, and added up in the ledger."""
    astray: float = 0.0
    """Share of rows whose ids follow no order, so that a cursor passes over them and only a recount finds them."""
    mapped: Moved | None = None
    """What becomes of usage whose customer changes, where a list says whose keys are; None: rows name customers."""
    sampled: Reads | None = None
    """How meters are read that are sampled."""
    every: dt.timedelta = HOUR
    """How often they are."""
    asked: dt.timedelta | None = None
    """How much earlier than the mark the source is asked what was touched; None: it is not asked."""
    fully: dt.timedelta = 2 * DAY
    """How often all is read again where it is."""
    at_once: bool = True
    raw: bool = False
    """Rows come one by one instead of summed."""
    names_at: bool = True
    decreases: Decreases = Decreases.APPLY
    write_model: WriteModel = WriteModel.DELTA
    files: bool = False
    """Usage goes out as files."""
    by_hand: bool = False
    """A person uploads the files, and says so; otherwise they are imported by themselves."""
    place_moves: int = 0
    """How often the sink of files changes its place."""
    by_arrival: bool = False
    """Where the last number is billed: the service goes by when it arrives, not by its instant, as it may."""
    revisit: dt.timedelta = 30 * DAY
    delay: dt.timedelta = 5 * MINUTE
    patience: dt.timedelta = HOUR
    """How long a window waits for transactions that are open; zero: not at all."""
    sees_starts: bool = True

    kill: float = 0.0
    pause: float = 0.0
    ledger_down: float = 0.0
    ledger_ack_lost: float = 0.0
    slow_read: float = 0.0
    query_fails: float = 0.0
    empty_read: float = 0.0

    late: float = 0.25
    """Share of transactions that commit late, by up to hours."""
    aborted: float = 0.05
    backdated: float = 0.0
    updates: float = 0.0
    deletes: float = 0.0
    moves: float = 0.0
    poison: float = 0.0
    unmapped: float = 0.0

    lost_before: float = 0.0
    """The request never arrives, and nobody knows."""
    lost_after: float = 0.0
    """It arrives, and the answer does not."""
    delayed: float = 0.0
    """It arrives up to half an hour after it was given up."""
    doubled: float = 0.0
    """It arrives a second time, later."""
    busy: float = 0.0
    black_holes: int = 0
    black_hole: dt.timedelta = 8 * HOUR
    swallows: float = 0.5
    """How much of what goes into a black hole is processed."""
    refuses: int = 0
    """How many customers the sink never takes."""
    vanishes: int = 0
    """How often a customer is unknown for a while."""
    customer_first: bool = False
    """Refuses a customer that it does not know even where it knows the event: the order is documented nowhere."""
    halts: int = 0
    """How often it refuses us as a whole for a while."""
    poller: bool = False
    """Reports are messages that somebody has to ask for, or that are delivered."""
    pending: float = 0.0
    """Share of cancellations that are only taken on, and done a little later."""
    rejects: float = 0.0
    """Share of accepted events that turn out invalid."""
    named: float = 1.0
    """Share of reports that name what was invalid; the others only count it."""
    lag: dt.timedelta = 10 * MINUTE
    """How far the sink's own totals are behind, at most."""
    no_figure: float = 0.0
    """Share of its own totals that it cannot give."""
    person: float = 0.5
    """How likely a person lets parked events go out, each time they look."""
    held_before: bool = False
    """The service holds usage of another ledger when this one begins."""
    hosts: int = 1
    fails_over: bool = False
    """A ledger that is set back is a standby that took over: it lacks the latest commits, and says that it was promoted."""
    failover: Failover = "may_lose"
    """What is declared of a standby that takes over: a lossless one lacks nothing."""
    clock_jumps: int = 0
    """How often the clock of a host jumps by minutes or hours, until it is set right."""
    standbys: int = 0
    """How many standbys answer in place of the application's primary; none: it answers itself."""
    spells: int = 0
    """How often the source shows nothing, part or double of what is there, or refuses, for a while."""
    backfills: int = 0
    renames: int = 0
    """How often a meter gets another name in the configuration."""
    removals: int = 0
    """How often a meter is taken out of it."""
    new_ids: int = 0
    """How often a customer gets another id."""
    restores: int = 0
    """How often the ledger is set back."""

    def trust_the_barrier(self) -> None:
        """Read every window once: what is written before its end is found because the barrier waits, or never."""
        self.revisit = dt.timedelta(0)
        self.patience = 10 * DAY
        self.updates = self.deletes = self.moves = self.backdated = self.poison = self.empty_read = 0.0
        self.query_fails = 0.0
        self.backfills = 0

    def calm(self) -> None:
        """End all faults."""
        for each in fields(self):
            if each.type == "float" or isinstance(getattr(self, each.name), float):
                setattr(self, each.name, 0.0)


def with_restores(conditions: Conditions, random: random.Random) -> Conditions:
    """Draw how often the ledger of a life is set back: mostly never. Dice of their own leave everything else as it was."""
    conditions.restores = random.choice([0] * 9 + [1, 1, 2])
    if conditions.restores:
        # The quiet time of an adoption is longer than a request's way and the sink's lag together.
        conditions.lag = random.choice([min(conditions.lag, HOUR), HOUR])
        conditions.delayed = random.choice([conditions.delayed, 0.3])
    return conditions


def with_last(conditions: Conditions, random: random.Random) -> Conditions:
    """Draw whether a life bills each customer's newest window, as for seats. Nobody adopts there."""
    if random.random() < 0.15:
        newest(conditions).by_arrival = random.random() < 0.5
    return conditions


def newest(conditions: Conditions) -> Conditions:
    """Let a life bill each customer's newest window. Figures of single events prove nothing there."""
    conditions.write_model, conditions.by_arrival, conditions.named, conditions.restores = (
        WriteModel.LAST,
        True,
        1.0,
        0,
    )
    conditions.zeros = 0.4
    return conditions


def with_files(conditions: Conditions, random: random.Random) -> Conditions:
    """Draw whether the usage of a life goes out as files."""
    if random.random() < 0.15 and conditions.write_model is not WriteModel.LAST:
        in_files(conditions)
    return conditions


def in_files(conditions: Conditions) -> Conditions:
    """Let usage go out as files. Nobody answers for single events there."""
    conditions.files, conditions.write_model, conditions.batch = (
        True,
        WriteModel.DELTA,
        max(conditions.batch, 5),
    )
    conditions.restores = conditions.refuses = conditions.vanishes = 0
    conditions.rejects = 0.0
    return conditions


def with_more_files(conditions: Conditions, random: random.Random) -> Conditions:
    """Draw who uploads the files of a life, how often their place changes, and whether the ledger is set back."""
    if conditions.files:
        conditions.by_hand = random.random() < 0.5
        conditions.place_moves = random.choice([0, 0, 1, 2])
        if conditions.place_moves:
            conditions.delayed = random.choice([conditions.delayed, 0.5])
        if random.random() < 0.5:
            restored(conditions)
    return conditions


def in_places(conditions: Conditions) -> Conditions:
    """Let usage go out as files that a person uploads, to a place that changes."""
    in_files(conditions).by_hand, conditions.place_moves = True, 2
    return conditions


def with_cancelling(conditions: Conditions, random: random.Random) -> Conditions:
    """Draw whether decreases of a life are done by taking back what they correct."""
    if random.random() < 0.15 and conditions.write_model is WriteModel.DELTA and not conditions.files:
        cancelling(conditions).pending = random.choice([0.0, 0.5, 1.0])
    return conditions


def cancelling(conditions: Conditions) -> Conditions:
    """Let decreases be done by taking back what they correct. Nobody adopts in these lives."""
    conditions.decreases, conditions.restores, conditions.pending = Decreases.CANCEL, 0, 0.5
    if conditions.revisit:
        conditions.deletes, conditions.updates = max(conditions.deletes, 0.05), max(conditions.updates, 0.1)
    return conditions


def with_intake(conditions: Conditions, random: random.Random) -> Conditions:
    """Draw whether reports of a life are messages. Nobody adopts in these lives."""
    if random.random() < 0.2 and not conditions.files and not conditions.restores:
        hearing(conditions)
    return conditions


def hearing(conditions: Conditions) -> Conditions:
    """Let reports be messages, and some of them be about something."""
    conditions.poller, conditions.restores, conditions.rejects = True, 0, max(conditions.rejects, 0.02)
    return conditions


def with_spells(conditions: Conditions, random: random.Random) -> Conditions:
    """Draw how often the source of a life shows something else than what is there. Only what is read again is put right."""
    if conditions.revisit:
        conditions.spells = random.choice([0] * 7 + [1, 2, 4])
    return conditions


def with_usage_held(conditions: Conditions, random: random.Random) -> Conditions:
    """Draw whether the service holds usage of another ledger when that of this life begins."""
    if random.random() < 0.15 and conditions.write_model is WriteModel.DELTA and not conditions.files:
        holding(conditions)
    return conditions


def holding(conditions: Conditions) -> Conditions:
    """Let the service hold usage beforehand. Whoever is first asked about is read at once there: nothing hides anybody."""
    conditions.held_before, conditions.restores, conditions.spells = True, 0, 0
    conditions.lag = min(conditions.lag, HOUR)
    conditions.days = max(conditions.days, 3)
    return conditions


def with_standbys(conditions: Conditions, random: random.Random) -> Conditions:
    """Draw whether standbys answer for the source of a life. Nobody adopts in these lives."""
    if random.random() < 0.2 and not conditions.restores and not conditions.held_before:
        behind(conditions).standbys = random.choice([1, 2, 2, 3])
    return conditions


def behind(conditions: Conditions) -> Conditions:
    """Let two standbys take turns in answering for the source."""
    conditions.standbys, conditions.restores, conditions.held_before = 2, 0, False
    return conditions


def with_hosts(conditions: Conditions, random: random.Random) -> Conditions:
    """Draw on how many hosts the processes of a life run, and what their clocks do."""
    if random.random() < 0.35:
        conditions.clock_jumps = random.choice([1, 2, 5])
        conditions.hosts = random.choice([1, 2, 3])
    return conditions


def with_failovers(conditions: Conditions, random: random.Random) -> Conditions:
    """Draw whether a ledger that is set back is one that failed over, and whether its server says so.

    Where it does not, nobody but the host that sent last can know; so nobody else sends in these lives.
    """
    if conditions.restores:
        conditions.fails_over = conditions.hosts > 1 or random.random() < 0.4
    elif random.random() < 0.1 and conditions.write_model is not WriteModel.LAST and not conditions.files:
        failing_over(conditions)
    return conditions


def failing_over(conditions: Conditions) -> Conditions:
    """Let the ledger of several hosts fail over."""
    restored(conditions).fails_over = True
    conditions.held_before, conditions.hosts, conditions.daemons = False, max(conditions.hosts, 2), 2
    return conditions


def with_declarations(conditions: Conditions, random: random.Random) -> Conditions:
    """Draw what is declared of a ledger that fails over. That there is one host is often true, and believed only then."""
    if conditions.fails_over:
        conditions.failover = random.choice(["may_lose", "may_lose", "lossless", "one_host", "one_host"])
        if conditions.failover == "one_host" and random.random() < 0.4:
            conditions.hosts = 1
        if conditions.failover == "lossless":
            conditions.restores = 2
    return conditions


def with_more_restores(conditions: Conditions, random: random.Random) -> Conditions:
    """Draw whether the ledger of a life with messages or cancellations is set back, too."""
    special = conditions.poller or conditions.decreases is Decreases.CANCEL
    if special and random.random() < 0.35 and conditions.write_model is not WriteModel.LAST:
        restored(conditions)
    return conditions


def restored(conditions: Conditions) -> Conditions:
    """Let the ledger be set back; an adoption waits longer than a request's way and the sink's lag take together."""
    conditions.restores, conditions.lag = 1, min(conditions.lag, HOUR)
    return conditions


def with_new_ids(conditions: Conditions, random: random.Random) -> Conditions:
    """Draw whether customers of a life get another id. Nobody adopts in these lives."""
    if random.random() < 0.15 and conditions.revisit:
        changing_ids(conditions, random).new_ids = random.choice([1, 1, 2, 3])
    return conditions


def changing_ids(conditions: Conditions, random: random.Random) -> Conditions:
    """Let a customer get another id, mostly where decreases are held."""
    conditions.new_ids, conditions.restores, conditions.held_before = 1, 0, False
    conditions.customers = max(conditions.customers, 2)
    if conditions.decreases is Decreases.APPLY and random.random() < 0.8:
        conditions.decreases = Decreases.HOLD
    return conditions


def with_renames(conditions: Conditions, random: random.Random) -> Conditions:
    """Draw how often meters of a life get another name."""
    conditions.renames = random.choice(
        [0] * (2 if conditions.files and not conditions.restores else 7) + [1, 2]
    )
    simple = not (conditions.files or conditions.restores or conditions.held_before)
    if conditions.renames and simple and conditions.write_model is WriteModel.DELTA and random.random() < 0.5:
        # One daemon still has the former name when it hears how many were rejected.
        conditions.daemons, conditions.named, conditions.rejects = max(conditions.daemons, 2), 0.0, 0.1
    return conditions


def with_former_names(conditions: Conditions, random: random.Random) -> Conditions:
    """Draw whether meters are renamed often while much is rejected that is only counted, with one of two daemons behind."""
    simple = not (conditions.files or conditions.restores or conditions.held_before or conditions.removals)
    if random.random() < 0.06 and simple and conditions.write_model is WriteModel.DELTA:
        under_former_names(conditions)
    return conditions


def under_former_names(conditions: Conditions) -> Conditions:
    """Let reports that name no event come in while a daemon still has a meter's former name."""
    conditions.renames, conditions.daemons = 3, 2
    conditions.named, conditions.rejects = 0.0, 0.2
    return conditions


def with_rejections(conditions: Conditions, random: random.Random) -> Conditions:
    """Draw whether many events are rejected later, each by name, where corrections that lower a bill are held."""
    chance = {WriteModel.DELTA: 0.08, WriteModel.LAST: 0.5}.get(conditions.write_model, 0.0)
    fits = conditions.revisit and conditions.decreases is not Decreases.CANCEL
    fits = fits and not (conditions.files or conditions.restores)
    if random.random() < chance and fits:
        conditions.decreases, conditions.named, conditions.rejects = Decreases.HOLD, 1.0, 0.15
        conditions.updates, conditions.deletes = max(conditions.updates, 0.1), max(conditions.deletes, 0.1)
    return conditions


def with_removals(conditions: Conditions, random: random.Random) -> Conditions:
    """Draw how often meters of a life are removed. Nothing else waits for a meter in these lives, and nobody adopts."""
    waits = (
        conditions.files
        or conditions.decreases is Decreases.CANCEL
        or conditions.write_model is WriteModel.LAST
    )
    if random.random() < 0.15 and not waits:
        removing(conditions).removals = random.choice([1, 1, 2])
    return conditions


def removing(conditions: Conditions) -> Conditions:
    """Let one of two meters be removed."""
    conditions.removals, conditions.restores, conditions.held_before, conditions.meters = 1, 0, False, 2
    conditions.named = 1.0  # what a report of a removed meter only counts is looked for by nobody
    return conditions


def with_order(conditions: Conditions, random: random.Random) -> Conditions:
    """Draw what the service looks at first; in some lives customers are often unknown to it, and answers lost."""
    conditions.customer_first = random.random() < 0.5
    if random.random() < 0.06 and not conditions.files:
        vanishing(conditions)
    return conditions


def vanishing(conditions: Conditions) -> Conditions:
    """Let customers be unknown to the service again and again, also after it took an event whose answer is lost."""
    conditions.customer_first, conditions.vanishes = True, 6
    conditions.lost_after = max(conditions.lost_after, 0.3)
    return conditions


def with_sleep(conditions: Conditions, random: random.Random) -> Conditions:
    """Draw whether the one process of a life often stands still, with large claims of which answers are lost."""
    plain = conditions.write_model is WriteModel.DELTA and not conditions.files and not conditions.restores
    if random.random() < 0.06 and plain and conditions.hosts == 1:
        sleeping(conditions)
    return conditions


def sleeping(conditions: Conditions) -> Conditions:
    """Let the only process stand still for long, in the middle of what it sends."""
    conditions.daemons = conditions.workers = 1
    conditions.batch, conditions.kill = 100, 0.0
    conditions.pause, conditions.lost_after = 0.02, max(conditions.lost_after, 0.4)
    return conditions


def with_dimensions(conditions: Conditions, random: random.Random) -> Conditions:
    """Draw whether usage of a life is kept apart by a dimension. Nobody adopts, or gets another id, in these lives.

    Which of two events in one minute was taken back no figure shows: nothing is cancelled either.
    """
    fits = conditions.write_model is WriteModel.DELTA and not conditions.files and not conditions.restores
    fits = fits and conditions.decreases is not Decreases.CANCEL
    if random.random() < 0.2 and fits and not conditions.new_ids and not conditions.held_before:
        keeping_apart(conditions)
    return conditions


def keeping_apart(conditions: Conditions) -> Conditions:
    """Let usage be kept apart by three values of a dimension, in fractions."""
    conditions.models, conditions.customers, conditions.fractions = 3, min(conditions.customers, 2), True
    conditions.write_model = WriteModel.DELTA
    if conditions.decreases is Decreases.CANCEL:
        conditions.decreases = Decreases.APPLY
    return conditions


def short(random: random.Random) -> Conditions:
    """Draw a life with few steps: for a ledger that takes its time."""
    conditions = draw(random)
    conditions.days, conditions.meters, conditions.workers, conditions.customers = (
        2,
        1,
        1,
        min(conditions.customers, 2),
    )
    conditions.window = max(conditions.window, 6 * HOUR)
    conditions.batch = max(conditions.batch, 5)
    conditions.black_holes = min(conditions.black_holes, 1)
    return conditions


def draw(random: random.Random) -> Conditions:
    """Draw a life."""
    choice, chance = random.choice, random.random

    def rate(most: float, never: float = 0.4, extreme: float = 0.1) -> float:
        """Draw a rate: often zero, seldom extreme."""
        dice = chance()
        return 0.0 if dice < never else most * 4 if dice > 1 - extreme else most * chance()

    window = choice([HOUR, HOUR, 3 * HOUR, 6 * HOUR, DAY])
    fractions = chance() < 0.3
    conditions = Conditions(
        days=choice([2, 3, 4, 6]),
        window=window,
        customers=choice([1, 2, 3, 4]),
        meters=choice([1, 1, 1, 2]),
        daemons=choice([1, 2, 2]),
        workers=choice([1, 1, 2]),
        batch=choice([1, 5, 100]),
        decimals=choice([0, 0, 2]),
        fractions=fractions,
        at_once=chance() < 0.8,
        raw=chance() < 0.3,
        names_at=chance() < 0.7,
        decreases=choice([Decreases.APPLY, Decreases.HOLD]),
        write_model=choice([WriteModel.DELTA] * 4 + [WriteModel.OVERWRITE]),
        sees_starts=chance() < 0.5,
        kill=rate(0.01),
        pause=rate(0.004),
        ledger_down=rate(0.02),
        ledger_ack_lost=rate(0.02),
        slow_read=rate(0.1),
        query_fails=rate(0.05),
        empty_read=rate(0.01, never=0.6),
        late=choice([0.0, 0.25, 0.25, 0.6]),
        aborted=rate(0.1),
        backdated=rate(0.05),
        updates=rate(0.1),
        deletes=rate(0.05),
        moves=rate(0.03),
        poison=rate(0.01, never=0.6),
        unmapped=rate(0.03),
        lost_before=rate(0.1),
        lost_after=rate(0.1),
        delayed=rate(0.1),
        doubled=rate(0.05),
        busy=rate(0.1),
        black_holes=choice([0, 0, 1, 2]),
        black_hole=choice([HOUR, 8 * HOUR, 30 * HOUR]),
        swallows=choice([0.0, 0.5, 1.0]),
        refuses=choice([0, 0, 0, 1]),
        vanishes=choice([0, 0, 1, 3]),
        halts=choice([0, 0, 1]),
        rejects=rate(0.02),
        named=choice([1.0, 0.5, 0.0]),
        lag=choice([0 * MINUTE, 10 * MINUTE, 2 * HOUR]),
        no_figure=rate(0.1),
        person=choice([0.0, 0.5, 1.0]),
        backfills=choice([0, 0, 1, 3]),
        patience=choice([0 * HOUR, HOUR, 4 * HOUR]),
    )
    if conditions.write_model is WriteModel.OVERWRITE:
        conditions.named = 1.0  # where totals are overwritten, a figure tells nothing about single events
    if chance() < 0.12:
        conditions.trust_the_barrier()
    return conditions


def drawn(seed: int, random_of_life: random.Random, restores: random.Random) -> Conditions:
    """Draw the life of a seed; each kind of life has dice of its own, so that it leaves the others as they were."""
    conditions = with_restores(draw(random_of_life), restores)
    for name, kind in (
        ("last", with_last),
        ("files", with_files),
        ("cancelling", with_cancelling),
        ("intake", with_intake),
        ("spells", with_spells),
        ("restores", with_more_restores),
        ("beforehand", with_usage_held),
        ("places", with_more_files),
        ("hosts", with_hosts),
        ("failovers", with_failovers),
        ("standbys", with_standbys),
        ("declarations", with_declarations),
        ("new ids", with_new_ids),
        ("renames", with_renames),
        ("removals", with_removals),
        ("rejections", with_rejections),
        ("former names", with_former_names),
        ("order", with_order),
        ("sleep", with_sleep),
        ("dimensions", with_dimensions),
    ):
        kind(conditions, random.Random(f"{seed}: {name}"))
    return conditions
