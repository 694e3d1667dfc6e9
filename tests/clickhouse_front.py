"""A front for ClickHouse's engine, as a program: as much of the HTTP interface as clickhouse-connect uses.

The engine is chdb's, ClickHouse's own within a process; the rest is ours, after clickhouse.com/docs/interfaces/http. So what
the engine does (types, zones, sums, settings, errors, timeouts) is evidence, and what a server does besides is not: users,
grants, its own limits on connections, proxies.

Rules
- A request is a session of the engine of its own, as it is to a server without `session_id`. Settings are those of the URL,
  set in the engine; what it refuses is refused.
- A query is stopped by KILL QUERY, and when its client goes away where `cancel_http_readonly_queries_on_client_close` is
  set. chdb gives out ids of its own: that of the URL is kept as the setting `log_comment`.
- An error before the first byte is a status and a header. After it, it is a block at the end of the body, with the tag of a
  header.
"""

import base64
import re
import secrets
import select
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

import chdb

USERS: dict[str, dict[str, str]] = {
    "admin": {},
    "reader": {},
    "keyed": {},
    "in_kathmandu": {"session_timezone": "Asia/Kathmandu"},
    "in_utc": {"session_timezone": "UTC"},
    "only_reads": {"readonly": "2"},
    "locked": {"readonly": "1"},
    "hasty": {"max_result_rows": "10", "result_overflow_mode": "break"},
    "cautious": {
        "max_result_rows": "10",
        "result_overflow_mode": "break",
        "session_timezone": "UTC",
        "join_use_nulls": "1",
        "prefer_column_name_to_alias": "1",
        "max_execution_time": "30",
        "readonly": "1",
    },
}
"""Whom it knows, and what is set in their profiles."""

PASSWORDS = {"keyed": "se:cret/1"}
"""Of those who have one."""

OF_THE_REQUEST = {
    "buffer_size",
    "client_protocol_version",
    "compress",
    "database",
    "decompress",
    "default_format",
    "query",
    "query_id",
    "quota_key",
    "role",
    "session_id",
    "wait_end_of_query",
}
"""Parameters that are no settings."""

CODE = re.compile(r"Code: (\d+)")
AUTHENTICATION_FAILED, SYNTAX_ERROR = 516, 62
STATUS = {AUTHENTICATION_FAILED: 403, 159: 408, 60: 404, SYNTAX_ERROR: 400, 47: 404}

LOOK_SECONDS = 0.05
"""How often a client is looked after that waits for the first byte."""

KILL = re.compile(r"\s*kill\s+query\s+where\s+query_id\s*=\s*", re.IGNORECASE)
SECOND_STATEMENT = re.compile(r";\s*\S")
QUOTED = re.compile(r"'(?:[^'\\]|\\.|'')*'|--[^\n]*|/\*.*?\*/", re.DOTALL)


class Refused(Exception):
    """An error of the server's own."""

    def __init__(self, code: int, words: str, name: str) -> None:
        super().__init__(f"Code: {code}. DB::Exception: {words}. ({name})")


def quoted(value: str) -> str:
    """Return a text as a literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


STREAMS = re.compile(r"\s*(?:select|with)\b.*FORMAT Native\s*", re.IGNORECASE | re.DOTALL)


def _blocks(session: Any, query: str, form: str, values: dict[str, str]) -> Iterator[bytes]:
    """Yield what a query answers, as the engine makes it; chdb streams a SELECT only."""
    if STREAMS.fullmatch(query):
        for each in session.send_query(query, form, params=values or None):
            yield bytes(each.bytes())
    else:
        yield bytes(session.query(query, form, params=values or None).bytes())


class Engine:
    """The engine, which keeps its tables at a path. `zone` is what its sessions begin in."""

    def __init__(self, path: str, zone: str) -> None:
        self.path, self.zone = path, zone
        self._kept = self.connection()  # what holds the engine between requests

    def connection(self) -> Any:
        """Return a connection to it."""
        connect: Any = chdb.connect  # not every build of it says of which type it is
        return connect(self.path)

    def session(self, user: str, settings: dict[str, str], database: str) -> Any:
        """Return a connection with a user's settings and those of a request."""
        made = self.connection()
        try:
            self._settle(made, user, settings, database)
        except BaseException:
            made.close()
            raise
        return made

    def _settle(self, made: Any, user: str, settings: dict[str, str], database: str) -> None:
        own = {"session_timezone": self.zone, "log_comment": settings["log_comment"]}
        asked = {name: text for name, text in settings.items() if name != "log_comment"}
        for each in (own, USERS[user], asked):
            # `readonly` last: of several settings a server checks each by what was set before all of them.
            others = [f"{name} = {quoted(value)}" for name, value in each.items() if name != "readonly"]
            if others:
                made.query(f"set {', '.join(others)}")
            if "readonly" in each:
                made.query(f"set readonly = {quoted(each['readonly'])}")
        if database:
            made.query(f"use `{database}`")

    def kill(self, condition: str) -> None:
        """Stop queries by the ids that they were given."""
        other = self.connection()
        try:
            other.query(f"kill query where Settings['log_comment'] = {condition} async")
        finally:
            other.close()


class Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    engine: ClassVar[Engine]

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer `/ping`, and a query in the URL."""
        if urlsplit(self.path).path == "/ping":
            self._whole(200, b"Ok.\n")
        else:
            self.do_POST()

    def do_POST(self) -> None:
        """Run the query in the URL and the body."""
        asked = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        query = "\n".join(filter(None, (asked.get("query", ""), body)))
        try:
            self._run(query, asked)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told
            words = str(error).removeprefix("Streaming query failed: ")
            found = CODE.search(words)
            code = int(found[1]) if found else 1000
            said = f"{words} (version {chdb.engine_version})\n".encode()
            self._whole(STATUS.get(code, 500), said, {"X-ClickHouse-Exception-Code": str(code)})

    def _user(self) -> str:
        sent = self.headers.get("Authorization", "")
        name, _, password = base64.b64decode(sent.removeprefix("Basic ")).decode().partition(":")
        name = name or self.headers.get("X-ClickHouse-User", "default")
        if name not in USERS or password != PASSWORDS.get(name, ""):
            raise Refused(
                AUTHENTICATION_FAILED,
                f"{name}: Authentication failed: password is incorrect, or there is no user with such name",
                "AUTHENTICATION_FAILED",
            )
        return name

    def _run(self, query: str, asked: dict[str, str]) -> None:
        user = self._user()
        if (kill := KILL.match(query)) is not None:
            self.engine.kill(query[kill.end() :].split(maxsplit=1)[0])
            self._whole(200, b"")
            return
        if SECOND_STATEMENT.search(QUOTED.sub("''", query)):
            raise Refused(SYNTAX_ERROR, "Syntax error (Multi-statements are not allowed)", "SYNTAX_ERROR")
        values = {
            name.removeprefix("param_"): text for name, text in asked.items() if name.startswith("param_")
        }
        settings = {
            name: text
            for name, text in asked.items()
            if name not in OF_THE_REQUEST and not name.startswith("param_")
        }
        number = asked.get("query_id") or secrets.token_hex(16)
        session = self.engine.session(user, {**settings, "log_comment": number}, asked.get("database", ""))
        watched = threading.Event()
        try:
            if settings.get("cancel_http_readonly_queries_on_client_close") == "1":
                threading.Thread(target=self._watch, args=(watched, number), daemon=True).start()
            self._stream(
                _blocks(session, query, asked.get("default_format", "TabSeparated"), values),
                {
                    "X-ClickHouse-Query-Id": number,
                    "X-ClickHouse-Timezone": settings.get("session_timezone") or self.engine.zone,
                },
            )
        finally:
            watched.set()
            session.close()

    def _watch(self, done: threading.Event, number: str) -> None:
        """Stop a query whose client is gone."""
        while not done.wait(LOOK_SECONDS):
            try:
                readable, _, _ = select.select([self.connection], [], [], 0)
                gone = bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
            except (OSError, ValueError):
                gone = True
            if gone:
                self.engine.kill(quoted(number))
                return

    def _stream(self, blocks: Iterator[bytes], headers: dict[str, str]) -> None:
        first = next(blocks, b"")  # what fails until here has a status of its own
        tag = secrets.token_hex(8)
        self.send_response(200)
        for name, value in {**headers, "X-ClickHouse-Exception-Tag": tag}.items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self._chunk(first)
            for block in blocks:
                self._chunk(block)
        except (BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told
            words = str(error).removeprefix("Streaming query failed: ").encode()
            self._chunk(
                b"__exception__\r\n%b\r\n%b\n%d %b\r\n__exception__\r\n"
                % (tag.encode(), words, len(words) + 1, tag.encode())
            )
            self.close_connection = True
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, block: bytes) -> None:
        if block:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))

    def _whole(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """Answers each connection in a thread of its own."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """A client that went away is no news."""


def main(path: str, zone: str) -> None:
    """Serve an engine at a path on a free port, and say which."""
    Handler.engine = Engine(path, zone)
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
