"""What a change within a block of the configuration means for what is billed, in a sentence. Pure.

Rules
- Marks, cursors and identifiers belong to a name: of the source, or of the sink. They go on, whatever that name stands for
  by now; so a change of what it stands for is the one to be told of.
- A key that decides how fast, and not what, says that, too: whoever reviews a change wants to know which kind it is.
- Where nothing but a secret differs, that is all that is said.
"""

REREAD = (
    "what was read stays billed; windows within `revisit` are read again, from the new one, and what it lacks of them is a "
    "decrease; what it has of earlier windows is never billed"
)
ANOTHER_DATABASE = (
    "marks, cursors and samples refer to the database before. Unless this is the same one at another address: "
    f"{REREAD}"
)
ANOTHER_ACCOUNT = (
    "events go to another account: once anything was sent to the one before, nothing is sent there until a person has "
    "settled that, since what the ledger has as billed is not there"
)
ELSEWHERE = (
    "what is not sent yet goes there; what was sent is not sent again, and the new place knows nothing of it"
)
HOW_FAST = "how fast events leave, and not what is billed"
KEY = "nothing that is billed, as long as it holds a key of the same account: that is asked at the start"
NOTHING = "nothing that is billed"
UNSHOWN = "a secret differs, and is not shown"

SOURCE = {
    "url": f"{UNSHOWN}: a role, a password or a parameter. Marks and cursors stay as they are",
    "url_file": f"{NOTHING}, as long as it holds the URL of the same database",
    "url.kind": f"another kind of database answers: {REREAD}",
    "url.host": ANOTHER_DATABASE,
    "url.database": ANOTHER_DATABASE,
    "timezone": "columns without a zone are read in another one: usage of windows within `revisit` moves between them",
    "freshness": "up to where rows are complete is told otherwise: what comes behind that is found by revisits alone",
    "row_security": "which rows the role may see: those that it does not are not billed",
    "accepts": "less, or more, has to be proven before what is read is billed",
    "wait_for_writers": "how long a window waits for open transactions: what comes later is found by revisits alone",
    "statement_timeout": f"{NOTHING}: a query that takes longer fails, and its windows wait",
    "files": f"queries see other files: {REREAD}",
}

SINK = {
    "type": f"another service takes events under this name: {ELSEWHERE}. A name of its own is safer",
    "mode": f"`live` bills customers, and `test` bills nobody. {ANOTHER_ACCOUNT}",
    "api_key": UNSHOWN,
    "api_key_file": KEY,
    "access_key_id": UNSHOWN,
    "access_key_id_file": KEY,
    "secret_access_key": UNSHOWN,
    "secret_access_key_file": KEY,
    "webhook_secret": UNSHOWN,
    "webhook_secret_file": NOTHING,
    "stripe_account": ANOTHER_ACCOUNT,
    "accounts": ANOTHER_ACCOUNT,
    "api_base": f"another server answers: {ELSEWHERE}",
    "transport": "how events go, and not what is billed: each keeps its identifier",
    "stream_above": HOW_FAST,
    "timeout": HOW_FAST,
    "rate_limit": HOW_FAST,
    "max_in_flight": HOW_FAST,
    "reads_per_second": "how often totals are compared, and not what is billed",
    "reads_per_day": "how often totals are compared, and not what is billed",
    "totals_by": "by how many reads totals are compared, and not what is billed: event summaries have the last word",
    "reports.poll": "how soon events that Stripe finds invalid later are known here",
    "quantity_encoding": "how quantities are written: the wrong way may be billed as zero (`check --send-test-event`)",
    "self_test_customer": NOTHING,
    "directory": ELSEWHERE,
    "bucket": ELSEWHERE,
    "prefix": ELSEWHERE,
    "region": ELSEWHERE,
    "endpoint_url": ELSEWHERE,
    "format": "what files look like that are written from now on",
    "exact": "how customers are written that a spreadsheet would take for a formula",
    "max_bytes": HOW_FAST,
    "max_records": HOW_FAST,
    "close_after": HOW_FAST,
}

MOVE = "usage of keys whose customer is another one by it moves as `moved` says"

MAPPING = {
    "source": f"another database says whose usage it is: {MOVE}",
    "query": f"whose usage it is: {MOVE}",
    "file": f"whose usage it is: {MOVE}",
    "every": "how soon customers of new keys are known",
    "moved": (
        "the next customers that change: by `all`, what sinks still take of the past moves with the key, and by `future` "
        "nothing that has begun"
    ),
}

MEANINGS = {"source": SOURCE, "sink": SINK, "mapping": MAPPING}
"""By kind of block and key."""


def meaning(what: str, key: str) -> str:
    """Return what it means that a key of a kind of block is another one; empty where nobody has said so."""
    return MEANINGS.get(what, {}).get(key, "")
