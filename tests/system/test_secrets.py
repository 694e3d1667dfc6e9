"""Secrets go in by every way there is, everything fails in every way we know, and no word of a secret comes out anywhere.

Looked at is all that others may see: what commands and daemons say, every row of the ledger, every file in the state
directory. A secret is found in plain, URL-encoded, in base64 or in hexadecimal.

Rules
- Each secret has a core that stands nowhere else. What surrounds it in a password differs once it is URL-encoded.
- Who is asked may be hostile: the parrot says the key it was given in every part of its answers.
"""

import base64
import io
import json
import logging
import pprint
import re
import signal
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from click.testing import CliRunner

from aggregator.cli import cli
from aggregator.cli.options import load_config
from aggregator.errors import AggregatorError, ConfigError
from aggregator.runtime import log
from aggregator.wiring.app import build
from tests.system.harness import METER, MINUTE, Process, World, until

LEDGER, SOURCE, OPTION = "Kanari1ledger", "Kanari2source", "Kanari3option"
KEY_CORE, BYSTANDER = "Kanari4stripe", "Kanari5bystander"
CORES = (LEDGER, SOURCE, OPTION, KEY_CORE, BYSTANDER)

KEY = f"sk_test_{KEY_CORE}51Hx"
AROUND = "a+b %/@{}:?#c"
"""A password around its core: characters that look different once they are URL-encoded."""

ENVIRONMENT = {
    "UNRELATED_PASSWORD": BYSTANDER,
    "PYTHONFAULTHANDLER": "1",
    "PYTHONDEVMODE": "1",
    "PYTHONASYNCIODEBUG": "1",
    "STRIPE_LOG": "debug",
}
"""Whatever makes Python and its libraries talk, and a secret that is none of ours."""

TABLES = """
select format('select t::text from aggregator.%I t', relname)
  from pg_class where relnamespace = to_regnamespace('aggregator') and relkind = 'r'
"""

COMMANDS = {
    "check": ("check",),
    "run": ("run", "--once", "--verbose"),
    "status": ("status", "--json"),
    "test": ("test", "--json"),
    "preview": ("preview", METER, "--from", "{start}"),
    "backfill": ("backfill", "--from", "{start}"),
    "events": ("events", "release", "999"),
    "restate": ("restate", METER, "--from", "{start}"),
    "lateness": ("lateness", "--json"),
    "meters": ("meters", "apply", "--yes"),
    "ledger": ("ledger", "size", "--json"),
    "migrate": ("migrate",),
    "grants": ("grants", "--check"),
    "files": ("files", "list", "--json"),
    "export": ("export", "csv", METER, "--from", "{start}", "--to", "2999-01-01"),
    "adopt": ("adopt",),
    "usage": ("usage", METER, "--from", "{start}", "--live", "--json"),
    "parity": ("parity", METER, "--from", "{start}", "--to", "{start}"),
    "cutover": ("cutover", "list", "--json"),
    "reconcile": ("reconcile", METER, "--json"),
    "explain": ("explain", METER, "--customer", "cus_0", "--window", "{start}", "--live", "--json"),
    "statement": ("statement", "cus_0", "--json"),
    "runs": ("runs", "--json"),
    "notify": ("notify", "--json"),
    "plan": ("plan", "--out", "plan.json"),
    "apply": ("apply", "plan.json", "--recheck"),
    "web": ("web", "token", "--customer", "cus_0"),
}
"""Every command that is given the configuration, and how it is called here."""

WITHOUT_SECRETS = {"demo", "init", "sandbox", "schema", "selftest"}
"""Commands that read no configuration."""


