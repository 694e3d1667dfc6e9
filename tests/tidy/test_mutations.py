"""The catalogue of mistakes is true of the code as it is."""

from pathlib import Path

import pytest

from tests.mutations.catalogue import MISTAKES, Mistake

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_can_be_made(mistake: Mistake) -> None:
    """Its code stands once in its file, another would stand there, and the tests that must notice it are there."""
    assert mistake.made_in((ROOT / mistake.file).read_text()) != (ROOT / mistake.file).read_text()
    assert mistake.file.startswith("aggregator/"), "all tests share a ledger that is migrated once"
    assert mistake.tests
    for test in mistake.tests:
        path, _, name = test.partition("::")
        text = (ROOT / path).read_text()
        assert not name or f"def {name.partition('[')[0]}(" in text, test


def test_each_mistake_has_a_name_of_its_own() -> None:
    """A name tells what goes wrong, and is said once."""
    assert len({mistake.name for mistake in MISTAKES}) == len(MISTAKES)
