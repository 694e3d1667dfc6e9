"""Usage as files, with real processes: whatever kills one, each use lies in a file once."""

import datetime as dt
import io
import json
import re
import signal
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from aggregator.cli import cli
from aggregator.core.windows import floor
from aggregator.runtime.clock import utcnow
from aggregator.runtime.failpoints import FILE_POINTS, POINTS, VARIABLE
from tests.file_validator import Found, validate
from tests.object_store import KEY_ID, REGION, SECRET, Store
from tests.system.harness import COMMAND_SECONDS, METER, MINUTE, World, until

KILLED = -9
DAY = dt.timedelta(days=1)
AT_POINTS = [*tuple(POINTS)[tuple(POINTS).index("claim_written") :], *FILE_POINTS]
NOT_PASSED = {"event_leaving", "answer_unread", "answer_read", "part_uploaded"}
"""What only events that are sent one by one pass, and what only large objects do."""

KILLS = [
    *(("csv", name) for name in AT_POINTS if name not in NOT_PASSED),
    *(("s3", name) for name in ("file_made", "file_published", "settle_written")),
]

LET_GO = "update aggregator.file set held_until = now() where written_at is null returning claim_id"
"""As if the time of who was killed were over: nobody wants to wait for a minute in each test."""


def writes_csv(world: World, **more: object) -> Path:
    """Let the meter feed a sink of type csv alone; return its directory."""
    world.config["sinks"] = {"upload": {"type": "csv", "directory": "upload", **more}}
    world.meter["sinks"] = ["upload"]
    return world.directory / "upload"


def writes_objects(world: World, store: Store, **more: object) -> None:
    """Let the meter feed a bucket alone."""
    world.config["sinks"] = {
        "bucket": {
            "type": "s3",
            "bucket": store.bucket,
            "prefix": "usage/",
            "region": REGION,
            "endpoint_url": store.url,
            "access_key_id": KEY_ID,
            "secret_access_key": SECRET,
            "close_after": "1s",
            **more,
        }
    }
    world.meter["sinks"] = ["bucket"]


def in_directory(directory: Path, **how: Any) -> Found:
    """Validate what lies in a directory; nothing hidden may lie there."""
    files = [(path.name, io.BytesIO(path.read_bytes())) for path in directory.iterdir()]
    return validate(files, **how)


def in_store(store: Store) -> Found:
    """Validate what lies in a bucket."""
    return validate((key, io.BytesIO(content)) for key, (content, _) in store.objects().items())


def by_customer(found: Found) -> Mapping[str, Decimal]:
    """Return what each customer is billed by files."""
    return {customer: much for (_, customer), much in found.totals.items()}


DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["csv", "s3"])
def test_the_configuration_that_is_shown_writes_files(world: World, store: Store, page: str) -> None:
    """The whole configuration of each page runs as it is: only dates, and where things are, are the test's own."""
    start = floor(utcnow(), DAY) - 3 * DAY
    shown = re.findall(r"^```yaml\n(.*?)^```", (DOCS / f"{page}.md").read_text(), re.MULTILINE | re.DOTALL)[0]
    shown = shown.replace("2026-11-01T00:00Z", f"{start:%Y-%m-%dT%H:%MZ}").replace("acme-usage", store.bucket)
    (world.directory / "aggregator.yaml").write_text(shown)
    world.source("create table api_request (customer_id text, created_at timestamptz)")
    world.source(
        "insert into api_request select 'cus_' || n %% 3, %s from generate_series(1, 7) as n", start + DAY / 2
    )
    ran = world.run(
        "run",
        "--once",
        APP_DATABASE_URL=world.source_url,
        LEDGER_URL=world.ledger_url or "",
        AWS_ENDPOINT_URL_S3=store.url,
        AWS_ACCESS_KEY_ID=KEY_ID,
        AWS_SECRET_ACCESS_KEY=SECRET,
    )
    assert ran.code == 0, ran.said
    found = in_store(store) if page == "s3" else in_directory(world.directory / "upload", dashboard=True)
    assert by_customer(found) == {"cus_0": 2, "cus_1": 3, "cus_2": 2}