def forms(core: str) -> set[bytes]:
    """Return what a secret looks like: as it is, in hexadecimal, and in base64 wherever it begins there."""
    plain = core.lower().encode()
    found = {plain, plain.hex().encode(), core.encode().hex().encode()}
    for ahead in range(3):
        encoded = base64.b64encode(b"x" * ahead + core.encode())
        found.add(encoded[-(-ahead * 4 // 3) + (1 if ahead else 0) : len(encoded) // 4 * 4 - 4].lower())
    return found


FORMS = {form: core for core in CORES for form in forms(core)}


def leaks(text: str | bytes) -> list[str]:
    """Return the secrets in a text, each with what stands around it."""
    seen = (text.encode(errors="replace") if isinstance(text, str) else text).lower()
    return [
        f"{core} in {seen[max(0, seen.find(form) - 150) : seen.find(form) + 80]!r}"
        for form, core in FORMS.items()
        if form in seen
    ]


@pytest.mark.parametrize("core", CORES)
def test_a_secret_is_found_in_every_form(core: str) -> None:
    """What looks for the leaks sees one in plain, URL-encoded, in base64 and in hexadecimal."""
    password = AROUND.format(core)
    for text in (
        password,
        quote(password),
        quote(password, safe=""),
        password.encode().hex(),
        password.upper(),
    ):
        assert leaks(text), text
    for ahead in range(6):
        assert leaks(base64.b64encode(b"u" * ahead + password.encode()).decode()), ahead
    assert leaks("postgresql://user:***@host/database, sk_test_****51Hx") == []


def ledger_rows(world: World) -> str:
    """Return every row of every table of the ledger as text."""
    return "\n".join(row for (table,) in world.ledger(TABLES) for (row,) in world.ledger(table))


class Listener:
    """Runs our commands in a world full of secrets, and takes in all that anybody could see."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.secret_files: set[Path] = set()
        self.polled: list[str] = []
        self.environment = dict(ENVIRONMENT)

    def run(self, *arguments: str) -> None:
        """Run a command, however it ends. Nobody is shown a traceback."""
        start = f"{self.world.start:%Y-%m-%dT%H:%MZ}"
        self.world.run(*(argument.format(start=start) for argument in arguments), **self.environment)

    def call(self, *arguments: str) -> None:
        """Call a command that fails within this process, and take in what its error says."""
        ran = CliRunner().invoke(cli, arguments)
        assert isinstance(ran.exception, AggregatorError)
        self.polled.append(f"{ran.output} {ran.exception} {ran.exception!r}")

    def refused(self) -> bool:
        """Say whether the configuration is refused as it is now, and take in what it is told."""
        try:
            load_config(self.world.write())
        except ConfigError as error:
            self.polled.append(f"{error} {error!r} {error.problems!r}")
            return True
        return False

    def daemon(self) -> Process:
        """Start a daemon with everything that makes it talk."""
        return self.world.start_process("run", "--verbose", name="daemon", **self.environment)

    def found(self) -> list[str]:
        """Return the secrets in what was said, in the ledger, and in any file but those they were given in."""
        given = {self.world.directory / "aggregator.yaml", *self.secret_files}
        found = [f"ledger: {leak}" for leak in leaks(ledger_rows(self.world))]
        found += [f"called: {leak}" for polled in self.polled for leak in leaks(polled)]
        for path in sorted(self.world.directory.rglob("*")):
            if path.is_file() and path not in given:
                found += [f"{path.name}: {leak}" for leak in leaks(path.read_bytes())]
        return found


def with_secret(url: str, core: str, **options: str) -> str:
    """Put a password around a core, and options, into a URL of the embedded server, which takes any."""
    assert "postgres:@" in url
    password = quote(AROUND.format(core), safe="")
    return url.replace("postgres:@", f"postgres:{password}@") + "".join(
        f"&{k}={v}" for k, v in options.items()
    )


@pytest.fixture
def listener(world: World) -> Listener:
    """A world whose every secret holds a canary, and in which everything works."""
    assert world.ledger_url is not None
    world.use_much(customers=3, minutes=3)
    world.use(None, 1, minute=1)
    world.config["ledger"]["url"] = with_secret(world.ledger_url, LEDGER)
    world.config["sources"]["app"]["url"] = with_secret(
        world.source_url, SOURCE, sslpassword=quote(AROUND.format(OPTION), safe="")
    )
    world.sink["api_key"] = KEY
    bounds = {"from": f"{world.start:%Y-%m-%dT%H:%MZ}", "to": f"{world.start + MINUTE:%Y-%m-%dT%H:%MZ}"}
    world.meter["tests"] = [{"name": "no rows", "rows": {"usage": []}, "usage": [], **bounds}]
    world.write()
    return Listener(world)


# Those who are asked


@contextmanager
def serving(server: socketserver.TCPServer) -> Iterator[int]:
    """Serve on a thread for the length of a `with` block; give the port."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


class StrictPostgres(socketserver.StreamRequestHandler):
    """Speaks just enough of Postgres's protocol to refuse TLS, and then every password, repeating it
    (postgresql.org/docs/current/protocol-message-formats.html)."""

    def handle(self) -> None:
        """Answer one client."""
        startup = self._packet(self.rfile.read(4))
        if startup[:4] == (80877103).to_bytes(4, "big"):
            self.wfile.write(b"N")
            startup = self._packet(self.rfile.read(4))
        if startup:
            self.wfile.write(b"R" + (8).to_bytes(4, "big") + (3).to_bytes(4, "big"))
            kind = self.rfile.read(1)
            if kind == b"p":
                self._refuse(self._packet(self.rfile.read(4)).rstrip(b"\0"))

    def _packet(self, length: bytes) -> bytes:
        return self.rfile.read(int.from_bytes(length, "big") - 4) if length else b""

    def _refuse(self, password: bytes) -> None:
        said = b"SFATAL\0VFATAL\0C28P01\0Mno user has the password " + password + b"\0\0"
        self.wfile.write(b"E" + (len(said) + 4).to_bytes(4, "big") + said)


class Threaded(socketserver.ThreadingTCPServer):
    """One thread per client."""

    daemon_threads = True


Answer = tuple[int, dict[str, str], str]


class Parrot(ThreadingHTTPServer):
    """Answers with one of ANSWERS, by the first part of the path."""

    daemon_threads = True

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.asked: set[str] = set()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that goes away is none of our business."""


class ParrotCall(BaseHTTPRequestHandler):
    """One connection to the parrot."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer."""
        assert isinstance(self.server, Parrot)
        name = self.path.split("/")[1]
        self.server.asked.add(name)
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        status, headers, body = ANSWERS[name](key)
        self.send_response(status, headers.pop("reason", None))
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    do_POST = do_GET  # noqa: N815 - its name in the base class

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base class
        """Say nothing."""


def error(status: int, **parts: str) -> Callable[[str], Answer]:
    """Return an error in Stripe's shape that holds the key in every part of it."""

    def shape(key: str) -> Answer:
        said = {
            "message": f"The key {key} in https://x?key={quote(AROUND.format(key))} is not to be had.",
            "type": f"invalid_request_error {key}",
            "code": f"about_{key}",
            "param": key,
            "doc_url": f"https://docs.stripe.com/{key}",
            "request_log_url": key,
            "charge": key,
            "decline_code": key,
        }
        return status, {"Request-Id": f"req_{key}"}, json.dumps({"error": said | parts})

    return shape


def taken(key: str) -> Answer:
    """Say that an event was taken, but name another one: the key."""
    answer = {
        "object": "billing.meter_event",
        "identifier": key,
        "event_name": f"Bearer {key}",
        "livemode": False,
    }
    return 200, {"Request-Id": f"req_{key}"}, json.dumps(answer)


def unreadable(key: str) -> Answer:
    """Answer in something else than JSON, as a proxy does."""
    return 502, {"Content-Type": "text/html", "Via": key}, f"<h1>Bad gateway</h1> Authorization: Bearer {key}"


def elsewhere(key: str) -> Answer:
    """Send the caller to where nobody is, with the key in the address."""
    return 302, {"Location": f"http://127.0.0.1:1/?key={key}"}, ""


def broken(key: str) -> Answer:
    """Give a header that cannot be."""
    return 200, {"Transfer-Encoding": key, "reason": key}, key


ANSWERS: Mapping[str, Callable[[str], Answer]] = {
    **{str(status): error(status) for status in (400, 401, 402, 403, 404, 409, 429, 500, 503)},
    "no-code": error(400, code="", type="invalid_request_error"),
    "no-object": error(404, code="resource_missing"),
    "idempotency": error(400, type="idempotency_error"),
    "taken": taken,
    "unreadable": unreadable,
    "elsewhere": elsewhere,
    "broken": broken,
}


# What goes well, and what goes wrong


def test_every_command_is_listened_to() -> None:
    """A command that is new, and is given the configuration, is added to those that are tried here."""
    assert cli.commands.keys() <= COMMANDS.keys() | WITHOUT_SECRETS


def test_nothing_is_said_where_all_is_well(listener: Listener) -> None:
    """Every command, a daemon that is told to reload, and one that is aborted with a dump of its threads."""
    for name in COMMANDS.keys() & cli.commands.keys():
        listener.run(*COMMANDS[name])
    for number in (signal.SIGTERM, signal.SIGABRT, signal.SIGQUIT):
        daemon = listener.daemon()
        notification_sinks(daemon, "daemon_started")
        daemon.tell(signal.SIGHUP)
        notification_sinks(daemon, "config_unchanged")
        daemon.tell(number)
        daemon.ended()
    assert "Thread 0x" in daemon_said(listener.world), "nobody dumped a thread"
    assert listener.world.billed() == listener.world.used()
    assert listener.found() == []


def notification_sinks(daemon: Process, event: str, times: int = 1) -> None:
    """Wait until a daemon has logged an event so often. Among its lines are those that Python was told to add."""
    until(
        lambda: daemon.err.count(f'"{event}"') >= times,
        f"the daemon logs {event}",
        seen=lambda: daemon.err[-2000:],
    )


def daemon_said(world: World) -> str:
    """Return what all daemons of a world logged."""
    return "".join(path.read_text() for path in world.directory.glob("daemon-*.err"))


def bad_urls(direct: str, core: str, port: int) -> dict[str, str]:
    """Return URLs by which a database cannot be reached, each with a password in it."""
    raw, encoded = core, quote(AROUND.format(core), safe="")
    return {
        "nobody there": f"postgresql://app:{encoded}@127.0.0.1:1/app?connect_timeout=2",
        "no such host": f"postgresql://app:{encoded}@nowhere.invalid/app?connect_timeout=2",
        "no such database": re.sub(r"/test_\w+", "/test_absent", with_secret(direct, core)),
        "wrong password": f"postgresql://app:{encoded}@127.0.0.1:{port}/app?connect_timeout=2",
        "TLS refused": f"postgresql://app:{encoded}@127.0.0.1:{port}/app?sslmode=require&sslpassword={encoded}",
        "no certificate": f"postgresql://app@127.0.0.1:{port}/app?sslmode=verify-full&sslrootcert=none&sslpassword={raw}",
        "unknown option": f"postgresql://app:{encoded}@127.0.0.1/app?nosuch=1",
        "option without a name": f"postgresql://app:{encoded}@127.0.0.1/app?{raw}",
        "percent sign": f"postgresql://app:{raw}%zz@127.0.0.1/app",
        "percent sign and at sign": f"postgresql://app:{raw}%40%zz@127.0.0.1/app",
        "at sign": f"postgresql://app:x@{raw}@127.0.0.1:1/app",
        "slash": f"postgresql://app:x/{raw}@127.0.0.1:1/app",
        "slash first": f"postgresql://app:{raw}/x@127.0.0.1:1/app",
        "colon": f"postgresql://app:x:{raw}@127.0.0.1:1/app",
        "question mark": f"postgresql://app:x?{raw}@127.0.0.1:1/app",
        "hash": f"postgresql://app:x#{raw}@127.0.0.1:1/app",
        "bracket": f"postgresql://app:[{raw}@127.0.0.1:1/app",
        "no user": f"postgresql://:{raw}@127.0.0.1:1/app",
        "password for a port": f"postgresql://app@127.0.0.1:{raw}/app",
        "password as an option": f"postgresql://127.0.0.1:1/app?password={raw}&user=app",
        "asynchronous driver": f"postgresql+asyncpg://app:{raw}@127.0.0.1:1/app",
        "service file": f"postgresql://app:{raw}@127.0.0.1:1/app?service=nosuch",
        "password file": f"postgresql://app@127.0.0.1:1/app?passfile=/nowhere/{core[:6]}&sslpassword={raw}",
    }


def test_a_source_that_cannot_be_read_gives_nothing_away(listener: Listener) -> None:
    """Whatever is wrong with its URL, neither `check` nor a pass, nor what the ledger keeps of it, holds the password."""
    world = listener.world
    world.sink["api_base"] = "http://127.0.0.1:1"  # it would ask for a meter each
    with serving(Threaded(("127.0.0.1", 0), StrictPostgres)) as port:
        urls = bad_urls(world.source_url, SOURCE, port)
        for number, url in enumerate(urls.values()):
            name = f"bad_{number}"
            world.config["sources"][name] = {"url": url}
            world.config["meters"][name] = {**world.meter, "source": name}
            if listener.refused():
                del world.config["sources"][name], world.config["meters"][name]
        bad = sorted(world.config["meters"].keys() - {METER})
        assert len(bad) > len(urls) / 2, "most of them cannot be told from good ones"
        for name in ("run", "check", "status", "test"):
            listener.run(*COMMANDS[name])
        listener.run("preview", bad[0], "--from", "{start}")
        listener.run("backfill", bad[0], "--from", "{start}")
    failed = world.one("select count(distinct meter_id) from aggregator.pass where error is not null")
    assert failed == len(bad)
    assert listener.found() == []


def test_a_ledger_that_cannot_be_reached_gives_nothing_away(listener: Listener) -> None:
    """Whatever is wrong with its URL, and whichever command is called."""
    world = listener.world
    assert world.ledger_url is not None
    with serving(Threaded(("127.0.0.1", 0), StrictPostgres)) as port:
        urls = bad_urls(world.ledger_url, LEDGER, port)
        for url in urls.values():
            world.config["ledger"]["url"] = url
            path = str(world.write())
            for command in ("migrate", "status"):
                listener.call(command, "--config", path)
        world.config["ledger"]["url"] = urls["wrong password"]
        world.write()
        for name in COMMANDS.keys() & cli.commands.keys():
            listener.run(*COMMANDS[name])
        assert listener.daemon().ended() == 1
    assert listener.found() == []


def test_an_answer_that_repeats_the_key_is_not_passed_on(listener: Listener) -> None:
    """Not from a message, a code, a header, a redirect or an echo: neither to the log nor to the ledger."""
    world = listener.world
    del listener.environment["STRIPE_LOG"]  # whoever asks the library to print each answer gets each answer
    parrot = Parrot(("127.0.0.1", 0), ParrotCall)
    with serving(parrot) as port:
        world.config["sinks"] = {
            f"sink_{number}": {**world.sink, "api_base": f"http://127.0.0.1:{port}/{name}"}
            for number, name in enumerate(ANSWERS)
        }
        world.meter["sinks"] = list(world.config["sinks"])
        world.write()
        for name in ("check", "run", "status"):
            listener.run(*COMMANDS[name])
        listener.run(
            *COMMANDS["run"], "--first-time"
        )  # else nothing leaves: the sink does not say what it holds
        daemon = listener.daemon()
        notification_sinks(daemon, "daemon_started")
        daemon.stop()
    assert parrot.asked >= set(ANSWERS)
    assert world.one("select count(distinct reason) from aggregator.attempt") > 3
    assert listener.found() == []


BROKEN = {
    "a quote that is not closed": 'sinks: {{stripe: {{type: stripe, mode: test, api_key: "{secret}',
    "a tab": "sinks:\n\tstripe: {secret}",
    "a secret for a key": 'sinks: {{"sk_test_{secret}": {{type: stripe}}}}',
    "a secret for a list": "sinks: {{stripe: {{type: stripe, mode: test, api_key: ['{secret}']}}}}",
    "a key of no known form": "sinks: {{stripe: {{type: stripe, mode: test, api_key: 'xx_{secret}'}}}}",
    "a key of the other mode": "sinks: {{stripe: {{type: stripe, mode: live, api_key: 'sk_test_{secret}'}}}}",
    "a secret for a mode": "sinks: {{stripe: {{type: stripe, mode: '{secret}', api_key: sk_test_1}}}}",
    "a secret in an address": "sinks: {{stripe: {{type: stripe, mode: test, api_key: sk_test_1, api_base: 'https://{secret}@x'}}}}",
    "a secret as a file": "ledger: {{url_file: '{secret}'}}",
    "a file with a wrong secret": "ledger: {{url_file: secret.txt}}",
    "a URL of no known form": "ledger: {{url: 'mysql://app:{secret}@host/app'}}",
    "a variable that is a secret": "ledger: {{url: '${{sk_test_{secret}}}'}}",
    "a secret in a query": "meters: {{calls: {{query: 'select {secret}'}}}}",
    "an unknown tag": "ledger: {{url: !{secret} x}}",
}


def test_a_broken_configuration_gives_nothing_away(listener: Listener) -> None:
    """Whatever is wrong beside a secret, or with it, the message names the place and not the secret."""
    path = listener.world.directory / "broken.yaml"
    file = listener.world.directory / "secret.txt"
    file.write_text(f"{KEY}\n{LEDGER}")
    listener.secret_files |= {path, file}
    for text in BROKEN.values():
        path.write_text(text.format(secret=LEDGER) + "\n")
        listener.run("check", "--config", "broken.yaml")
    assert listener.found() == []


def test_secrets_from_files_and_variables_are_kept_as_well(listener: Listener) -> None:
    """By whichever way a secret comes in, and when its file goes away or changes while a daemon runs."""
    world = listener.world
    url, key = world.directory / "url", world.directory / "key"
    url.write_text(world.config["sources"]["app"].pop("url"))
    key.write_text(world.sink.pop("api_key"))
    listener.secret_files |= {url, key}
    world.config["sources"]["app"]["url_file"], world.sink["api_key_file"] = "url", "key"
    ledger, world.config["ledger"]["url"] = world.config["ledger"]["url"], "${LEDGER_URL}"
    world.write()
    daemon = world.start_process("run", "--verbose", name="daemon", LEDGER_URL=ledger, **ENVIRONMENT)
    notification_sinks(daemon, "daemon_started")
    for content in (f"postgresql://app:{SOURCE}@[", "", None):
        if content is None:
            url.unlink()
        else:
            url.write_text(content)
        refusals = daemon.err.count("config_refused")
        daemon.tell(signal.SIGHUP)
        notification_sinks(daemon, "config_refused", refusals + 1)
        listener.run("check")
    daemon.stop()
    assert listener.found() == []


class Terminal(io.StringIO):
    """Where somebody watches."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_an_unexpected_error_shows_no_variables(stream: type[io.StringIO]) -> None:
    """The traceback that is logged shows lines of code and not what they had at hand, to whoever watches."""
    out, api_key = stream(), KEY
    before = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        log.configure(stream=out)
        try:
            int(f"none of {len(api_key)}")
        except ValueError:
            log.logger().exception(log.UNEXPECTED, meter=METER)
    finally:
        logging.getLogger().handlers[:], logging.getLogger().level = before
        logging.captureWarnings(capture=False)
    assert "ValueError" in out.getvalue()
    assert leaks(out.getvalue()) == []


def test_no_part_shows_its_secret(listener: Listener) -> None:
    """Neither repr nor str of the configuration, or of anything that is built from it."""
    config = load_config(listener.world.write())
    with ExitStack() as stack:
        app = stack.enter_context(build(config))
        parts = [
            config,
            app,
            app.ledger,
            app.ledger.database,
            *app.sources.values(),
            *app.sinks.values(),
            *app.collections.values(),
        ]
        shown = [form(part) for part in parts for form in (repr, str, pprint.pformat)]
    assert leaks("".join(shown)) == []
