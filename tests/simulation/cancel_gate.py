"""What a process of a simulated world has to take events back from the service."""

from aggregator.core.model import Answer
from aggregator.core.notifications import CancelResult
from tests.simulation.conditions import HOUR, MINUTE
from tests.simulation.gates import MILLISECOND, Gate
from tests.simulation.service import Service


class CancelGate:
    """The service's cancellations, over a network that loses, delays and repeats."""

    def __init__(self, gate: Gate, service: Service) -> None:
        self._gate = gate
        self._service = service

    def cannot_cancel(self, meter: str) -> str | None:
        """Cancel for every meter."""
        return None

    def cancel(self, meter: str, identifier: str, transport: str) -> CancelResult:
        """Ask once."""
        gate = self._gate
        gate.step()
        said = self._ask(identifier)
        gate.trace.tell(gate.process.name, "cancels", identifier, "->", said.answer, said.complete)
        gate.step(gate.random.randint(50, 150) * MILLISECOND)
        return said

    def _ask(self, identifier: str) -> CancelResult:
        gate, service, conditions = self._gate, self._service, self._gate.conditions
        dice = gate.random.random
        lost = CancelResult(Answer.UNKNOWN, False, "no answer")
        if service.halted or dice() < conditions.busy:
            return CancelResult(Answer.BUSY, False, "not now")
        if dice() < conditions.lost_before or service.in_black_hole():
            return lost
        if dice() < conditions.delayed:
            gate.marks.saw("cancellation delivered late")
            gate.scheduler.after(30 * MINUTE * dice(), lambda: self._arrive(identifier))
            return lost
        refused = service.cannot_cancel(identifier)
        if refused is not None:
            gate.marks.saw("cancellation refused")
            return lost if dice() < conditions.lost_after else CancelResult(Answer.REFUSED, False, refused)
        pending = dice() < conditions.pending
        if pending:
            gate.marks.saw("cancellation pending")
            gate.scheduler.after(HOUR * dice(), lambda: self._arrive(identifier))
        else:
            service.cancel(identifier)
        if dice() < conditions.lost_after:
            gate.marks.saw("cancelled, and the answer is lost")
            return lost
        return CancelResult(Answer.ACCEPTED, not pending, "pending" if pending else "complete")

    def _arrive(self, identifier: str) -> None:
        self._service.cancel(identifier)