@pytest.mark.parametrize(("kind", "point"), KILLS)
def test_a_kill_leaves_one_file(world: World, store: Store, kind: str, point: str) -> None:
    """Killed with SIGKILL wherever something is remembered: the next run leaves every use in a file, once."""
    world.use_much(20, 3)
    directory = writes_csv(world)
    if kind == "s3":
        writes_objects(world, store)
    world.write()
    killed = world.start_process("run", "--once", **{VARIABLE: point})
    assert killed.ended(COMMAND_SECONDS) == KILLED, killed.err
    for number in range(5):
        world.use(f"cus_{number}", 3, 7)
    world.ledger(LET_GO)
    ran = world.once()
    assert ran.code == 0, ran.said
    found = in_store(store) if kind == "s3" else in_directory(directory, dashboard=True)
    assert by_customer(found) == world.used()
    assert found.records == world.one("select count(*) from aggregator.event where state = 'accepted'")
    assert found.files == world.one("select count(*) from aggregator.file where written_at is not null")
    assert world.waiting() == 0
    assert store.uploads() == []


def assert_told(world: World) -> None:
    """Assert that whoever looks, or writes, is told what was begun elsewhere."""
    for command in (
        ("check",),
        ("status",),
        ("files", "list"),
        ("backfill", "--from", f"{world.start:%Y-%m-%dT%H:%MZ}"),
        ("export", "csv", METER, "--from", f"{world.start:%Y-%m-%d}", "--to", "2100-01-01"),
    ):
        ran = world.run(*command)
        assert "files move upload --from" in " ".join(ran.said.split()), command
    assert world.run("status", "--json").json["begun_elsewhere"][0]["events"] == 6


LONG_AGO = "update aggregator.file set held_until = now() - interval '2 hours' where written_at is null"


@pytest.mark.parametrize("lies_there", [False, True])
def test_a_directory_that_is_changed_while_a_file_is_open(world: World, *, lies_there: bool) -> None:
    """Killed, and then told to write elsewhere: everyone is told at once, and in the end each use lies in one file."""
    world.use_much(3, 2)
    old = writes_csv(world)
    world.write()
    point = "file_published" if lies_there else "file_made"
    killed = world.start_process("run", "--once", **{VARIABLE: point})
    assert killed.ended(COMMAND_SECONDS) == KILLED, killed.err
    new = writes_csv(world, directory="elsewhere").parent / "elsewhere"
    world.use("cus_1", 5, 4)

    world.write()
    once = world.start_process("run", "--once", "--json")
    assert once.ended(COMMAND_SECONDS) == 4, "a person is needed"
    said = once.logged("files_moved", sink="upload", begun_in=str(old), place=str(new), files=1, events=6)
    move = ("files", "move", "upload", "--from", str(old))
    assert f"`aggregator {' '.join(move)}`" in said["reason"]
    assert by_customer(in_directory(new, dashboard=True)) == {"cus_1": 5}, "the rest goes on"
    daemon = world.daemon()
    daemon.logged("files_moved", sink="upload")
    assert daemon.stop() == -15
    if not lies_there:
        assert_told(world)

    if lies_there:
        world.ledger(LONG_AGO)
        told = world.run(*move)
        assert (told.code, "Nothing was moved: usage-0" in told.err) == (2, True), told.said
        writes_csv(world)
    else:
        told = world.run(*move)
        assert (told.code, "may still be writing" in told.err) == (2, True), told.said
        world.ledger(LONG_AGO)
        assert world.run(*move, "--reason", "looked there", "--json").json == {"files": 1, "events": 6}
        decided = "select verb, reason, cardinality(events) from aggregator.decision where who <> ''"
        assert world.ledger(decided) == [("move", "looked there", 6)]
        assert world.run(*move).code == 2
    assert world.run("files", "move", "nobody", "--from", str(old)).code == 2
    ran = world.once()
    assert ran.code == 0, ran.said
    files = [path for place in (old, new) if place.exists() for path in place.glob("usage-*")]
    found = validate([(path.name, io.BytesIO(path.read_bytes())) for path in files], dashboard=True)
    assert by_customer(found) == world.used()
    assert len(list(old.glob("usage-*"))) == lies_there
    assert world.waiting() == 0


