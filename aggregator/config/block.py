"""What every block of the file has in common."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

SecretFile = Annotated[Path, Field(strict=False)]


def in_a_file(key: str, what: str, example: str) -> Any:
    """Describe the key that names a file with the value of another key."""
    description = f"File that holds {what}, instead of `{key}`; relative to this file."
    return Field(default=None, description=description, examples=[example])


class Block(BaseModel):
    """One block of the file: unknown keys are refused, values are not converted, nothing changes later."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        hide_input_in_errors=True,
        defer_build=True,
    )

    def named(self, *names: str) -> dict[str, Any]:
        """Return settings by name, as they are: for whoever calls them the same."""
        return {name: getattr(self, name) for name in names}
