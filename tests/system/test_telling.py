"""A real daemon that says that it lives, and tells people of troubles, over real HTTP."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.system.harness import KEY, MINUTE, World, until


class Post:
    """Somebody who takes calls: what came, and what is answered."""

    def __init__(self) -> None:
        self.pings: list[str] = []
        self.messages: list[dict[str, Any]] = []
        self.status = 200
        taken = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                taken.pings.append(self.path)
                self._answer()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path != "/elsewhere":
                    taken.messages.append(json.loads(body))
                self._answer()

            def _answer(self) -> None:
                status = 200 if self.path == "/elsewhere" else taken.status
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"

    def titles(self) -> list[str]:
        """What the messages that came were called."""
        return [message["title"] for message in self.messages]


@pytest.fixture
def post() -> Iterator[Post]:
    """Somebody who takes calls on loopback."""
    made = Post()
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def test_people_are_told_what_is_amiss_and_when_it_is_over(world: World, post: Post) -> None:
    """Once each, with what to run; and the sign of life ends while no sink takes anything."""
    world.config["monitoring"] = {
        "notify": f"json://{post.address}/",
        "notify_after": "1s",
        "heartbeat_url": f"http://{post.address}/alive",
        "heartbeat_every": "1s",
    }
    world.start += 90 * MINUTE  # of a meter that is far behind people would be told, too
    world.meter["start_at"] = f"{world.start:%Y-%m-%dT%H:%MZ}"
    world.use("cus_1", 5, minute=1)
    daemon = world.daemon()
    until(lambda: len(post.pings) > 1, "it says that it lives")
    assert set(post.pings) == {"/alive"}
    world.sandbox.set_keys(revoked=[KEY])
    world.use("cus_1", 5, minute=2)
    daemon.logged("sink_halted")
    [message] = until(lambda: post.messages, "people are told")
    assert message["title"] == "aggregator: 1 new problem"
    assert message["message"] == "Sink stripe refuses every call.\n  run: aggregator status"
    assert message["type"] == "warning"
    before = len(post.pings)
    world.sandbox.set_keys()
    daemon.logged("sink_resumed")
    until(lambda: len(post.messages) > 1, "people are told that it is over")
    assert post.titles() == ["aggregator: 1 new problem", "aggregator: 1 over"]
    until(lambda: len(post.pings) > before + 1, "it says again that it lives")
    until(lambda: len(daemon.log("announced")) == 2, "it notes both")
    daemon.stop()


def test_a_test_message_tells_who_took_it(world: World, post: Post) -> None:
    """Each service by its kind alone; a redirect took nothing, and an address that is none is said to be so."""
    world.config["monitoring"] = {"notify": f"json://user:secret@{post.address}/"}
    world.write()
    ran = world.run("notify", "--test")
    assert (ran.code, ran.out) == (0, "json: took the message\n")
    assert post.titles() == ["aggregator: a test"]
    post.status = 302
    ran = world.run("notify", "--test")
    assert (ran.code, ran.out) == (1, "json: it was not taken\n")
    world.config["monitoring"] = {"notify": "nobody://here"}
    world.write()
    ran = world.run("notify", "--test", "--json")
    assert ran.json == [{"service": "nobody", "trouble": "apprise does not understand this address"}]
    world.config["monitoring"] = {"notify": f"json://{post.address}/?optional=yes"}
    world.write()
    assert world.run("notify", "--test").code == 1
    del world.config["monitoring"]
    world.write()
    assert "Nobody gets any messages" in world.run("notify", "--test").said


def test_one_pass_says_that_it_lives(world: World, post: Post) -> None:
    """At its end, unless it failed; and `notify` shows what stands."""
    world.config["monitoring"] = {"heartbeat_url": f"http://{post.address}/once"}
    world.use("cus_1", 5, minute=1)
    assert world.once().code == 0
    assert post.pings == ["/once"]
    ran = world.run("notify")
    assert (ran.code, ran.out) == (0, "Nothing is wrong.\n")
    world.source("drop table usage")
    assert world.once().code == 1
    assert post.pings == ["/once"]
    ran = world.run("notify", "--json")
    assert ran.code == 4
    assert {"text": "The last pass of requests failed.", "command": "aggregator runs requests"} in ran.json
