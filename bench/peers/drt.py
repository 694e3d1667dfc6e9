"""drt (github.com/drt-hub/drt): a model in SQL and a destination, in YAML; `drt run` sends each row to a REST API.

It has no destination for Stripe, so the general one is used, with the form that Stripe takes. It sends one request after the
other, keeps no record of what was sent, and lets rows wait a tenth of a second by default; that limit is lifted here.
"""

from urllib.parse import parse_qs, urlsplit

from bench.figures import Figure
from bench.peers.environments import environment
from bench.peers.work import EVENT, KEY, QUERY, Work, timed

NAME = "drt-core 1.2.1"
REQUIREMENTS = ("drt-core[postgres]==1.2.1",)

PROJECT = "name: bench\nprofile: bench\n"

PROFILES = "bench: {{type: postgres, host: '{host}', port: {port}, dbname: {database}, user: {user}}}\n"

SYNC = """
name: meter_events
model: |
  select customer, quantity::text as quantity, extract(epoch from at)::bigint as at,
         customer || '_' || extract(epoch from "window")::bigint as identifier
    from ({query}) as used
destination:
  type: rest_api
  url: {server}/v1/billing/meter_events
  headers: {{Content-Type: application/x-www-form-urlencoded}}
  auth: {{type: bearer, token: {key}}}
  body_template: >-
    event_name={event}&identifier={{{{ row.identifier }}}}&timestamp={{{{ row.at }}}}&payload[stripe_customer_id]={{{{
    row.customer }}}}&payload[value]={{{{ row.quantity }}}}
sync: {{mode: full, on_error: fail, batch_size: 1000, rate_limit: {{requests_per_second: 0}}}}
"""


def measure(on: Work) -> Figure:
    """Send every row once."""
    programs = environment("drt", REQUIREMENTS)
    url = urlsplit(on.source)
    profile = PROFILES.format(
        host=url.hostname or parse_qs(url.query)["host"][0],
        port=url.port or 5432,
        database=url.path.strip("/"),
        user=url.username or "postgres",
    )
    sync = SYNC.format(query=" ".join(QUERY.split()), server=on.server, key=KEY, event=EVENT)
    for name, text in (
        ("drt_project.yml", PROJECT),
        (".drt/profiles.yml", profile),
        ("syncs/meter_events.yml", sync),
    ):
        path = on.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    surroundings = {"HOME": str(on.directory), "DO_NOT_TRACK": "1"}
    return timed(NAME, on, [str(programs / "drt"), "run"], surroundings)
