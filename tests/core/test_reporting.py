"""What does not let itself be asked is said once, and many of a kind in one line."""

from structlog.testing import capture_logs

from aggregator.daemon.reporting import MOST_SAID, report_refused
from aggregator.reconciliation.notification_poller import IMPORTS, Taken
from aggregator.runtime import log


def said(taken: Taken, told: dict[str, str]) -> list[str]:
    """The reasons that are logged of a round."""
    with capture_logs() as lines:
        report_refused(log.logger(), "stripe", taken, told)
    assert {(line["event"], line["sink"]) for line in lines} <= {(log.REPORTS_REFUSED, "stripe")}
    return [line["reason"] for line in lines]


def test_what_is_refused_is_said_once() -> None:
    """Until it is refused for another reason."""
    told: dict[str, str] = {}
    taken = Taken(refused="no key", refusals={"acct_1": "closed", IMPORTS: "no such type"})
    assert said(taken, told) == ["no key", "no such type", "acct_1 could not be asked: closed"]
    assert said(taken, told) == []
    taken.refusals["acct_1"] = "gone"
    assert said(taken, told) == ["acct_1 could not be asked: gone"]


def test_many_accounts_are_one_line() -> None:
    """With the first of them as an example; imports are no account."""
    taken = Taken(
        refusals={f"acct_{number}": "closed" for number in range(MOST_SAID + 1)} | {IMPORTS: "no such type"}
    )
    assert said(taken, {}) == [
        "no such type",
        "4 accounts of its customers could not be asked, acct_0 among them: closed",
    ]
