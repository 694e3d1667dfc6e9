"""The page and the API: what the ledger knows, for whoever has a browser, and a customer's own usage for programs.

Rules
- Pages are made on the server and need no script; nothing is fetched from anywhere else.
- Looking reads; what decides something goes through the verbs of the ledger that the commands use, with who and why.
- Everything that is shown is escaped, and numbers are sent as text: exact, and formatted here.
- Whoever asks is bounded as a webhook's callers are: connections, heads, bodies, and how much is worked on at once.

Only `daemon` and `cli` import it. Begin with `site`.
"""
