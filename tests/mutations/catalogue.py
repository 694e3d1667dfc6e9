"""The mistakes: where each is made, and which tests must notice it.

A mistake is a piece of code that stands once in its file, and what stands there instead. `tests/tidy/test_mutations.py`
holds the catalogue to the code as it is.
"""

from typing import NamedTuple


class Mistake(NamedTuple):
    """One mistake, made by replacing `right` by `wrong` in a file."""

    name: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]

    def made_in(self, text: str) -> str:
        """Return the file's text with the mistake in it."""
        assert text.count(self.right) == 1, (
            f"{self.name}: {self.right!r} stands {text.count(self.right)} times"
        )
        return text.replace(self.right, self.wrong)


MISTAKES: tuple[Mistake, ...] = (
    Mistake(
        "a pass commits under an epoch that is over",
        "aggregator/ledger/passes.py",
        " where id = %(meter_id)s and epoch = %(epoch)s and lease_owner = %(owner)s\n   for update",
        " where id = %(meter_id)s and lease_owner = %(owner)s\n   for update",
        ("tests/postgres/test_leases.py",),
    ),
)
