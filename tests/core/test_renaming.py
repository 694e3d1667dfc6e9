"""Which configuration would bill again what a ledger has billed: values in, sentences out."""

import datetime as dt
from dataclasses import dataclass, field

import pytest

from aggregator.core.renaming import (
    KnownLine,
    KnownMeter,
    Memory,
    Outlet,
    Wanted,
    follows,
    refusals,
    renames,
)

START = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
MARK = START + 10 * DAY
ACCOUNT = "acct_1 test"


@dataclass
class Ledger:
    """What a ledger remembers, in a few words."""

    meters: dict[str, KnownMeter] = field(default_factory=dict)
    lines: list[KnownLine] = field(default_factory=list)

    def fed(
        self,
        meter: str,
        called: str = "requests",
        *,
        sink: str = "stripe",
        account: str | None = ACCOUNT,
        formerly: tuple[str, ...] = (),
        until: dt.datetime | None = MARK,
        has_sent: bool = True,
    ) -> "Ledger":
        """Remember a meter and what it fed."""
        self.meters[meter] = KnownMeter(meter, MARK, formerly)
        self.lines.append(KnownLine(meter, Outlet(sink, account, called), until, has_sent))
        return self

    def said(self, *wanted: Wanted) -> list[str]:
        """Return what is said against a configuration."""
        return [said for _, said in refusals(wanted, Memory(self.meters, self.lines))]


def wants(
    name: str,
    called: str = "requests",
    *,
    sink: str = "stripe",
    account: str | None = ACCOUNT,
    renamed_from: str | None = None,
    start_at: dt.datetime = START,
    bill_from: dt.datetime | None = None,
) -> Wanted:
    """Return a meter as it is configured."""
    begins = {} if bill_from is None else {sink: bill_from}
    return Wanted(name, renamed_from, begins, start_at, [Outlet(sink, account, called)])


def test_what_is_configured_already_is_not_refused() -> None:
    """The same meter, sink and name, again and again; and everything on an empty ledger."""
    assert Ledger().said(wants("requests"), wants("other", "other", renamed_from="nobody")) == []
    assert Ledger().fed("requests").said(wants("requests")) == []


def test_another_meter_of_the_same_name_at_the_sink_is_refused() -> None:
    """With both ways out: it is the same one, or begins where that ended."""
    [said] = Ledger().fed("requests").said(wants("api_calls"))
    assert "`renamed_from: requests`" in said
    assert "`start_at: 2026-11-11T00:00Z`" in said


def test_it_may_begin_where_the_other_ended() -> None:
    """And `check` says that it does."""
    ledger = Ledger().fed("requests")
    later = wants("api_calls", start_at=MARK)
    assert ledger.said(later) == []
    [(meter, text)] = follows([later], Memory(ledger.meters, ledger.lines))
    assert (meter, "which requests fed up to 2026-11-11T00:00Z" in text) == ("api_calls", True)
    for earlier in (dt.timedelta(minutes=1), DAY):
        assert ledger.said(wants("api_calls", start_at=MARK - earlier)) != []


def test_another_name_or_account_is_another_thing() -> None:
    """So is a meter of which nothing was ever planned."""
    ledger = Ledger().fed("requests")
    assert ledger.said(wants("api_calls", "api_calls")) == []
    assert ledger.said(wants("api_calls", sink="other", account="acct_2 test")) == []
    assert Ledger().fed("requests", until=None).said(wants("api_calls")) == []


def test_without_an_account_a_sink_is_known_by_its_name() -> None:
    """A key may be kept from naming its account."""
    ledger = Ledger().fed("requests", account=None)
    assert ledger.said(wants("api_calls")) != []
    assert ledger.said(wants("api_calls", sink="other")) == []


