"""A webhook receiver on loopback: it keeps what it is sent, and answers with the statuses it is told to."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from threading import Thread
from typing import NamedTuple

WAIT_SECONDS = 20


class Received(NamedTuple):
    """One delivery."""

    body: bytes
    signature: str
    content_type: str


class Receiver:
    """Where deliveries arrive. `statuses` are those of the next answers; afterwards it answers 200."""

    def __init__(self, url: str, received: Queue[Received], statuses: deque[int]) -> None:
        self.url = url
        self.statuses = statuses
        self._received = received

    def next(self) -> Received:
        """Return the next delivery; fail when none comes."""
        return self._received.get(timeout=WAIT_SECONDS)

    def is_empty(self) -> bool:
        """Say whether nothing more has arrived."""
        return self._received.empty()


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Run a receiver for the length of a `with` block."""
    received: Queue[Received] = Queue()
    statuses: deque[int] = deque()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.put(Received(body, self.headers["stripe-signature"], self.headers["content-type"]))
            self.send_response(statuses.popleft() if statuses else 200)
            self.end_headers()

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield Receiver(f"http://127.0.0.1:{server.server_port}/hooks?x=1", received, statuses)
        finally:
            server.shutdown()
            thread.join()
