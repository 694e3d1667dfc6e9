"""The page and the API put together for a configuration and an address: who may look, from where, and by what."""

from collections.abc import Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from aggregator.collection.usage import MeterSource
from aggregator.config import Config
from aggregator.config.rotated import token_secrets_now
from aggregator.errors import UsageError
from aggregator.ledger.ledger import Ledger
from aggregator.web.actions import ACTIONS
from aggregator.web.api import Api
from aggregator.web.application import said
from aggregator.web.listener import Address
from aggregator.web.sessions import Access
from aggregator.web.site import Backend, Site
from aggregator.web.token_secrets import TokenSecrets
from aggregator.web.views import VIEWS

HOW = (
    "set `web: {operator_token: ${AGGREGATOR_WEB_TOKEN}}` in the configuration (`openssl rand -hex 24` prints a token), "
    "or listen on 127.0.0.1"
)


class Served:
    """The pages and the API of a ledger, as they are served at an address."""

    def __init__(
        self,
        address: Address,
        config: Config,
        ledger: Ledger,
        source_of: Callable[[str], MeterSource | None] | None = None,
    ) -> None:
        """Raise UsageError where nobody would have to sign in."""
        self.access = access = access_of(address, config)
        backend = Backend(config, ledger, source_of)
        self._site = Site(backend, access, VIEWS, ACTIONS)
        secrets = TokenSecrets(config.web.token_secrets_revealed(), partial(token_secrets_now, config.web))
        self._api = Api(backend, access, secrets, config.web.allow_origins)

    def routes(self) -> list[BaseRoute]:
        """Return what is answered where."""
        return [*self._api.routes(), *self._site.routes()]

    def error(self, request: Request, status: int, words: str) -> Response:
        """Show an error: as a page to people, in JSON to programs."""
        if request.scope["path"].startswith("/api/"):
            return said(status, words)
        return self._site.error(request, status, words)

    def close(self) -> None:
        """Give the threads back."""
        self._site.close()
        self._api.close()


def access_of(address: Address, config: Config) -> Access:
    """Return who may do what at an address. Raises UsageError where others reach it and no operator's token is set."""
    token = config.web.operator_token_revealed()
    if token is None and not address.loopback:
        raise UsageError(f"{address.url} can be reached from elsewhere, where one must sign in: {HOW}.")
    if token is None and config.web.public_url is not None:
        raise UsageError(
            f"{config.web.public_url} can be reached from elsewhere, where one must sign in: {HOW}."
        )
    return Access(token, address.loopback, address.host, config.web.public_url)
