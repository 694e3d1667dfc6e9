"""The configuration: YAML files become one frozen `Config`, or one error that names every mistake.

Rules
- Unknown and duplicate keys are errors, and nothing is guessed: what can hurt has no default.
- Every mistake of every file is reported at once, with its file, line and path, and what to do.
- A secret appears in no message, no repr and no JSON; the methods that end in `revealed` give it in clear.
- The environment is an argument.

It imports `errors`, the core, and how the runtime hides secrets; the wiring, the daemon, the demo, the selftest and
commands import it, and `plan`, for the words of a change. Collection, delivery, reconciliation and adoption do not: the
wiring hands them what they need of it. Begin with `models`, then `load`."""

from aggregator.config.customers import CustomerMapping
from aggregator.config.durations import format_duration, parse_duration
from aggregator.config.file_sinks import CsvSink, DirectorySink, S3Sink
from aggregator.config.load import load
from aggregator.config.meter import Meter, fingerprint
from aggregator.config.meter_events import MetronomeEvent, StripeEvent
from aggregator.config.models import Config, FileSink, Ledger, Sink, Source, StripeSink
from aggregator.config.revisits import changed_of
from aggregator.config.schema import json_schema
from aggregator.config.sinks import MetronomeSink
from aggregator.config.starter import starter

__all__ = [
    "Config",
    "CsvSink",
    "CustomerMapping",
    "DirectorySink",
    "FileSink",
    "Ledger",
    "Meter",
    "MetronomeEvent",
    "MetronomeSink",
    "S3Sink",
    "Sink",
    "Source",
    "StripeEvent",
    "StripeSink",
    "changed_of",
    "fingerprint",
    "format_duration",
    "json_schema",
    "load",
    "parse_duration",
    "starter",
]
