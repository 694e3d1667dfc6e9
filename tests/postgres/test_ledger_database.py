from aggregator.ledger.database import REVISION, Database, identity, unfit


def test_a_fresh_ledger_is_migrated_and_has_an_identity(ledger_url: str) -> None:
    """Each test's ledger is at the newest revision."""
    with Database(ledger_url) as database:
        assert identity(database).revision == REVISION
        assert unfit(database) == [
            "The ledger's Postgres may lose commits in a crash; set fsync and full_page_writes on."
        ]
