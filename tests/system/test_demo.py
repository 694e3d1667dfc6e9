"""The demo: it ends by itself with a proof, it leaves nothing behind however it ends, and it can say no."""

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from aggregator.config import load
from aggregator.core.model import Span
from aggregator.demo.live import LEAST_SECONDS, closing_time
from aggregator.demo.processes import fresh
from aggregator.demo.proof import Proof, compare, summed
from aggregator.demo.scenes import configuration, exit_code
from aggregator.demo.story import number, shortened
from aggregator.errors import UsageError
from aggregator.ledger.reports import Total
from tests.system.harness import Process, until

NOON = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)
SPAN = Span(NOON - dt.timedelta(days=1), NOON)
CUSTOMER = "cus_Q4mT7xZbLr29Kd"

DEMO_SECONDS = 500.0


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where a demo that is started in `tmp_path` keeps its things."""
    return tmp_path / ".aggregator" / "demo"


@pytest.fixture
def demo(tmp_path: Path, place: Path) -> Iterator[Process]:
    """A demo in its own directory, with as short a live part as there can be; whatever it leaves is cleared away."""
    process = Process("aggregator", ["demo", "--seconds", "1"], tmp_path, "demo")
    yield process
    process.clear_away()
    with fresh(place):
        pass


def left_running(place: Path) -> list[str]:
    """Return which of a demo's processes run."""
    running = [path.stem for path in place.glob("*.pid") if alive(int(path.read_text()))]
    return running + ["postgres"] * (place / "postgres" / "postmaster.pid").exists()


def alive(pid: int) -> bool:
    """Tell whether a process runs. One that has ended and whom nobody has asked how, as in a container, does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def backfilling(demo: Process, place: Path) -> None:
    """Wait until a demo has all its servers up, and has begun its first command."""
    noted = place / "backfill.pid"
    until(
        lambda: noted.exists() and noted.read_text() != "",
        "the demo backfills",
        seen=lambda: demo.out + demo.err,
    )


def test_it_ends_by_itself_with_all_three_in_agreement(demo: Process, place: Path) -> None:
    """A backfill, rows that arrive, a late transaction, a stop by signal, the proof; then nothing runs any more."""
    code = demo.ended(DEMO_SECONDS)
    logged = (place / "run.log").read_text()[-4000:] if (place / "run.log").exists() else ""
    assert code == 0, demo.out + demo.err + logged

    assert "source = ledger = sandbox for 23 customers and 2 meters: yes" in demo.out
    assert "ended by SIGTERM" in demo.out
    assert "a transaction of" in demo.out
    assert "Kestrel Robotics has no Stripe customer yet" in demo.out
    assert "DIFFERS" not in demo.out
    assert "Traceback" not in demo.out + demo.err
    assert "\x1b" not in demo.out, "nobody watches, so nothing is coloured or moves"
    assert left_running(place) == []


def test_interrupted_it_leaves_nothing_running(demo: Process, place: Path) -> None:
    """Ctrl-C in the middle ends every process of it."""
    backfilling(demo, place)
    assert set(left_running(place)) >= {"sandbox", "postgres"}

    demo.stop(2)

    assert demo.code == 130
    assert "Traceback" not in demo.err
    assert left_running(place) == []


def test_the_next_demo_clears_away_what_a_killed_one_left(demo: Process, place: Path) -> None:
    """A kill leaves servers running; whoever takes the directory next ends them, and nothing else."""
    backfilling(demo, place)
    demo.kill()
    assert set(left_running(place)) >= {"sandbox", "postgres"}
    pid = int(until((place / "sandbox.pid").read_text, "the sandbox's pid is on file"))

    with fresh(place):
        assert [path.name for path in place.iterdir()] == ["demo.lock"]

    until(lambda: not alive(pid), "what the killed one left has ended")


def test_two_demos_do_not_share_a_directory(tmp_path: Path) -> None:
    """The second is told of the first, which goes on."""
    with (
        fresh(tmp_path / "demo"),
        pytest.raises(UsageError, match="Another demo runs"),
        fresh(tmp_path / "demo"),
    ):
        pass


def test_only_a_directory_of_a_demo_is_emptied(tmp_path: Path) -> None:
    """Somebody's files are never removed."""
    treasure = tmp_path / "treasure"
    treasure.write_text("kept")

    with pytest.raises(UsageError, match="something else than a demo"), fresh(tmp_path):
        pass

    assert treasure.read_text() == "kept"


def proof(
    *,
    source: str = "12.3456",
    ledger: str = "12.3456",
    billed: str = "12.345",
    sandbox: str = "12.345",
    unmapped: tuple[str, str] = ("7", "7"),
) -> Proof:
    """A proof about one customer of a meter with three decimals; what is not given agrees."""
    booked = Total(CUSTOMER, Decimal(ledger), Decimal(billed), Decimal(0))
    lines = compare(3, {CUSTOMER: Decimal(source)}, {CUSTOMER: booked}, {CUSTOMER: Decimal(sandbox)})
    return Proof("stored_gb", SPAN, lines, (Decimal(unmapped[0]), Decimal(unmapped[1])))


