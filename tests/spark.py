"""Spark's own server for SQL, for tests of that kind of source: HiveThriftServer2, on loopback.

Rules
- `make tools` installs Java from Debian, and PySpark, which has the server in it, into .spark (450 MB).
  Where either is missing, tests that need them are skipped and say so.
- The process is in New York and its sessions begin in Kathmandu, whatever the host is.
- One server serves a run: it takes some ten seconds to start, and its first queries are slow.
"""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from aggregator.runtime.clock import monotonic
from aggregator.source.spark_session import Address, Session

HOME = Path(__file__).parents[1] / ".spark" / "pyspark"

MISSING = next(
    (
        f"{what}: `make tools` installs it"
        for there, what in (
            (shutil.which("java"), "Java is not installed"),
            (HOME.is_dir(), "PySpark is not installed"),
        )
        if not there
    ),
    None,
)

PROCESS_ZONE, SESSION_ZONE = "America/New_York", "Asia/Kathmandu"

START_SECONDS = 180.0
LOOK_SECONDS = 0.1


class Spark(NamedTuple):
    """A server that runs."""

    port: int
    ui: int

    @property
    def url(self) -> str:
        """Return the URL of a source in it."""
        return f"spark://reader@127.0.0.1:{self.port}/default"

    @property
    def address(self) -> Address:
        """Return where it is."""
        return Address("127.0.0.1", self.port, "app", None, "PLAIN", False, None, "hive")

    def run(self, *statements: str) -> list[tuple[object, ...]]:
        """Run statements as an application does, with a session in UTC; return the rows of the last one, as texts."""
        with closing(Session(self.address, {"spark.sql.session.timeZone": "UTC"})) as session:
            session.begin(60)
            found: list[tuple[object, ...]] = []
            for statement in statements:
                found = session.ask(statement)
            return found

    def greet(self) -> None:
        """Open a session and end it. Raises what thrift does while nobody answers."""
        Session(self.address, {}).close()

    def running(self) -> int:
        """Return how many jobs it works on (spark.apache.org/docs/latest/monitoring.html#rest-api)."""
        [application] = self._asked("")
        return len(self._asked(f"/{application['id']}/jobs?status=running"))

    def _asked(self, path: str) -> list[dict[str, object]]:
        url = f"http://127.0.0.1:{self.ui}/api/v1/applications{path}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            found: list[dict[str, object]] = json.load(answer)
        return found


@contextmanager
def spark(
    *, master: str = "local[2]", memory: str = "1g", conf: dict[str, str] | None = None
) -> Iterator[Spark]:
    """Run a server of one's own."""
    assert MISSING is None, MISSING
    directory = Path(tempfile.mkdtemp(prefix="aggregator-spark-"))
    try:
        process, server = _started(directory, master, memory, conf or {})
        try:
            yield server
        finally:
            process.terminate()
            process.wait()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def environment(directory: Path) -> dict[str, str]:
    """Return what Spark's programs find themselves by."""
    return {
        **os.environ,
        "SPARK_HOME": str(HOME),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_DIRS": str(directory / "scratch"),
        "SPARK_LOG_DIR": str(directory / "logs"),
        "SPARK_WORKER_DIR": str(directory / "work"),
    }


def _started(
    directory: Path, master: str, memory: str, conf: dict[str, str]
) -> tuple[subprocess.Popen[bytes], Spark]:
    server = Spark(free_port(), free_port())
    settings = {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.sql.catalogImplementation": "in-memory",
        # At the end of each session Hive looks for a metastore that is not there, eleven times in twenty seconds.
        "spark.hadoop.hive.hmshandler.retry.attempts": "0",
        "spark.sql.session.timeZone": SESSION_ZONE,
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.warehouse.dir": str(directory / "warehouse"),
        "spark.ui.port": str(server.ui),
        **conf,
    }
    java = f"-Duser.timezone={PROCESS_ZONE} -Dderby.system.home={directory} -XX:TieredStopAtLevel=1"
    log = directory / "log"
    with log.open("wb") as told:
        process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig=TERM", "bash", str(HOME / "bin" / "spark-submit")),
                *("--master", master, "--driver-memory", memory, "--driver-java-options", java),
                *(each for name, value in settings.items() for each in ("--conf", f"{name}={value}")),
                *("--class", "org.apache.spark.sql.hive.thriftserver.HiveThriftServer2", "spark-internal"),
                *("--hiveconf", f"hive.server2.thrift.port={server.port}"),
                *("--hiveconf", "hive.server2.thrift.bind.host=127.0.0.1"),
            ],
            stdout=told,
            stderr=told,
            cwd=directory,
            env=environment(directory),
            start_new_session=True,
        )
    if answers(process, server.greet):
        return process, server
    process.kill()
    process.wait()
    raise AssertionError(f"Spark does not start: {log.read_text()[-4000:]}")


def answers(process: subprocess.Popen[bytes], greet: Callable[[], None]) -> bool:
    """Wait until a process answers; False if it ends, or never does."""
    pause, end = threading.Event(), monotonic() + START_SECONDS
    while process.poll() is None and monotonic() < end:
        with suppress(Exception):
            greet()
            return True
        pause.wait(LOOK_SECONDS)
    return False
