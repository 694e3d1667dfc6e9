"""In what two configurations of the meters differ."""

from aggregator.config.changes import changed_settings

OLD = {"requests": {"query": "select 1", "delay": "5m", "every": "1m"}, "seats": {"query": "select 2"}}


def told(new: dict[str, dict[str, str]]) -> list[str]:
    """Say in what a configuration differs from the old one."""
    return [str(each) for each in changed_settings(OLD, new)]


def test_every_setting_that_differs_is_named_with_both_values() -> None:
    """A query is too long for a line; what was left out is said to be."""
    new = {**OLD, "requests": {"query": "select 3", "delay": "10m", "revisit": "2d"}}
    assert told(new) == [
        "requests: delay 10m (was 5m)",
        "requests: every left out (was 1m)",
        "requests: another query",
        "requests: revisit 2d (was left out)",
    ]
    assert [each.from_a_window for each in changed_settings(OLD, new)] == [False, False, True, False]


def test_meters_come_and_go() -> None:
    """They are named, without every setting of theirs."""
    assert told({"requests": OLD["requests"], "storage": {"query": "select 2"}}) == [
        "seats was removed",
        "storage was added",
    ]
    assert told(OLD) == []
