"""A small configuration in a file: one source, one sink and one meter."""

from pathlib import Path

CONFIG = """
ledger: {{url: '{ledger}'}}
state_dir: '{directory}'
sources: {{app: {{url: '{app}'}}}}
sinks: {{{name}: {{{sink}}}}}
meters:
  api_requests:
    source: app
    sinks: [{name}]
    window: 1h
    start_at: {start}
    query: {query}
"""


def written(
    directory: Path,
    ledger: str,
    sink: str,
    *,
    name: str = "it",
    app: str = "sqlite:////nowhere",
    start: str = "2026-11-01T00:00Z",
    query: str = "select customer, 1 as quantity from use where at >= :start and at < :end",
) -> Path:
    """Write it to a directory, and return where; `sink` is what the configuration says of the sink of this name."""
    path = directory / "aggregator.yaml"
    path.write_text(
        CONFIG.format(
            ledger=ledger, directory=directory, app=app, name=name, sink=sink, start=start, query=query
        )
    )
    return path
