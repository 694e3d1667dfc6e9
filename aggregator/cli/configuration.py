"""Which configuration is in force, as `status` says it: since when, what it changed, and whether the files say more."""

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple, Self

from aggregator.core.shown import shown

if TYPE_CHECKING:
    from aggregator.config import Config
    from aggregator.config.changes import ChangedSetting
    from aggregator.ledger.configurations import Configuration


class ConfigurationShown(NamedTuple):
    """The configuration in force, what it changed, and in what the files on disk differ from it."""

    in_force: "Configuration | None"
    changed: "list[ChangedSetting]"
    not_yet: "list[ChangedSetting]"
    defined_since: Mapping[str, dt.datetime]

    @classmethod
    def of(
        cls,
        config: "Config",
        in_force: "Configuration | None",
        before: "Configuration | None",
        defined_since: Mapping[str, dt.datetime],
    ) -> Self:
        """Compare what is in force with what it was before, and with the files."""
        from aggregator.config.changes import blocks_of, changed_configuration, settings_of

        if in_force is None:
            return cls(None, [], [], defined_since)
        changed = (
            changed_configuration(before.meters, in_force.meters, before.blocks, in_force.blocks)
            if before
            else []
        )
        not_yet = changed_configuration(
            in_force.meters, settings_of(config.meters), in_force.blocks, blocks_of(config)
        )
        return cls(in_force, changed, not_yet, defined_since)

    def lines(self) -> Iterator[str]:
        """Say it for people."""
        if self.in_force is None:
            return
        yield (
            f"Configuration: in force since {shown(self.in_force.loaded_at)} UTC, {self.in_force.describe()}"
            f"{':' if self.changed else '.'}"
        )
        for change in self.changed:
            yield f"  {change}{self._from(change)}."
        if self.not_yet:
            yield (
                "The files here differ from that, and are not in force: send SIGHUP to the daemon "
                "or restart it, or "
                "call `aggregator run --once`."
            )
            for change in self.not_yet:
                yield f"  {change}."

    def figures(self) -> dict[str, object] | None:
        """Return it for programs."""
        if self.in_force is None:
            return None
        return {
            "loaded_at": self.in_force.loaded_at,
            "host": self.in_force.host,
            "process": self.in_force.process,
            "applied_by": self.in_force.applied_by,
            "reason": self.in_force.reason,
            "changed": [{**change._asdict(), "holds_from": self._window(change)} for change in self.changed],
            "not_in_force": [change._asdict() for change in self.not_yet],
        }

    def _window(self, change: "ChangedSetting") -> dt.datetime | None:
        return self.defined_since.get(change.meter) if change.from_a_window else None

    def _from(self, change: "ChangedSetting") -> str:
        window = self._window(change)
        if window is not None:
            return f"; holds from the window {shown(window)} UTC on"
        return "; holds at once" if change.key else ""