def test_a_renamed_meter_goes_on() -> None:
    """Under its new name, and so it does when that is said again, or renamed a second time."""
    ledger = Ledger().fed("requests")
    renamed = wants("api_calls", renamed_from="requests")
    assert ledger.said(renamed) == []
    assert renames([renamed], Memory(ledger.meters, ledger.lines)) == {"requests": "api_calls"}
    after = Ledger().fed("api_calls", formerly=("requests",))
    assert after.said(renamed) == []
    assert after.said(wants("calls", renamed_from="api_calls")) == []


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (wants("requests"), "is the former name of api_calls"),
        (wants("calls", "calls", renamed_from="requests"), "knows no such meter; it knows api_calls"),
        (wants("calls", renamed_from="request"), "knows no such meter"),
    ],
    ids=["the configuration of before", "a name that was given up", "a misspelt name"],
)
def test_names_that_do_not_fit(wanted: Wanted, words: str) -> None:
    """A former name is not used again, and a name that nobody has is nobody's."""
    [said] = Ledger().fed("api_calls", formerly=("requests",)).said(wanted)
    assert words in said


def test_two_meters_do_not_become_one() -> None:
    """The new name was begun as a meter of its own before anybody said so."""
    ledger = Ledger().fed("requests").fed("api_calls", "api_calls")
    [said] = ledger.said(wants("api_calls", "api_calls", renamed_from="requests"))
    assert "knows both" in said


def test_a_meter_that_has_sent_keeps_its_name_at_the_sink() -> None:
    """Corrections would go where the usage is not; before anything was sent a misspelt name is simply corrected."""
    [said] = Ledger().fed("requests").said(wants("requests", "calls"))
    assert "corrections of what was sent would go where that is not" in said
    assert Ledger().fed("requests", has_sent=False).said(wants("requests", "calls")) == []


def test_two_meters_are_not_swapped() -> None:
    """Each of them would go on under the other's name at the sink."""
    ledger = Ledger().fed("one", "one").fed("two", "two")
    assert len(ledger.said(wants("one", "two"), wants("two", "one"))) == 2


def test_what_tells_events_of_one_name_apart_may_change() -> None:
    """Metronome's properties are a meter's own matter, as long as no other meter had the same."""
    ledger = Ledger().fed("eu", 'api\n{"region": "eu"}')
    assert ledger.said(wants("eu", 'api\n{"region": "europe"}')) == []
    assert ledger.said(wants("us", 'api\n{"region": "us"}')) == []
    assert ledger.said(wants("europe", 'api\n{"region": "eu"}')) != []


def test_a_renamed_sink_begins_at_the_mark() -> None:
    """In front of the same account it bills nothing again; told to begin before, it is refused."""
    ledger = Ledger().fed("requests")
    assert ledger.said(wants("requests", sink="live")) == []
    [said] = ledger.said(wants("requests", sink="live", bill_from=START))
    assert "Call it stripe again" in said
    assert ledger.said(wants("requests", sink="live", bill_from=MARK)) == []


def test_a_meter_that_is_on_the_books_keeps_the_way_it_is_read() -> None:
    """Its old windows would be read by what has not counted them; with no slot, or under a new name, nothing is wrong."""
    counted = KnownMeter("requests", MARK, (), "windows", has_slots=True)
    wanted = wants("requests")._replace(read="counters")
    [(meter, said)] = refusals([wanted], Memory({"requests": counted}, []))
    assert meter == "requests"
    assert said.startswith(
        "Meter requests is read by `read: windows`, and is to be read by `read: counters`: "
    )
    assert "`bill_until: 2026-11-11T00:00Z`" in said
    assert "`start_at: 2026-11-11T00:00Z`" in said
    [(_, renamed)] = refusals(
        [wanted._replace(name="calls", renamed_from="requests")], Memory({"requests": counted}, [])
    )
    assert renamed.startswith("Meter calls is read by `read: windows`")
    assert not [*refusals([wants("requests")], Memory({"requests": counted}, []))]
    assert not [*refusals([wanted], Memory({"requests": counted._replace(has_slots=False)}, []))]
    assert not [*refusals([wanted._replace(name="calls")], Memory({"requests": counted}, []))]
