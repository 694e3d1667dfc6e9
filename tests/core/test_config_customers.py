"""`customers:` of the configuration: what may be written, and what is said of mistakes."""

from pathlib import Path

import pytest

from aggregator.config import load
from aggregator.errors import ConfigError

CONFIG = """
sources: {{app: {{url: 'sqlite:////app.db'}}}}
sinks: {{it: {{type: csv, directory: /files}}}}
customers: {{accounts: {{{mapping}}}}}
meters:
  api_requests:
    source: app
    sinks: [it]
    customers: {name}
    window: 1h
    start_at: 2026-11-01T00:00Z
    query: select account as customer, 1 as quantity from use where at >= :start and at < :end
"""


def written(directory: Path, mapping: str, name: str = "accounts") -> Path:
    """Write a configuration with a mapping."""
    path = directory / "aggregator.yaml"
    path.write_text(CONFIG.format(mapping=mapping, name=name))
    return path


def test_a_mapping_is_a_query_or_a_file(tmp_path: Path) -> None:
    """A file lies beside the configuration."""
    asked = load(written(tmp_path, "source: app, query: 'select 1 as key, 2 as customer', moved: all"), {})
    assert (asked.customers["accounts"].moved, asked.meters["api_requests"].customers) == ("all", "accounts")
    filed = load(written(tmp_path, "file: accounts.csv, moved: future"), {})
    assert filed.customers["accounts"].file == tmp_path / "accounts.csv"


@pytest.mark.parametrize(
    ("mapping", "name", "said"),
    [
        (
            "moved: all",
            "accounts",
            "customers.accounts.file: is missing: give `source` and `query`, or `file`",
        ),
        ("source: app, moved: all", "accounts", "both are needed"),
        ("file: a.csv, source: app, query: select 1, moved: all", "accounts", "or `file`"),
        ("file: a.csv", "accounts", "customers.accounts.moved: is missing"),
        ("source: app, query: select :start, moved: all", "accounts", "asked for all keys at once"),
        ("source: app, query: delete from account, moved: all", "accounts", "starts with `select` or `with`"),
        ("source: ap, query: select 1, moved: all", "accounts", "did you mean `app`?"),
        ("file: a.csv, moved: all, every: 1s", "accounts", "10s is the least"),
        ("file: a.csv, moved: all", "account", "under `customers:`: did you mean `accounts`?"),
    ],
)
def test_a_mistake_says_what_to_write(tmp_path: Path, mapping: str, name: str, said: str) -> None:
    """Each is named with its place."""
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, mapping, name), {})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("moved", "stripe", "decreases", "refused"),
    [
        ("all", "{event_time_window: hour}", "hold", True),
        ("all", "{event_time_window: hour}", "apply", False),
        ("future", "{event_time_window: hour}", "hold", False),
        ("all", "{event_name: api_requests}", "hold", False),
    ],
)
def test_what_replaces_does_not_move_while_it_is_held(
    tmp_path: Path, moved: str, stripe: str, decreases: str, refused: bool
) -> None:
    """The new customer's higher number could not wait for the old one's lower one, and both would be billed."""
    path = written(tmp_path, f"file: accounts.csv, moved: {moved}")
    path.write_text(path.read_text() + f"    stripe: {stripe}\n    decreases: {decreases}\n")
    if not refused:
        load(path, {})
        return
    with pytest.raises(ConfigError, match=r"customers: is `accounts`, which has `moved: all`"):
        load(path, {})
