"""Building anew from the files, on SIGHUP: what works is replaced, or goes on if what the files say cannot be built."""

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from aggregator.config import Config
from aggregator.errors import AggregatorError
from aggregator.runtime import log


class Reloadable(Protocol):
    """What works, by a configuration."""

    @property
    def config(self) -> Config: ...  # noqa: D102
    @property
    def meters(self) -> Iterable[str]: ...  # noqa: D102
    def close(self) -> None:
        """End it, and give back its parts."""
        ...


Part = TypeVar("Part", bound=Reloadable)


def reloaded(logger: log.Log, build: Callable[[], Part], working: Part) -> Part:
    """Return what works from now on: what `build` makes of the files, or what worked before if that cannot be built."""
    try:
        replacement = build()
    except Exception as error:  # whatever is wrong with the new one, the old one works
        if not isinstance(error, AggregatorError):
            logger.exception(log.UNEXPECTED, part="reload")
        reason = str(error) or type(error).__name__
        logger.error(log.CONFIG_REFUSED, reason=reason, kept="the configuration that was running")
        return working
    try:
        working.close()
    except Exception:  # what is given back badly must not keep the new one from working
        logger.exception(log.UNEXPECTED, part="reload")
    same = replacement.config == working.config
    event = log.CONFIG_UNCHANGED if same else log.CONFIG_RELOADED
    logger.info(event, meters=sorted(replacement.meters))
    return replacement
