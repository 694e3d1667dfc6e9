"""What dlt runs: rows of Postgres into a destination that is a function, which hands each to Stripe's SDK.

Run by dlt's own environment: `python dlt_pipeline.py SOURCE SERVER KEY EVENT QUERY`.
"""

import sys

import dlt
import psycopg2
import stripe

SOURCE, SERVER, KEY, EVENT, QUERY = sys.argv[1:]

stripe.api_key = KEY
stripe.api_base = SERVER


@dlt.resource(name="used")
def used():
    """Yield the rows in pages."""
    with psycopg2.connect(SOURCE) as connection, connection.cursor(name="used") as cursor:
        cursor.itersize = 5_000
        cursor.execute(QUERY)
        while rows := cursor.fetchmany(5_000):
            yield [
                {
                    "customer": customer,
                    "quantity": int(quantity),
                    "at": int(at.timestamp()),
                    "identifier": f"{customer}_{int(window.timestamp())}",
                }
                for customer, quantity, at, window in rows
            ]


@dlt.destination(batch_size=500, name="stripe_meter")
def stripe_meter(items, table):  # noqa: ARG001 - dlt hands it over
    """Send each row of a batch."""
    for item in items:
        stripe.billing.MeterEvent.create(
            event_name=EVENT,
            identifier=item["identifier"],
            timestamp=item["at"],
            payload={"stripe_customer_id": item["customer"], "value": str(item["quantity"])},
        )


if __name__ == "__main__":
    pipeline = dlt.pipeline("bench", destination=stripe_meter, pipelines_dir="pipelines")
    print(pipeline.run(used()))
