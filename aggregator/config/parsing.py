"""YAML text to plain values, every `${VAR}` replaced.

Rules
- YAML 1.2, safe: the text is read as a tree of nodes, and only text, numbers, booleans, lists and mappings
  come out of it. No tag makes an object.
- A key given twice is a mistake, not a choice. So is a key without a value.
- Variables are replaced after parsing, in text values only, so nothing in the environment can become YAML.
  A `query` is taken literally.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from aggregator.config.documents import (
    STANDARD_TAG,
    Document,
    Location,
    Problems,
    dotted,
    harmless,
    line_of,
    pairs,
)
from aggregator.errors import Problem

LITERAL_KEYS = frozenset({"query", "detail_query"})
"""Keys whose text is never searched for variables."""

DEEPEST = 40
"""Levels of a file. A configuration has six."""

MOST_VALUES = 200_000
"""Values of a file, those behind an alias counted each time: far more than the longest file has."""

TOO_DEEP = "is nested too deeply: a configuration is a few levels deep"

_VARIABLE = re.compile(r"(\$)?\$\{([^}]*)\}")
_VARIABLE_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


class _Unusable(Exception):
    """A text that cannot be read at all."""

    def __init__(self, line: int | None, reason: str) -> None:
        super().__init__(reason)
        self.line = line
        self.reason = reason


def parse(path: Path, text: str, env: Mapping[str, str], problems: Problems) -> Document | None:
    """Return what the text says, or None if it has no usable content; what is wrong goes to `problems`."""
    try:
        root = _root(text)
        document = Document(path, {}, root, problems)
        document.data.update(_Conversion(document, env).mapping(root, ()))
    except _Unusable as unusable:
        problems.add(Problem(str(path), unusable.line, "", unusable.reason))
        return None
    except RecursionError:
        problems.add(Problem(str(path), None, "", TOO_DEEP))
        return None
    return document


def _root(text: str) -> MappingNode:
    if re.search(r"^%YAML\s+(?!1\.2\b)", text, re.MULTILINE):
        raise _Unusable(1, "asks for an old YAML, in which `no` is false: remove the `%YAML` line")
    try:
        root = _compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if "maximum depth" in str(error.problem):
            raise _Unusable(mark.line + 1 if mark else None, TOO_DEEP) from None
        raise _Unusable(mark.line + 1 if mark else None, _syntax_hint(str(error.problem))) from None
    except YAMLError:
        raise _Unusable(None, "holds a character that YAML does not allow: remove it") from None
    if root is None:
        raise _Unusable(
            None, "is empty: write a configuration, or let `aggregator init` write one to start from"
        )
    if not isinstance(root, MappingNode):
        raise _Unusable(line_of(root), "must be a mapping of keys such as `sources:` and `meters:`")
    _bounded(root)
    return root


def _bounded(root: Node) -> None:
    """Refuse aliases that stand for aliases that stand for aliases: a few lines of them unfold to more than any memory."""
    sizes: dict[int, int] = {}

    def size(node: Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = (
                0  # an alias that leads back to where it stands is another mistake, and is named as that
            )
            parts = node.value if not isinstance(node, ScalarNode) else ()
            inner = (each for part in parts for each in (part if isinstance(part, tuple) else (part,)))
            sizes[id(node)] = 1 + sum(map(size, inner))
            if sizes[id(node)] > MOST_VALUES:
                raise _Unusable(
                    line_of(node),
                    "holds aliases that unfold to more than anybody can have meant: write them out",
                )
        return sizes[id(node)]

    size(root)


def _compose(text: str) -> Node | None:
    yaml = YAML()
    yaml.max_depth = DEEPEST
    yaml.composer.warn_double_anchors = False  # an anchor may be given anew; YAML says the last one counts
    root: Node | None = yaml.compose(text)
    return root


# What the parser says, and what a person should do about it. The parser's own words may quote the file, so
# they go no further.
_SYNTAX_HINTS = {
    "mapping values are not allowed": "a `:` too many, or wrong indentation: quote text that contains `: `",
    "another document": "there must be one document only: remove the second `---`",
    "undefined alias": "an alias `*name` has no anchor `&name` before it",
    "character '\\t'": "a tab: indent with spaces",
    "that cannot start any token": "text that starts with a special character: put it in quotes",
    "expected <block end>": "the indentation does not fit the lines above",
    "unexpected end of stream": "a quote that is not closed",
    "could not find expected ':'": "a key without its `:`",
    "expected ',' or": "a bracket that is not closed: put text with { } [ ] in quotes",
}


def _syntax_hint(problem: str) -> str:
    hints = (hint for words, hint in _SYNTAX_HINTS.items() if words in problem)
    return f"is not valid YAML: {next(hints, 'check the indentation and the quotes on this line')}"


class _Conversion:
    """Turns nodes into plain values. Each node is converted once, however many aliases lead to it."""

    def __init__(self, document: Document, env: Mapping[str, str]) -> None:
        self.document = document
        self.env = env
        self.done: dict[tuple[int, bool], object] = {}
        self.open: set[int] = set()

    def value(self, node: Node, location: Location) -> object:
        literal = bool(location) and location[-1] in LITERAL_KEYS
        known = (id(node), literal)
        if known not in self.done:
            self.done[known] = self._convert(node, location, literal=literal)
        return self.done[known]

    def _convert(self, node: Node, location: Location, *, literal: bool) -> object:
        if isinstance(node, ScalarNode):
            return self._scalar(node, location, literal=literal)
        if id(node) in self.open:
            self.document.problem(location, "contains itself: an alias leads back to where it stands")
            return {}
        if not str(node.tag).startswith(STANDARD_TAG):
            self.document.problem(location, "has a YAML tag: remove the word that starts with `!`")
        self.open.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return self.mapping(node, location)
            return [self.value(item, (*location, index)) for index, item in enumerate(node.value)]
        finally:
            self.open.discard(id(node))

    def mapping(self, node: MappingNode, location: Location) -> dict[str, object]:
        values: dict[str, object] = {}
        own: dict[str, int] = {}
        for key, value in pairs(node):
            if not isinstance(key, ScalarNode) or not str(key.tag).endswith((":str", ":timestamp")):
                self.document.problem(location, "has a key that is not text: put the key in quotes")
                continue
            here = (*location, key.value)
            if key.value not in values:
                values[key.value] = self.value(value, here)
                own[key.value] = line_of(key)
            elif any(key is mine for mine, _ in node.value):
                self._twice(here, own[key.value], line_of(key))
        return values

    def _twice(self, location: Location, first: int, second: int) -> None:
        message = f"is given twice, first on line {first}: remove one of them"
        self.document.problems.add(Problem(str(self.document.path), second, dotted(location), message))

    def _scalar(self, node: ScalarNode, location: Location, *, literal: bool) -> object:
        text = str(node.value)
        match str(node.tag).removeprefix(STANDARD_TAG):
            case "str" | "timestamp":
                return text if literal else self._expand(text, location)
            case "null":
                self.document.problem(location, "has no value: give it one, or remove the line")
                return None
            case "bool" | "int" | "float" as kind:
                return _plain(kind, text)
            case _:
                self.document.problem(location, "has a YAML tag: remove the word that starts with `!`")
                return None

    def _expand(self, text: str, location: Location) -> str:
        """Replace `${VAR}` by its value and `$${` by `${`."""

        def replace(match: re.Match[str]) -> str:
            escaped, name = match.groups()
            if escaped:
                return match[0][1:]
            if not _VARIABLE_NAME.fullmatch(name):
                self.document.problem(
                    location, "has a `${...}` that is no variable: write `${NAME}`, or `$${` for `${`"
                )
            elif name not in self.env:
                self.document.problem(
                    location, f"needs the environment variable {_shown(name)}, which is not set: set it"
                )
            return self.env.get(name, match[0])

        return _VARIABLE.sub(replace, text)


def _shown(name: str) -> str:
    return name if harmless(name) else "it names"


def _plain(kind: str, text: str) -> object:
    """Return a YAML 1.2 boolean or number; text that only looks like one stays text."""
    try:
        if kind == "bool":
            return {"true": True, "false": False}.get(text.lower(), text)
        if kind == "float":
            return float(text.replace(".inf", "inf").replace(".nan", "nan"))
        return int(text, 0 if text.lstrip("+-")[:2].lower() in {"0x", "0o", "0b"} else 10)
    except ValueError:
        return text
