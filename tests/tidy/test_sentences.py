"""What is said to a person decides nothing: no code compares a sentence of ours, in Python or in SQL."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for path in (ROOT / "aggregator").rglob("*.py") if "sandbox" not in path.parts)

OF_OTHERS = {
    "one statement at a time": "Python's sqlite3 gives no code for it",
    "maximum depth": "nor does the YAML parser",
    "already exists with identifier": "nor does Stripe, for every version of its API",
    "No such": "likewise",
    "server closed the connection unexpectedly": "nor does libpq, before a session has begun",
    "Seq Scan": "a word of Postgres's plans",
    "Relation Name": "a key of Postgres's plans",
    "Using where": "a word of MySQL's plans",
    "WITH GRANT OPTION": "words of its grants",
    "ALL PRIVILEGES": "likewise",
}
"""What others say that has to be understood, each with its reason."""

WORDS = (ast.Eq, ast.NotEq, ast.In, ast.NotIn)
METHODS = {"startswith", "endswith", "removeprefix", "removesuffix"}

IN_SQL = re.compile(
    r"(?:\b(?:where|and|or|when|on)\s+|\b\w+\.)\w*(?:reason|found|answer)\s*"
    r"(?:=|<>|~|!~|like\b|is (?:not )?distinct from)",
    re.IGNORECASE,
)
"""A column that holds a sentence, compared; where it is set, it stands without its table."""


def is_sentence(text: object) -> bool:
    """Tell whether a constant is more than a word."""
    return isinstance(text, str) and " " in text.strip()


def sentences(tree: ast.Module) -> dict[str, str]:
    """The constants of a module that are sentences, by name."""
    return {
        target.id: str(node.value.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and is_sentence(node.value.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


PATHS = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in MODULES}


@cache
def tree_of(name: str) -> ast.Module:
    """Return a module as Python reads it. All of them take two seconds, which no worker needs that is given none."""
    return ast.parse(PATHS[name].read_text())


@cache
def sentences_of(name: str) -> dict[str, str]:
    """The constants of one of our modules that are sentences, by name; none of what is not ours."""
    return sentences(tree_of(name)) if name in PATHS else {}


def known_in(name: str) -> dict[str, str]:
    """The sentences that a module has a name for: its own, and those that it imports."""
    known = dict(sentences_of(name))
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.ImportFrom):
            theirs = sentences_of(node.module or "")
            known |= {
                each.asname or each.name: theirs[each.name] for each in node.names if each.name in theirs
            }
    return known


def said(node: ast.expr, known: dict[str, str]) -> str | None:
    """Return what an expression says, if it is a sentence."""
    match node:
        case ast.Constant(value=str(text)) if is_sentence(text):
            return text
        case ast.Name(id=name):
            return known.get(name)
        case ast.JoinedStr(values=values):
            parts = [str(part.value) for part in values if isinstance(part, ast.Constant)]
            return "...".join(parts) if any(" " in part for part in parts) else None
        case ast.Tuple(elts=elts) | ast.Set(elts=elts) | ast.List(elts=elts):
            return next(filter(None, (said(each, known) for each in elts)), None)
        case _:
            return None


def decisions(name: str) -> Iterator[tuple[int, str]]:
    """Every sentence that a module compares something with, and where."""
    known = known_in(name)
    for node in ast.walk(tree_of(name)):
        compared: list[ast.expr] = []
        if isinstance(node, ast.Compare) and any(isinstance(each, WORDS) for each in node.ops):
            compared = [node.left, *node.comparators]
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS
        ):
            compared = node.args
        for each in compared:
            sentence = said(each, known)
            if sentence is not None and sentence not in OF_OTHERS:
                yield each.lineno, sentence


@pytest.mark.parametrize("name", PATHS)
def test_no_sentence_decides(name: str) -> None:
    """Of what kind a thing is stands in a field, a column or an enum; a reason may be put into better words any day."""
    assert list(decisions(name)) == []
    texts = (node.value for node in ast.walk(tree_of(name)) if isinstance(node, ast.Constant))
    assert [found[0] for text in texts if isinstance(text, str) for found in IN_SQL.finditer(text)] == []


IN_TWO_LINES = re.compile(r"[\w.,;:)`][\"']\n\s+[fr]?[\"'][\w`(]")
"""A text that goes on in the next line of the source without a space before or after."""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT / "aggregator").as_posix())
def test_no_two_words_run_together(path: Path) -> None:
    """Where the source of a sentence goes on in another line, one of the two lines has the space between the words."""
    assert IN_TWO_LINES.findall(path.read_text()) == []
