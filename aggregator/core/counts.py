"""What a round of work came to, counted: added up, and told where it is not zero, in one way for all of them.

Rules
- Every field that is declared as an `int` is a count; the rest of a result is what needs more than a number.
- A shell reads of a result what follows from it: more to do at once, a person, or something left for later.
"""

from dataclasses import dataclass, field, fields


@dataclass(slots=True)
class Counts:
    """The base of every result that is counted."""

    more: bool = field(default=False, kw_only=True)
    """There was more to do than one round takes."""

    @property
    def needs_person(self) -> bool:
        """Whether somebody has to look at what came of it."""
        return False

    @property
    def leaves_work(self) -> bool:
        """Whether something of it waits, and is done by trying again."""
        return False

    def figures(self) -> dict[str, object]:
        """Return what is worth a line in the log."""
        return {name: count for name in self._counted() if (count := getattr(self, name))}

    def summary(self) -> dict[str, object]:
        """Return what is worth knowing of one pass, for programs."""
        return self.figures()

    def add_counts(self, other: object) -> None:
        """Take the counts of the same names of something else into account."""
        for name in self._counted():
            setattr(self, name, getattr(self, name) + getattr(other, name, 0))

    def _counted(self) -> list[str]:
        return [each.name for each in fields(self) if each.type is int]
