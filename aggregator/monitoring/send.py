"""A process of its own that sends one message by apprise, and says how that went: whoever waits for it can leave it.

    python -m aggregator.monitoring.send < {"services": [...], "title": ..., "body": ..., "kind": "warning"}

Rules
- An answer that comes in pieces holds apprise for as long as it comes, whatever the time limit, and its threads keep their
  process alive: so it is a process that can be ended.
- A service whose answer is a redirect has taken nothing, though the page behind it answers: none is followed.
- Nothing of a service is named but its kind: its address holds secrets.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

SEND_SECONDS = 30.0
EXTRA = "pip install 'usage-aggregator[notify]'"


class Sent(NamedTuple):
    """How a message went to one service, by its kind: None is well, else why not."""

    service: str
    trouble: str | None


def kind_of(service: str) -> str:
    """Return what may be shown of an address."""
    return service.partition("://")[0]


def send(services: Sequence[str], title: str, body: str, kind: str) -> list[Sent]:
    """Send one message to each service, and return how that went. It takes `SEND_SECONDS` at most."""
    request = json.dumps({"services": list(services), "title": title, "body": body, "kind": kind})
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "aggregator.monitoring.send"],
            input=request,
            capture_output=True,
            text=True,
            timeout=SEND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [Sent(kind_of(each), f"no answer within {SEND_SECONDS:g} seconds") for each in services]
    if ran.returncode != 0:
        lines = ran.stderr.strip().splitlines()
        why = lines[-1] if lines and lines[-1].startswith("apprise ") else "it could not be sent at all"
        return [Sent(kind_of(each), why) for each in services]
    return [Sent(*each) for each in json.loads(ran.stdout)]


def _send_each(services: Sequence[str], title: str, body: str, kind: str) -> list[Sent]:
    """Send in this process, to each service by itself: how it went is told of each."""
    import requests
    from apprise import Apprise, NotifyType

    requests.sessions.SessionRedirectMixin.get_redirect_target = lambda *_: None  # type: ignore[method-assign]
    found = []
    for service in services:
        one = Apprise()
        if not one.add(service):
            found.append(Sent(kind_of(service), "apprise does not understand this address"))
            continue
        for plugin in one:
            plugin.optional = False  # marked so, a service that fails counts as one that took the message
        result = one.notify(body=body, title=title, notify_type=NotifyType(kind))
        each = list(result)
        well = bool(each) and all(bool(one_of) for one_of in each)
        found.append(Sent(kind_of(service), None if well else "it was not taken"))
    return found


def main() -> int:
    """Send what standard input says."""
    try:
        import apprise  # noqa: F401 - whether it is there
    except ImportError:
        sys.stderr.write(f"apprise is not installed: {EXTRA}\n")
        return 1
    sent = _send_each(**json.load(sys.stdin))
    sys.stdout.write(json.dumps(sent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
