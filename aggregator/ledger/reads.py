"""How often each sink was asked for figures, by UTC day, by all processes together."""

from aggregator.ledger.database import Part

BOOK = """
insert into aggregator.read_count (sink_id, day, reads)
values (%(sink)s, (clock_timestamp() at time zone 'UTC')::date, %(reads)s)
    on conflict (sink_id, day) do update set reads = read_count.reads + excluded.reads
returning reads
"""

TODAY = """
select sink.name, read_count.reads from aggregator.read_count join aggregator.sink on sink.id = read_count.sink_id
 where day = (clock_timestamp() at time zone 'UTC')::date order by 1
"""


class Reads(Part):
    """The verbs about reads that are counted."""

    def book(self, sink_id: int, reads: int) -> int:
        """Add reads to the day's count of a sink; return what it comes to."""
        row = self._row(BOOK, {"sink": sink_id, "reads": reads})
        assert row is not None, "what is inserted is returned"
        return int(row[0])

    def today(self) -> dict[str, int]:
        """Return how many reads were made today of each sink."""
        return dict(self._rows(TODAY))
