"""The configuration `aggregator init` writes: small, commented, and valid as soon as its two variables are set."""

_TEXT = """\
# What is billed, from where, to where. `aggregator check` says whether it is right.
# Every key is explained by `aggregator schema`.

sources:
  app:
    url: ${APP_DATABASE_URL}      # any SQLAlchemy URL, with a role that may only read
    # url_file: /run/secrets/app_database_url

sinks:
  stripe:
    type: stripe
    api_key: ${STRIPE_API_KEY}    # or api_key_file: /run/secrets/stripe_api_key
    mode: test                    # live bills real customers; it must match the key
    # api_base: http://127.0.0.1:12111    # the sandbox: `aggregator sandbox`

# Without this block, a private embedded Postgres in .aggregator/ remembers what was billed.
# ledger:
#   url: ${LEDGER_URL}

meters:
  api_requests:                   # also the event name of the Stripe meter
    source: app
    sinks: [stripe]
    window: 1h                    # one event per customer and window; divides a day
    start_at: 2026-11-01T00:00Z   # nothing before this is ever billed
    delay: 5m                    # how long after its end a window is first read
    revisit: 3d                   # how far back it is read again, for rows that came late
    stripe:                       # `aggregator meters apply` creates the Stripe meter like this
      event_time_window: hour     # of each hour only the newest event counts: sending again can never bill twice
    query: |
      select customer.stripe_customer_id as customer,
             count(*)                    as quantity,
             max(request.created_at)     as at
        from api_request request
        left join customer on customer.id = request.customer_id
       where request.created_at >= :start
         and request.created_at < :end
       group by 1
"""


def starter(schema: str | None = None) -> str:
    """Return a commented configuration to start from.

    `schema` is where the JSON Schema lies, as seen from the file; with it, editors complete keys and explain them.
    """
    return f"# yaml-language-server: $schema={schema}\n{_TEXT}" if schema else _TEXT
