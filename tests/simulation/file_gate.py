"""What a process of a simulated world has for a sink of files: the real bytes and names, and a store that fails."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from io import BytesIO

from aggregator.core.model import Bounds, Event, Written
from aggregator.errors import SinkHalted, SinkUnreachable
from aggregator.sinks.files import making
from aggregator.sinks.files.formats import JsonFormat
from aggregator.sinks.files.sink import SinkOfFiles, there_already
from aggregator.sinks.protocol import Batch
from aggregator.sinks.stripe_meter import StripeMeter
from tests.simulation.conditions import MINUTE, Conditions
from tests.simulation.gates import MILLISECOND, Gate
from tests.simulation.invariants_files import Filed, path_of
from tests.simulation.names import called
from tests.simulation.place import Place
from tests.simulation.service import Service

WAIT = 30 * MINUTE


class FileGate(SinkOfFiles):
    """A sink of JSON Lines in a simulated place; `where` names it."""

    def __init__(
        self,
        gate: Gate,
        service: Service,
        place: Place,
        watch: Filed,
        name: str,
        where: str,
        meters: list[str],
    ) -> None:
        known = {meter: StripeMeter(event_name=called(meter)) for meter in meters}
        super().__init__(
            name,
            place=where,
            by_hand=gate.conditions.by_hand,
            bounds=bounds(gate.conditions),
            form=JsonFormat(known, lines=True),
        )
        self._gate = gate
        self._service = service
        self._simulated = place
        self._watch = watch

    def _write(self, batch: Batch, may_go_on: Callable[[], bool]) -> Written | None:
        gate, file, events = self._gate, BytesIO(), list[Event]()
        if self._service.halted:
            raise SinkHalted
        written = making.make(file, self._one_by_one(batch, events), self._form, may_go_on)
        if written is None or not may_go_on():
            gate.marks.saw("a file is left unnamed")
            return None
        if not (gate.conditions.restores or gate.conditions.place_moves):
            gate.step()  # who takes a file away, or gives it up, believes that nobody is so late
        self._publish(written, file.getvalue(), events)
        gate.step()
        return written

    def preflight(self, meters: Iterable[str]) -> list[str]:
        """Fit every meter."""
        return []

    def account(self) -> str | None:
        """Go nowhere that is known."""
        return None

    def _one_by_one(self, batch: Batch, seen: list[Event]) -> Iterator[Event]:
        if batch.again:
            self._gate.marks.saw("a file is taken over")
        for event in batch.events:
            self._gate.step(self._gate.random.randint(1, 100) * MILLISECOND)
            seen.append(event)
            yield event

    def _publish(self, written: Written, content: bytes, events: Sequence[Event]) -> None:
        gate, conditions, path = self._gate, self._gate.conditions, path_of(self.place, written.name)
        dice = gate.random.random()
        if self._service.in_black_hole() or dice < conditions.lost_before:
            gate.marks.saw("the store is away")
            raise SinkUnreachable
        self._watch.leaves(path, events)
        if gate.random.random() < conditions.delayed:
            gate.marks.saw("an upload is completed late")

            def appear() -> None:
                self._appear(path, content, events)

            gate.scheduler.after(30 * MINUTE * gate.random.random(), appear)
            raise SinkUnreachable
        before = self._appear(path, content, events)
        gate.trace.tell(gate.process.name, "writes", path, "(there already)" if before is not None else "")
        if before is not None:
            gate.marks.saw("a file is there already")
            if trouble := there_already(
                written.name, self.place, (len(before), sha256(before).hexdigest()), written
            ):
                raise SinkHalted(trouble)
        if dice > 1 - conditions.lost_after:
            gate.marks.saw("a file is there, and the answer is lost")
            raise SinkUnreachable

    def _appear(self, path: str, content: bytes, events: Sequence[Event]) -> bytes | None:
        before = self._simulated.publish(path, content, events)
        self._watch.published(path, content)
        return before


def bounds(conditions: Conditions) -> Bounds:
    """Return when files are closed."""
    return Bounds(conditions.batch, 2_000, WAIT)