def test_a_place_that_is_changed_by_a_reload_is_said(world: World) -> None:
    """SIGHUP, too, says what the new place leaves behind; where a sink writes now, nothing is moved."""
    world.use_much(3, 2)
    old = writes_csv(world)
    world.write()
    killed = world.start_process("run", "--once", **{VARIABLE: "file_made"})
    assert killed.ended(COMMAND_SECONDS) == KILLED, killed.err
    daemon = world.daemon()
    told = world.run("files", "move", "upload", "--from", str(old))
    assert (told.code, "is finished by itself" in told.err) == (2, True), told.said
    assert daemon.log("files_moved") == []
    world.ledger("update aggregator.file set held_until = '2100-01-01'")
    writes_csv(world, directory="elsewhere")
    world.write()
    daemon.tell(signal.SIGHUP)
    assert daemon.logged("files_moved")["begun_in"] == str(old)
    assert daemon.stop() == -15


def test_a_file_of_which_nothing_was_taken_is_billed_anew(
    world: World, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rejected and released by its name, and by rows of it: new files hold it, under new identifiers, and only once."""
    world.use_much(3, 2)
    writes_objects(world, store)
    assert world.once().code == 0
    [key] = store.objects()
    name = key.rpartition("/")[2]
    reject = ("files", "reject", key, "--reason", "no mandatory columns")
    ran = world.run(*reject)
    assert ran.code == 0, ran.said
    assert f"{name} rejected: 6 events refused" in ran.out
    assert "was rejected at" in world.run(*reject).out
    assert world.run(*reject, "--json").json["events"] == 0
    assert "rejected" in world.run("files", "list").out
    assert world.run("files", "confirm", name).code == 2
    listed = world.run("events", "list", "--file", name, "--json").json["events"]
    assert {each["decision"]["verb"] for each in listed} == {"reject"}
    assert {each["decision"]["reason"] for each in listed} == {"no mandatory columns"}
    assert all(" on " in each["decision"]["who"] for each in listed)
    said = world.run("explain", "--event", str(listed[0]["event"])).out
    assert f"said that event {listed[0]['event']} was not taken from its file" in " ".join(said.split())
    assert {each["reason"] for each in listed} == {f"file {name} was not taken: no mandatory columns"}
    monkeypatch.setattr("aggregator.cli.events.MOST_AT_ONCE", 4)
    release = ["events", "release", "--file", name, "--json", "--config", str(world.write())]
    released = json.loads(CliRunner().invoke(cli, release).stdout)
    assert len(released["planned_anew"]) == 6, "all of them, however many"
    assert world.once().code == 0
    found = [(each, io.BytesIO(content)) for each, (content, _) in store.objects().items() if each != key]
    assert by_customer(validate(found)) == world.used()

    [(second, content)] = [(each, content) for each, (content, _) in store.objects().items() if each != key]
    failed = world.directory / "failed.jsonl"
    failed.write_bytes(b"".join(content.splitlines(keepends=True)[:2]))
    rows = ("files", "reject", second, "--reason", "no such customer", "--rows", str(failed))
    assert world.run(*rows, "--json").json["events"] == 2
    assert world.run(*rows, "--json").json["events"] == 0
    assert world.run("events", "release", "--file", second.rpartition("/")[2]).code == 0
    assert world.once().code == 0
    assert by_customer(in_store(store))["cus_1"] >= 2 * world.used()["cus_1"]
    kept = set(content.splitlines()) - set(failed.read_bytes().splitlines())
    third = [body for each, (body, _) in store.objects().items() if each not in (key, second)]
    lines = b"\n".join([*kept, *third[0].splitlines()]) + b"\n"
    assert by_customer(validate([("usage-x.jsonl", io.BytesIO(lines))])) == world.used()
    assert world.run("files", "confirm", second.rpartition("/")[2], "--json").json["events"] == 4
    assert world.run(*rows).code == 2


def test_rows_for_the_dashboard_are_rejected_as_it_gives_them_back(world: World) -> None:
    """Rows without identifiers are known by customer and timestamp; what is no row of the file changes nothing."""
    world.use_much(3, 2)
    directory = writes_csv(world)
    assert world.once().code == 0
    [path] = directory.iterdir()
    header, *lines = path.read_text().splitlines()
    failed = world.directory / "failed.csv"
    reject = ("files", "reject", path.name, "--reason", "no such customer", "--rows", str(failed))
    for text, told in (
        ("", "holds no row"),
        (f"{header}\n0,{lines[0].partition(',')[2]}\n", f"of no event in {path.name}: 1"),
        ("a,b\n1,2\n", "Row 1 of"),
        ("{nothing", "neither CSV nor JSON"),
    ):
        failed.write_text(text)
        ran = world.run(*reject)
        assert (ran.code, told in ran.err) == (2, True), ran.said
    failed.write_text(f"{header},error\n{lines[1]},no such customer\n")
    assert world.run(*reject, "--json").json["events"] == 1
    assert world.run("events", "release", "--file", path.name).code == 0
    assert world.once().code == 0
    [new] = [each for each in directory.iterdir() if each != path]
    assert new.read_text().splitlines()[1:] == [lines[1]] or len(new.read_text().splitlines()) == 2


def test_a_kill_between_parts_leaves_one_object(world: World, store: Store) -> None:
    """Of a large upload that was killed there is no object; the next run uploads it, and removes the parts."""
    world.use_much(2_000, 30)
    writes_objects(world, store)
    world.write()
    killed = world.start_process("run", "--once", **{VARIABLE: "part_uploaded"})
    assert killed.ended(COMMAND_SECONDS) == KILLED, killed.err
    assert (store.objects(), len(store.uploads())) == ({}, 1)
    world.ledger(LET_GO)
    assert world.once().code == 0
    found = in_store(store)
    assert (by_customer(found), found.files, found.records) == (world.used(), 1, 60_000)
    assert store.uploads() == []


def test_the_daemon_writes_files_as_they_fill(world: World, store: Store) -> None:
    """A daemon closes a file once its oldest event has waited, says so, and ends in order when told to."""
    world.use_much(10, 3)
    writes_objects(world, store)
    daemon = world.daemon()
    line = daemon.logged("file_written", sink="bucket")
    assert line["records"] == 30
    world.use("cus_1", 5, 4)
    until(lambda: by_customer(in_store(store)) == world.used(), "all of it lies in the bucket")
    assert daemon.stop() == -15
    assert "ERROR" not in daemon.err


def test_a_csv_sink_waits_for_its_day(world: World) -> None:
    """In the daemon a file for the Dashboard waits to be filled; a run by hand or by cron closes it at once."""
    world.use_much(3, 2)
    directory = writes_csv(world)
    daemon = world.daemon()
    until(lambda: world.waiting() == 6, "everything is planned")
    assert not directory.exists() or not list(directory.iterdir())
    assert daemon.stop() == -15
    assert world.once().code == 0
    assert by_customer(in_directory(directory, dashboard=True)) == world.used()


def test_a_backfill_closes_its_files(world: World) -> None:
    """Whoever backfills a range has its file in the end; a second backfill writes none."""
    world.use_much(3, 2)
    directory = writes_csv(world)
    world.write()
    for _ in range(2):
        ran = world.run("backfill", "--from", f"{world.start:%Y-%m-%dT%H:%MZ}")
        assert ran.code == 0, ran.said
        assert by_customer(in_directory(directory, dashboard=True)) == world.used()
        assert len(list(directory.iterdir())) == 1


def test_files_are_listed_and_confirmed(world: World) -> None:
    """The list says what each holds and warns of raw meters; a confirmation counts once; unknown names are refused."""
    world.use_much(3, 2)
    directory = writes_csv(world)
    assert world.once().code == 0
    [path] = directory.iterdir()
    listed = world.run("files", "list", "--json").json
    [row] = listed["files"]
    assert (row["name"], row["sink"], row["records"], row["meters"]) == (path.name, "upload", 6, [METER])
    assert row["bytes"] == path.stat().st_size
    assert "uploaded twice bills twice" in listed["warnings"][0]
    shown = world.run("files", "list").out
    assert path.name in shown
    assert "to be uploaded" in shown
    assert "uploaded twice bills twice" in shown
    assert path.name in world.run("status").out
    assert world.run("status", "--json").json["to_be_uploaded"] == [path.name]

    confirmed = world.run("files", "confirm", f"upload/{path.name}", "--json")
    assert confirmed.json == {"confirmed": [path.name], "events": 6}
    again = world.run("files", "confirm", path.name)
    assert again.code == 2
    assert re.search(r"Nothing was confirmed: .* was confirmed at .* already", again.err)
    unknown = world.run("files", "confirm", "usage-1.csv")
    assert unknown.code == 2
    assert "there is no file usage-1.csv" in unknown.err
    assert world.ledger("select distinct state::text from aggregator.event") == [("confirmed",)]
    assert world.run("status", "--json").json["to_be_uploaded"] == []
    assert world.run("files", "list", "--unconfirmed", "--json").json["files"] == []
    assert world.run("files", "list", "--sink", "nobody").code == 2


def test_an_export_writes_what_is_in_no_file_yet(world: World) -> None:
    """A range is written once, elsewhere if asked, and says what it holds and what not."""
    world.use_much(3, 4)
    directory = writes_csv(world)
    world.write()
    assert world.run("backfill", "--from", f"{world.start:%Y-%m-%dT%H:%MZ}", "--no-send").code == 0
    start, middle, end = (f"{world.start + n * MINUTE:%Y-%m-%dT%H:%MZ}" for n in (0, 2, 4))
    first = world.run("export", "csv", METER, "--from", start, "--to", middle, "--out", "hand")
    assert first.code == 0, first.said
    assert "as far as they are read" in first.out
    assert "uploaded twice bills twice" in first.out
    assert in_directory(world.directory / "hand", dashboard=True).records == 6
    rest = world.run("export", "csv", METER, "--from", start, "--to", end, "--json").json
    assert [row["records"] for row in rest["written"]] == [6]
    assert [row["records"] for row in rest["already_written"]] == [6]
    assert rest["not_included"] == {}
    none = world.run("export", "csv", METER, "--from", start, "--to", end)
    assert "Nothing was written" in none.out
    assert "written before, and not again" in none.out
    both = [*(world.directory / "hand").iterdir(), *directory.iterdir()]
    found = validate([(path.name, io.BytesIO(path.read_bytes())) for path in both], dashboard=True)
    assert by_customer(found) == world.used()


def test_an_export_is_safe_to_open(world: World) -> None:
    """A customer that a spreadsheet would compute is text in the file; with --exact it is as it is."""
    world.use("=1+1", 5, minute=0)
    world.use("@SUM(A1)", 7, minute=2)
    writes_csv(world)
    world.write()
    start, middle, end = (f"{world.start + n * MINUTE:%Y-%m-%dT%H:%MZ}" for n in (0, 2, 4))
    assert world.run("backfill", "--from", start, "--no-send").code == 0
    assert world.run("export", "csv", METER, "--from", start, "--to", middle, "--out", "hand").code == 0
    assert (
        world.run("export", "csv", METER, "--from", middle, "--to", end, "--out", "exact", "--exact").code
        == 0
    )
    [safe], [exact] = (list((world.directory / name).iterdir()) for name in ("hand", "exact"))
    assert ",'=1+1,5" in safe.read_text()
    assert ",@SUM(A1),7" in exact.read_text()


def test_an_export_of_what_goes_elsewhere_is_refused(world: World) -> None:
    """A meter without a sink of type csv owes nothing to a file: what it sends to Stripe would be billed twice."""
    world.write()
    ran = world.run("export", "csv", METER, "--from", "2026-11-01", "--to", "2026-11-02")
    assert ran.code == 2
    assert "feeds no sink of type csv" in ran.err
    assert "billed twice" in ran.err
    writes_csv(world)
    world.write()
    for arguments, told in (
        (("--sink", "stripe"), "feeds no sink of type csv named stripe"),
        (("--to", "2026-10-01"), "is empty"),
        (("--from", "2026-11-01T00:00:30Z"), "use 2026-11-01T00:00Z or"),
    ):
        ran = world.run("export", "csv", METER, "--from", "2026-11-01", "--to", "2026-11-02", *arguments)
        assert (ran.code, told in ran.err) == (2, True), ran.err


def test_check_looks_at_sinks_of_files(world: World, store: Store) -> None:
    """A directory that cannot be written, or a bucket that is not there, is found before anything is sent."""
    writes_csv(world)
    world.write()
    ran = world.run("check", "--json")
    assert ran.code == 0, ran.said
    assert any("uploaded twice bills twice" in each["text"] for each in ran.json["findings"])
    (world.directory / "taken").write_text("a file")
    writes_csv(world, directory="taken")
    world.write()
    assert "cannot write to" in world.run("check").out
    writes_objects(world, store)
    world.write()
    assert world.run("check").code == 0
    writes_objects(world, store, bucket="no-such-bucket-here")
    world.write()
    assert "there is no bucket no-such-bucket-here" in world.run("check").out


def test_a_directory_for_the_import_takes_every_format(world: World) -> None:
    """The same files as in a bucket, in a directory from which something else takes them there."""
    world.use_much(3, 2)
    world.config["sinks"] = {
        kind: {"type": "directory", "directory": kind, "format": kind} for kind in ("jsonl", "json", "csv")
    }
    world.meter["sinks"] = ["jsonl", "json", "csv"]
    assert world.once().code == 0
    for kind in ("jsonl", "json", "csv"):
        assert by_customer(in_directory(world.directory / kind)) == world.used()


def test_a_directory_that_cannot_be_written_can_be_corrected(world: World) -> None:
    """Nothing is begun where no file can be made: it would wait for that place, however wrong it is."""
    world.use_much(3, 2)
    writes_csv(world, directory="aggregator.yaml/upload")
    ran = world.once()
    assert ran.code == 4
    assert "Correct `directory`" in ran.err
    assert "is halted" in world.run("status").out
    right = writes_csv(world)
    assert world.once().code == 0
    assert by_customer(in_directory(right, dashboard=True)) == world.used()
    assert "is halted" not in world.run("status").out


def test_a_sink_does_not_become_one_of_another_kind(world: World, store: Store) -> None:
    """A name that stood for a directory cannot stand for a bucket: what was written there would be missing here."""
    world.use_much(3, 2)
    writes_csv(world)
    for _ in range(2):
        assert world.once().code == 0
    writes_objects(world, store)
    world.config["sinks"] = {"upload": world.config["sinks"]["bucket"]}
    world.meter["sinks"] = ["upload"]
    ran = world.once()
    assert ran.code == 1
    assert "goes to s3://" in ran.err
    assert store.objects() == {}
