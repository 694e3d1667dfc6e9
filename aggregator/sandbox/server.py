"""Runs the sandbox under uvicorn: in the foreground for people, on a thread for tests and the demo.

The socket is bound before anything else, so the printed address is the real one even for port 0, and a call made before
the loop is up waits in the backlog instead of being refused.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import click
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from aggregator.sandbox.app import Application
from aggregator.sandbox.client import ControlClient
from aggregator.sandbox.settings import SandboxOptions
from aggregator.sandbox.store import Store
from aggregator.sandbox.wire import DROP_CONNECTION

BACKLOG = 2048

# How long a stop waits for calls in flight before it cuts them off.
STOP_SECONDS = 3


class DroppingProtocol(HttpToolsProtocol):
    """HTTP whose requests may close their connection without an answer."""

    def on_message_begin(self) -> None:
        """Give the new request its way out."""
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)["extensions"] = {DROP_CONNECTION: self.drop}

    def drop(self) -> None:
        """Close the socket at once; what was not sent is never sent."""
        self.cycle.disconnected = True
        self.transport.abort()


class RunningSandbox(ControlClient):
    """A sandbox on a thread of this process, with the control calls as methods."""

    def __init__(self, url: str, stop: Callable[[], None]) -> None:
        super().__init__(url)
        self._stop = stop

    def stop(self) -> None:
        """Stop serving and wait until the port and the state file are free. Doing it twice does no harm."""
        self._stop()


def serve(options: SandboxOptions, announce: Callable[[str], None] = click.echo) -> None:
    """Serve until a signal says stop. Raise OSError if the port is taken, StateError if the state file is unusable."""
    with contextlib.ExitStack() as cleanup:
        listener = cleanup.enter_context(_listen(options))
        store = Store(options)
        cleanup.callback(store.journal.close)
        announce(
            f"Sandbox on {_url(listener)} - any key works: sk_test_... for test mode, sk_live_... for live mode"
        )
        with contextlib.suppress(KeyboardInterrupt):
            _server(store).run(sockets=[listener])


@contextlib.contextmanager
def running(options: SandboxOptions) -> Iterator[RunningSandbox]:
    """Run a sandbox on a background thread for the length of a `with` block."""
    with _listen(options) as listener:
        store = Store(options)
        server = _server(store)
        url = _url(listener)
        thread = threading.Thread(target=server.run, args=([listener],), name="sandbox", daemon=True)

        def stop() -> None:
            server.should_exit = True
            thread.join()
            store.journal.close()

        thread.start()
        try:
            yield RunningSandbox(url, stop)
        finally:
            stop()


def _server(store: Store) -> uvicorn.Server:
    config = uvicorn.Config(
        Application(store),
        loop="auto",  # uvloop, where there is one
        http=DroppingProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    return uvicorn.Server(config)


def _listen(options: SandboxOptions) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((options.host, options.port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
