"""A stateful local server that speaks Stripe's metering endpoints.

It stands in for api.stripe.com and meter-events.stripe.com where no network or no account is at hand, keeps the rules
that billing code trips over, and can be told to misbehave. It imports nothing from the rest of the package: what it
checks must not be able to agree with it by sharing a mistake.

Only commands, the demo and the selftest import it. Begin with `app`, then `events` and `rules`.
"""

from aggregator.sandbox.client import ControlClient
from aggregator.sandbox.errors import StateError
from aggregator.sandbox.rules import Rules
from aggregator.sandbox.server import RunningSandbox, running, serve
from aggregator.sandbox.settings import FaultSettings, MeterSpec, SandboxOptions, parse_meter

__all__ = [
    "ControlClient",
    "FaultSettings",
    "MeterSpec",
    "Rules",
    "RunningSandbox",
    "SandboxOptions",
    "StateError",
    "parse_meter",
    "running",
    "serve",
]
