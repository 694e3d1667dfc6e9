"""Others that send rows of a database to an API, on the same work as ours, side by side.

Each is installed into an environment of its own below `.peers/`, with the version that is pinned here. Each reads the same
table of the same Postgres by the same query, and sends each row of the answer to the same server of `bench.light` as one
meter event of version 1 of Stripe's API. It is run as its users run it, as one process, whose processor time counts from its
start to its end. Afterwards the server must hold every event once, and their sum.
"""
