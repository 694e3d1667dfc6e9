#!/usr/bin/env bash
# metronome-sdk 4.12.0: how long does it wait when the server asks for patience?
#
# Expected: as long as `Retry-After` says, or, if that is too long to wait for, the longest wait that it allows itself.
# Found: a wish of up to 60 seconds is granted to the second. One of 61 is dropped altogether, and the batch goes out again
# after half a second, as if the server had asked for nothing. So the longer the server asks to be left alone, the sooner it is
# asked again, and both of the retries are used up in some two seconds: a batch fails for good within an outage that was
# announced as a minute and a half. (Source: metronome/_base_client.py, `_calculate_retry_timeout`.)
#
# Fails if a wish of 3 seconds is not granted, or if one above 60 seconds is waited for.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check 'metronome-sdk==4.12.0'
"$work/venv/bin/python" - <<'PY'
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import metronome

EVENT = {"transaction_id": "1", "customer_id": "c", "event_type": "calls", "timestamp": "2026-11-30T00:00:00Z"}
arrivals, wishes = [], []


class Busy(BaseHTTPRequestHandler):
    def do_POST(self):
        arrivals.append(time.monotonic())
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(429 if wishes else 200)
        if wishes:
            self.send_header("retry-after", wishes.pop())
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *words):
        pass


server = HTTPServer(("127.0.0.1", 0), Busy)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = metronome.Metronome(bearer_token="none", base_url=f"http://127.0.0.1:{server.server_port}")
print(f"metronome-sdk {metronome.__version__}")
waited = {}
for wish in ("3", "60.5", "61", "3600"):
    arrivals.clear()
    wishes.append(wish)
    client.v1.usage.ingest(usage=[EVENT])
    first, second = arrivals
    waited[wish] = second - first
    print(f"429 with Retry-After: {wish}: sent again after {waited[wish]:.1f} s")
server.shutdown()
assert waited["3"] >= 3, waited
assert max(waited["60.5"], waited["61"], waited["3600"]) < 30, waited
print("as found")
PY
