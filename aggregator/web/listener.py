"""A listener: where it is bound, and the server on a thread of its own, with a bound on all that a caller may take."""

import ipaddress
import socket
import threading

from starlette.types import ASGIApp

from aggregator.errors import UsageError
from aggregator.runtime import log

BACKLOG = 128
STOP_SECONDS = 5
"""How long stopping waits for calls that are being worked on. A delivery that is cut off is delivered again."""


class Address:
    """Where we listen, bound for as long as the process lives."""

    def __init__(self, text: str) -> None:
        host, colon, port = text.strip().rpartition(":")
        host = host.strip("[]")
        if not colon or not host or not port.isdigit() or int(port) > 65535:
            raise UsageError(
                f"{text} is not an address to listen on; write HOST:PORT, such as 127.0.0.1:8080."
            )
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((host, int(port)))
            self._listener.listen(BACKLOG)
        except OSError as error:
            self._listener.close()
            raise UsageError(f"Cannot listen on {text}: {error.strerror}. Choose another port.") from None

    @property
    def url(self) -> str:
        """Where it is, with the real port if any was asked for."""
        host, port = self._listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def host(self) -> str:
        """The host that was asked for, as an address."""
        return str(self._listener.getsockname()[0].partition("%")[0])

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(self.host).is_loopback

    def lend(self) -> socket.socket:
        """Return the socket for a server to listen on, and to close."""
        return self._listener.dup()

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()


class Listener:
    """Serves an application at an address."""

    def __init__(self, address: Address, application: ASGIApp) -> None:
        import uvicorn

        from aggregator.web.connections import LONGEST_HEAD, protocol

        self._address = address
        self._server = uvicorn.Server(
            uvicorn.Config(
                application,
                http=protocol(),
                h11_max_incomplete_event_size=LONGEST_HEAD,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )
        self._thread = threading.Thread(target=self._serve, name="web", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()
        log.logger().info(log.WEB_STARTED, url=self._address.url)

    def stop(self) -> None:
        """Take nothing more, wait for what is being worked on, and come back."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS + 2)

    def _serve(self) -> None:
        try:
            self._server.run(sockets=[self._address.lend()])
        except Exception:  # noqa: BLE001 - the outermost loop of this thread
            log.logger().exception(log.UNEXPECTED, part="web")