def test_the_floor_is_billed_and_the_rest_is_carried() -> None:
    """What is smaller than the last decimal is no difference, and is shown."""
    agreed = proof()

    assert agreed.holds
    assert agreed.whole.carried == Decimal("0.0006")
    assert exit_code([agreed], "SIGTERM") == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"source": "12.3457"},
        {"source": "12.3455"},
        {"source": "12.3466"},
        {"ledger": "12.3457"},
        {"ledger": "12.3455"},
        {"billed": "12.346"},
        {"billed": "12.344"},
        {"sandbox": "12.346"},
        {"sandbox": "12.344"},
        {"sandbox": "0"},
        {"billed": "12.344", "sandbox": "12.344"},
        {"billed": "12.346", "sandbox": "12.346"},
        {"unmapped": ("7", "6")},
        {"unmapped": ("7", "8")},
    ],
    ids=str,
)
def test_one_unit_off_anywhere_fails_it(wrong: dict[str, str]) -> None:
    """Too much and too little, wherever it stands, end the demo with 1."""
    differing = proof(**wrong)  # type: ignore[arg-type]

    assert not differing.holds
    assert exit_code([proof(), differing], "SIGTERM") == 1


def test_a_daemon_that_does_not_end_by_its_signal_fails_it() -> None:
    """A daemon that had to be killed, or died of something else, is no success."""
    assert exit_code([proof()], "SIGKILL") == 1
    assert exit_code([proof()], "exit code 0") == 1


def test_nothing_proved_is_not_a_proof() -> None:
    """No meters, or no customers, is a failure of the demo and no agreement."""
    assert exit_code([], "SIGTERM") == 1
    assert not Proof("stored_gb", SPAN, [], (Decimal(0), Decimal(0))).holds


@pytest.mark.parametrize("only", ["source", "ledger", "sandbox"])
def test_a_customer_that_only_one_knows_is_a_difference(only: str) -> None:
    """Whoever is known to one of the three is asked about at all three."""
    one = Decimal(1)
    lines = compare(
        0,
        {CUSTOMER: one} if only == "source" else {},
        {CUSTOMER: Total(CUSTOMER, one, one, Decimal(0))} if only == "ledger" else {},
        {CUSTOMER: one} if only == "sandbox" else {},
    )

    assert [(line.name, line.equal) for line in lines] == [("Alder & Finch Logistics", False)]


def test_differences_that_cancel_each_other_are_differences() -> None:
    """One too many here and one too few there give the right total, and are still wrong."""
    source = {"cus_a": Decimal(5), "cus_b": Decimal(5)}
    ledger = {who: Total(who, much, much, Decimal(0)) for who, much in source.items()}
    lines = compare(0, source, ledger, {"cus_a": Decimal(6), "cus_b": Decimal(4)})

    whole = summed("both", lines)

    assert whole.source == whole.sandbox
    assert not whole.equal


def test_a_customer_that_differs_is_always_shown() -> None:
    """However small it is; those that agree may be summed up."""
    source = {f"cus_{number:02}": Decimal(100 - number) for number in range(20)}
    ledger = {who: Total(who, much, much, Decimal(0)) for who, much in source.items()}
    lines = compare(0, source, ledger, {**source, "cus_19": Decimal(1)})

    shown = list(shortened(lines))

    assert [line.name for line in shown] == [
        *(f"cus_{number:02}" for number in range(5)),
        "cus_19",
        "14 more",
    ]
    assert [line.equal for line in shown] == [True] * 5 + [False, True]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("1234567", "1,234,567"),
        ("25.340", "25.34"),
        ("1200", "1,200"),
        ("0.000", "0"),
        ("0.00000001", "0.00000001"),
    ],
)
def test_numbers_are_written_in_full(value: str, written: str) -> None:
    """No digit is rounded away, and none is added."""
    assert number(Decimal(value)) == written


def test_rows_stop_with_the_minute_that_ends_nearest_to_the_time_asked_for() -> None:
    """A window can only be proved when it is over, so the live part is half a minute longer or shorter."""
    for second in range(60):
        now = NOON + dt.timedelta(seconds=second, milliseconds=1)
        for asked in (1, 20, 40, 90):
            end = closing_time(now, asked)
            assert end.second == end.microsecond == 0
            length = (end - now).total_seconds()
            assert length >= LEAST_SECONDS
            assert abs(length - asked) <= 30 or length <= LEAST_SECONDS + 60


def test_the_configuration_it_writes_is_valid(tmp_path: Path) -> None:
    """The file the user is invited to open is one that `aggregator check` accepts, and nothing in it is left to fill in."""
    path = tmp_path / "aggregator.yaml"
    path.write_text(configuration("postgresql://postgres@/product", "http://127.0.0.1:1", NOON))

    config = load(path, {})

    assert sorted(config.meters) == ["api_requests", "stored_gb"]
    assert config.meters["stored_gb"].decimals == 3
    assert config.meters["api_requests"].start_at == NOON
