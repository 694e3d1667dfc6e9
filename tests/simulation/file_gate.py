"""What a process of a simulated world has for a sink of files: the real bytes and names, and a store that fails."""

from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from io import BytesIO

from aggregator.errors import SinkHalted, SinkUnreachable
from aggregator.model import Bounds, Encoding, Event, Written
from aggregator.sinks import Batch
from aggregator.sinks.files import making
from aggregator.sinks.files.formats import JsonFormat
from aggregator.sinks.files.sink import SinkOfFiles, there_already
from aggregator.sinks.stripe.meter import StripeMeter
from tests.simulation.climate import MINUTE, Climate
from tests.simulation.gates import MILLISECOND, Gate
from tests.simulation.names import called
from tests.simulation.place import Place
from tests.simulation.service import Service
from tests.simulation.watch_files import Filed

WAIT = 30 * MINUTE


class FileGate(SinkOfFiles):
    """A sink of JSON Lines in a simulated place."""

    def __init__(
        self, gate: Gate, service: Service, place: Place, watch: Filed, name: str, meters: list[str]
    ) -> None:
        known = {meter: StripeMeter(event_name=called(meter)) for meter in meters}
        super().__init__(
            name,
            place="simulated",
            by_hand=False,
            bounds=bounds(gate.climate),
            form=JsonFormat(known, lines=True),
            encoding=Encoding.NUMBER,
            meters=known,
        )
        self._gate = gate
        self._service = service
        self._simulated = place
        self._watch = watch

    def _write(self, batch: Batch, may_go_on: Callable[[], bool]) -> Written | None:
        gate, file = self._gate, BytesIO()
        if self._service.halted:
            raise SinkHalted
        written = making.make(file, self._one_by_one(batch), self._form, may_go_on)
        if written is None or not may_go_on():
            gate.marks.saw("a file is left unnamed")
            return None
        gate.step()
        self._publish(written, file.getvalue())
        gate.step()
        return written

    def preflight(self, meters: Iterable[str]) -> list[str]:
        """Fit every meter."""
        return []

    def account(self) -> str | None:
        """Go nowhere that is known."""
        return None

    def _one_by_one(self, batch: Batch) -> Iterator[Event]:
        if batch.again:
            self._gate.marks.saw("a file is taken over")
        for event in batch.events:
            self._gate.step(self._gate.random.randint(1, 100) * MILLISECOND)
            self._watch.written(event)
            yield event

    def _publish(self, written: Written, content: bytes) -> None:
        gate, climate = self._gate, self._gate.climate
        dice = gate.random.random()
        if self._service.in_black_hole() or dice < climate.lost_before:
            gate.marks.saw("the store is away")
            raise SinkUnreachable
        before = self._simulated.publish(written.name, content)
        self._watch.published(written.name, content)
        gate.story.tell(
            gate.process.name, "writes", written.name, "(there already)" if before is not None else ""
        )
        if before is not None:
            gate.marks.saw("a file is there already")
            if trouble := there_already(
                written.name, self.place, (len(before), sha256(before).hexdigest()), written
            ):
                raise SinkHalted(trouble)
        if dice > 1 - climate.lost_after:
            gate.marks.saw("a file is there, and the answer is lost")
            raise SinkUnreachable


def bounds(climate: Climate) -> Bounds:
    """Return when files are closed."""
    return Bounds(climate.batch, 2_000, WAIT)
