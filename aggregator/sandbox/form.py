"""Parameters as Stripe's v1 takes them: form-encoded, with brackets for what is nested.

`payload[value]=25&expand[]=a` becomes `{"payload": {"value": "25"}, "expand": ["a"]}`. Every leaf is a string, because
the encoding has nothing else: `25` and `"25"` are the same bytes. `Params` reads those strings as the endpoint wants
them and refuses, with the parameter's name, whatever the endpoint does not know.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar, Union
from urllib.parse import parse_qsl

from aggregator.sandbox.errors import ApiError, invalid, missing_param, unknown_param

Tree = dict[str, Union[str, list[str], "Tree"]]
Choice = TypeVar("Choice", bound=str)

# More than any call here needs; a limit, so that a hostile body costs little.
MAX_FIELDS = 500


def parse_form(text: str) -> Tree:
    """Return the nested parameters. Raise ApiError when a name is used both plainly and with brackets."""
    tree: Tree = {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise ApiError(400, f"The request body could not be read: {error}.", reason="bad_form") from error
    for name, value in pairs:
        if "[" in name:
            _put(tree, name, value)
        else:
            tree[name] = value
    return tree


def _put(tree: Tree, name: str, value: str) -> None:
    head, _, rest = name.partition("[")
    path = [head, *rest.removesuffix("]").split("][")]
    here = tree
    for step in path[:-2]:
        here = _branch(here, step, name)
    if path[-1] == "":
        _append(here, path[-2], value, name)
    else:
        _branch(here, path[-2], name)[path[-1]] = value


def _branch(tree: Tree, step: str, name: str) -> Tree:
    branch = tree.setdefault(step, {})
    if not isinstance(branch, dict):
        raise invalid(f"{name} is given twice, in two shapes.", name, reason="bad_form")
    return branch


def _append(tree: Tree, step: str, value: str, name: str) -> None:
    leaf = tree.setdefault(step, [])
    if not isinstance(leaf, list):
        raise invalid(f"{name} is given twice, in two shapes.", name, reason="bad_form")
    leaf.append(value)


class Params:
    """Typed access to one level of parameters; `within` is the name of the level above."""

    __slots__ = ("_tree", "_within")

    def __init__(self, tree: Tree, within: str = "") -> None:
        self._tree = tree
        self._within = within

    def name_of(self, key: str) -> str:
        """Return the parameter's full name, as the caller wrote it."""
        return f"{self._within}[{key}]" if self._within else key

    def only(self, *known: str) -> None:
        """Refuse any parameter but these and `expand`, which every v1 endpoint takes."""
        for key in self._tree:
            if key not in known and key != "expand":
                raise unknown_param(self.name_of(key))

    def text(self, key: str, *, limit: int = 5000) -> str | None:
        """Return a string of at most `limit` characters, or None when it is not given."""
        value = self._tree.get(key)
        if value is None:
            return None
        name = self.name_of(key)
        if not isinstance(value, str):
            raise invalid(f"{name} must be a string, but it is {shape(value)}.", name)
        if not value:
            raise invalid(f"{name} is an empty string. Leave it out or give it a value.", name)
        if len(value) > limit:
            raise invalid(f"{name} is {len(value)} characters long; at most {limit} are allowed.", name)
        return value

    def required(self, key: str, *, limit: int = 5000) -> str:
        """Return a string which must be there."""
        value = self.text(key, limit=limit)
        if value is None:
            raise missing_param(self.name_of(key))
        return value

    def integer(self, key: str) -> int | None:
        """Return a whole number, or None when it is not given."""
        value = self.text(key, limit=20)
        if value is None:
            return None
        if not value.removeprefix("-").isdecimal() or not value.isascii():
            name = self.name_of(key)
            raise invalid(
                f"{name} must be a whole number, but it is {value!r}.", name, code="parameter_invalid_integer"
            )
        return int(value)

    def required_integer(self, key: str) -> int:
        """Return a whole number which must be there."""
        value = self.integer(key)
        if value is None:
            raise missing_param(self.name_of(key))
        return value

    def choice(self, key: str, options: Sequence[Choice]) -> Choice | None:
        """Return one of the options, or None when it is not given."""
        value = self.text(key)
        if value is None:
            return None
        for option in options:
            if option == value:
                return option
        name = self.name_of(key)
        raise invalid(f"{name} must be one of {', '.join(options)}, but it is {value!r}.", name)

    def texts(self, key: str, *, most: int) -> list[str] | None:
        """Return a list of at most so many strings, however its items are numbered; None when it is not given."""
        value = self._tree.get(key)
        if value is None:
            return None
        items = list(value.values()) if isinstance(value, dict) else value
        items = [items] if isinstance(items, str) else items
        texts = [item for item in items if isinstance(item, str)]
        if len(texts) != len(items) or len(texts) > most:
            name = self.name_of(key)
            raise invalid(f"{name} must be a list of at most {most} strings.", name)
        return texts

    def section(self, key: str) -> "Params":
        """Return the parameters nested under a name; none at all when it is not given."""
        value = self._tree.get(key, {})
        name = self.name_of(key)
        if not isinstance(value, dict):
            raise invalid(f"{name} must be a map, but it is {shape(value)}.", name)
        return Params(value, name)

    def sections(self, key: str) -> "Iterator[Params]":
        """Yield the items of a list of maps, however they are numbered; nothing when it is not given."""
        items = self.section(key)
        for number in items.names():
            yield items.section(number)

    def names(self) -> list[str]:
        """Return the names of this level."""
        return list(self._tree)

    def strings(self) -> dict[str, str]:
        """Return this level as a flat map; a value that is itself nested is refused by its kind."""
        return dict(self._flat())

    def _flat(self) -> Iterator[tuple[str, str]]:
        for key, value in self._tree.items():
            if not isinstance(value, str):
                name = self.name_of(key)
                raise invalid(
                    f"{name} must be a string, but it is {shape(value)}.", name, reason="nested_value"
                )
            yield key, value


def shape(value: object) -> str:
    """Say in words of what kind a value is."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, dict):
        return "a map"
    return "a list" if isinstance(value, list) else "a string"
