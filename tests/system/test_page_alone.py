"""The page alone, beside a ledger or a daemon: how it is watched, and how it takes up what the files say by now."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.system.harness import METER, Process, World, until
from tests.system.test_metrics import figures, listening

OPERATOR, SCRAPER = "operator-token-of-24-chars", "scrape-token-of-24-characters"
FIRST, SECOND = "f" * 40, "s" * 40
ONLY_A_DAEMON_KNOWS = {"aggregator_source_up", "aggregator_clocks_apart"}


@contextmanager
def page(world: World) -> Iterator[tuple[Process, str]]:
    """Serve the page alone; give the process and its address."""
    world.write()
    process = world.start_process("web", "--listen", "127.0.0.1:0", name="page")
    yield process, process.logged("web_started")["url"]
    assert process.stop() == 0


def asked(url: str, **headers: str) -> tuple[int, Any]:
    """Ask, and return the status and the words, or the text where they are none."""
    try:
        with urlopen(Request(url, headers=headers), timeout=20) as answer:
            status, body = answer.status, answer.read().decode()
    except HTTPError as error:
        status, body = error.code, error.read().decode()
    try:
        return status, json.loads(body)
    except ValueError:
        return status, body


def names(found: dict[str, str]) -> set[str]:
    """Return the names of the series of a scrape."""
    return {series.split("{")[0] for series in found}


def test_the_page_alone_tells_the_figures_of_the_ledger(world: World) -> None:
    """The same series as the daemon's, but for what only a daemon knows: those are left out, and not guessed."""
    world.use("cus_1", 5, minute=1)
    world.use(None, 7, minute=3)
    daemon, of_daemon = listening(world)
    world.quiet()
    with page(world) as (_, url):
        told, same = figures(url), figures(of_daemon)
        assert names(same) - names(told) == ONLY_A_DAEMON_KNOWS
        assert names(told) <= names(same)
        build = [series for series in told if series.startswith("aggregator_build_info")]
        assert [series.split('part="')[1] for series in build] == ['web"}']
        accepted = f'aggregator_attempts_total{{meter="{METER}",sink="stripe",outcome="accepted"}}'
        assert told[accepted] == "1"
        assert told[f'aggregator_unmapped_units{{meter="{METER}",kind="unusable"}}'] == "7"
        assert told["aggregator_ledger_up"] == "1"
    daemon.stop()


def test_the_page_alone_is_ready_while_its_ledger_answers(world: World) -> None:
    """It is alive meanwhile, and its last figures stay, with their age."""
    world.use("cus_1", 5, minute=1)
    world.quiet_by_passes()
    with page(world) as (_, url):
        assert asked(f"{url}/livez") == (200, {"alive": True})
        status, said = asked(f"{url}/readyz")
        assert (status, said["ready"], said["ledger"], said["reasons"]) == (200, True, "answers", [])
        assert said["last_pass_seconds_ago"] >= 0
        before = figures(url)
        name = world.one("select current_database()")
        world.source(f"alter database {name} allow_connections false")
        world.source("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", name)
        until(
            lambda: asked(f"{url}/readyz")[0] == 503, "it is not ready", seen=lambda: asked(f"{url}/readyz")
        )
        assert asked(f"{url}/readyz")[1]["reasons"][0]["what"] == "ledger"
        assert asked(f"{url}/livez")[0] == 200
        until(lambda: figures(url)["aggregator_ledger_up"] == "0", "the ledger is said to be away")
        assert names(figures(url)) == names(before)
        world.source(f"alter database {name} allow_connections true")
        until(lambda: asked(f"{url}/healthz")[0] == 200, "it is ready again")


def test_what_was_passed_on_needs_the_scrape_token(world: World) -> None:
    """Prometheus sends it as the bearer; whoever does not gets words for programs, and probes need none."""
    world.config["web"] = {"operator_token": OPERATOR}
    world.config["monitoring"] = {"scrape_token": SCRAPER}
    world.quiet_by_passes()
    with page(world) as (_, url):
        elsewhere = {"X-Forwarded-For": "203.0.113.5"}
        scrape = partial(asked, f"{url}/metrics", **elsewhere)
        assert scrape() == (401, {"error": "send the scrape_token as the bearer"})
        assert scrape(Authorization="Bearer another-token-of-24-chars")[0] == 401
        assert scrape(Authorization=f"Bearer {SCRAPER}")[0] == 200
        assert asked(f"{url}/livez", **elsewhere)[0] == 200


def test_the_page_alone_takes_up_a_new_secret(world: World) -> None:
    """What stands in the file is read again for a token that nothing else signed; what is in the files, at SIGHUP."""
    secret = world.directory / "token_secret"
    secret.write_text(FIRST)
    world.config["web"] = {"operator_token": OPERATOR, "token_secret_file": str(secret)}
    world.quiet_by_passes()
    with page(world) as (process, url):
        usage = partial(asked, f"{url}/api/usage?customer=cus_1")
        by_first = token(world)
        assert usage(Authorization=by_first)[0] == 200
        secret.write_text(SECOND)
        by_second = token(world)
        assert usage(Authorization=by_second)[0] == 200
        assert usage(Authorization=by_first)[0] == 401

        secret.unlink()
        world.config["web"] = {"operator_token": OPERATOR, "token_secret": FIRST}
        world.write()
        process.tell(signal.SIGHUP)
        process.logged("config_reloaded", meters=[METER])
        assert usage(Authorization=by_first)[0] == 200
        assert usage(Authorization=by_second)[0] == 401


def test_a_reload_that_fails_leaves_the_page_as_it_was(world: World) -> None:
    """The reason is in the log, and the page answers all the same."""
    world.quiet_by_passes()
    with page(world) as (process, url):
        world.meter["windw"] = "1h"
        world.write()
        for times in (1, 2):  # once the second is refused, whatever the first one did is done
            process.tell(signal.SIGHUP)
            until(lambda times=times: len(process.log("config_refused")) == times, "it is refused")  # type: ignore[misc]
        assert "windw" in process.log("config_refused")[0]["reason"]
        assert asked(f"{url}/livez")[0] == 200
        del world.meter["windw"]
        world.write()
        process.tell(signal.SIGHUP)
        process.logged("config_unchanged")
        assert figures(url)["aggregator_ledger_up"] == "1"


def token(world: World) -> str:
    """Return a header that shows a customer's token."""
    world.write()
    made = world.run("web", "token", "--customer", "cus_1", "--for", "1h")
    return f"Bearer {made.out.strip()}"
