"""One block of one file on its way to becoming a model: its keys, where they stand, and what they fall back on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from aggregator.config.documents import Document, Location, dotted, harmless, read_value
from aggregator.config.wording import explain
from aggregator.errors import Problem

Model = TypeVar("Model", bound=BaseModel)

# Keys that exclude one another: a block that has one of them takes none of them from `defaults`.
_ALTERNATIVES = (frozenset({"every", "cron"}),)

_MERGED = ("stripe", "metronome")


@dataclass(frozen=True)
class Section:
    """A block such as `meters.api_requests`, and the `defaults` it takes keys from."""

    document: Document
    location: Location
    own: dict[str, object]
    defaults: "Section | None" = None

    @property
    def name(self) -> str:
        """The last key of where it stands."""
        return str(self.location[-1])

    @property
    def place(self) -> str:
        """File and line, for messages about another block."""
        return f"{self.document.path}:{self.document.line(self.location)}"

    def merged(self) -> dict[str, object]:
        """Return its own keys and, for those it does not set, the defaults; a sink's block is merged key by key."""
        if self.defaults is None:
            return dict(self.own)
        taken = {key: value for key, value in self.defaults.own.items() if not self._excludes(key)}
        both = taken | self.own
        for block in _MERGED:
            inherited, own = taken.get(block), self.own.get(block)
            if isinstance(inherited, dict) and isinstance(own, dict):
                both[block] = inherited | own
        return both

    def _excludes(self, key: str) -> bool:
        return any(key in group and group & self.own.keys() for group in _ALTERNATIVES)

    def text(self, within: Location) -> str:
        """Return what the file says at a place in here, if it may be repeated; else a word that stands for it."""
        written = self._harmless(within)
        return "such name" if written is None else f"`{written}`"

    def _harmless(self, within: Location) -> str | None:
        section = self.defaults if self.defaults and self._inherits(within) else self
        written = section.document.text((*section.location, *within))
        return written if written is not None and harmless(written) else None

    def problem(self, within: Location, message: str) -> None:
        """Note that something is wrong at a place in here, or in the defaults if it comes from there."""
        if self.defaults is None or not self._inherits(within):
            self.document.problem((*self.location, *within), message)
        elif not self.defaults.document.has_problem((*self.defaults.location, *within)):
            home = self.defaults.document
            line = home.line((*self.defaults.location, *within))
            where = dotted((*self.location, *within))
            home.problems.add(Problem(str(home.path), line, where, f"{message} (it comes from `defaults`)"))

    def _inherits(self, within: Location) -> bool:
        """Tell whether the key at this place comes from the defaults."""
        own: object = self.own
        inherited: object = self.defaults.own if self.defaults else {}
        for step in within[:2]:
            if isinstance(own, dict) and step in own:
                own = own[step]
                inherited = inherited.get(step, {}) if isinstance(inherited, dict) else {}
            else:
                return isinstance(inherited, dict) and step in inherited
        return False

    def resolved(self, key: str, limit: int, *, needed: bool) -> dict[str, object]:
        """Return the merged keys with the content of `KEY_file` under KEY; one of the two only."""
        data, filed = self.merged(), f"{key}_file"
        if key in data and filed in data:
            self.problem((filed,), f"and `{key}` are both given: keep one")
        elif filed in data:
            content = self._content(key, data[filed], limit)
            if content is not None:
                data[key] = content
                # As it is found from anywhere: it is read again when a login fails.
                data[filed] = str((self.document.directory / str(data[filed])).absolute())
        elif needed and key not in data:
            self.problem(
                (key,), f"is missing: give `{key}`, or `{filed}` with the path of a file that holds it"
            )
        return data

    def _content(self, key: str, path: object, limit: int) -> str | None:
        filed = f"{key}_file"
        if not isinstance(path, str):
            self.problem((filed,), "must be text, the path of a file")
            return None
        try:
            text = read_value(self.document.directory / path, limit)
        except FileNotFoundError:
            hint = (
                f"put it under `{key}` if it is no path"
                if self._harmless((filed,)) is None
                else "create it, or correct the path"
            )
            self.problem((filed,), f"names a file that is not there: {hint}")
        except OSError as error:
            self.problem(
                (filed,), f"names a file that cannot be read ({error.strerror}): let this user read it"
            )
        except ValueError as error:
            self.problem((filed,), f"names a file that cannot be used, because it {error}")
        else:
            if text.strip():
                return text
            self.problem((filed,), f"names an empty file: put the {key} in it")
        return None

    def build(self, model: type[Model], data: Mapping[str, object], *, partly: bool = False) -> Model | None:
        """Return the block as a model, or None with everything noted that is wrong with it.

        With `partly`, keys that are missing are no problem.
        """
        try:
            return model.model_validate(data)
        except ValidationError as error:
            for each in error.errors(include_url=False):
                if not (partly and each["type"] == "missing"):
                    within: Location = each.get("ctx", {}).get("within", ())
                    self.problem((*self._as_written(each["loc"]), *within), explain(model, each))
        return None

    def _as_written(self, location: Location) -> Location:
        """Return where to look for a value: the content of `KEY_file` is complained of at `KEY_file`."""
        if not location:
            return location
        filed = f"{location[0]}_file"
        from_file = location[0] not in self.own and filed in self.own
        return (filed, *location[1:]) if from_file else location
