"""Nothing that comes with the package may be used only on terms that a company would have to ask its lawyers about."""

import importlib.metadata
import re
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OURS = "usage-aggregator"

FREE = {
    "0BSD",
    "Apache",
    "Apache Software License",
    "Apache License 2.0",
    "Apache License, Version 2.0",
    "Apache-2.0",
    "BSD",
    "BSD License",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "MIT License",
    "MIT-0",
    "MPL-2.0",
    "PSF-2.0",
    "Python Software Foundation License",
    "Unlicense",
    "Zlib",
}
"""Licences that ask for a notice, or for the source of what was changed of the library itself."""

BY_NAME = {
    "certifi": "MPL-2.0 in its own words; a list of certificates, used as it is",
    "psycopg": "LGPL-3.0-only: imported, neither changed nor linked into anything of ours",
    "psycopg-binary": "LGPL-3.0-only: imported, neither changed nor linked into anything of ours",
    "psycopg-pool": "LGPL-3.0-only: imported, neither changed nor linked into anything of ours",
    "protobuf": "BSD-3-Clause in its own words",
}
"""What is used although its licence is not among those, or is not named by its identifier, with the reason."""


def closure(name: str, wanted: frozenset[str] = frozenset()) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield each distribution that comes with one, as far as it is installed here, with the extras asked of it."""
    waiting, seen = [(canonicalize_name(name), wanted)], set()
    while waiting:
        each = waiting.pop()
        if each in seen:
            continue
        seen.add(each)
        try:
            asked = importlib.metadata.requires(each[0]) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed here
        yield each
        for requirement in map(Requirement, asked):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *each[1])):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))


def extras() -> frozenset[str]:
    """Return every extra but the one for who works on the project."""
    return frozenset(importlib.metadata.metadata(OURS).get_all("Provides-Extra") or []) - {"dev"}


COMES_WITH = sorted({name for name, _ in closure(OURS, extras())} - {OURS})


def licences(name: str) -> set[str]:
    """Return the licences a distribution names: by an expression, else by its classifiers, else in a line."""
    told = importlib.metadata.metadata(name).json
    if expression := told.get("license_expression"):
        return set(re.split(r" AND | OR |[()]", str(expression))) - {""}
    classified = [str(each) for each in told.get("classifier") or [] if each.startswith("License :: ")]
    if classified:
        return {each.rpartition(" :: ")[2] for each in classified} - {"OSI Approved"}
    return {str(told["license"]).splitlines()[0]} if told.get("license") else set()


def test_the_closure_is_whole() -> None:
    """What follows looks at something: what is asked for, and what that asks for."""
    assert {"aiohttp", "multidict", "psycopg-binary", "botocore", "pymysql", "cryptography"} <= set(
        COMES_WITH
    )


@pytest.mark.parametrize("name", COMES_WITH)
def test_a_dependency_is_free_to_use(name: str) -> None:
    """Each names a licence that asks for little, or stands in the list of those that somebody looked at."""
    named = licences(name)
    assert named, f"{name} names no licence: look for it, and say so in BY_NAME"
    assert name in BY_NAME or named & FREE, f"{name}: {', '.join(named)}"


def test_nobody_is_listed_for_nothing() -> None:
    """A name in the list is one of a dependency that the rule would refuse."""
    assert [name for name in BY_NAME if name in COMES_WITH and licences(name) & FREE] == []
