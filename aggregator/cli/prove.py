"""`aggregator check --prove-source`: what holds of a source, asked of the database itself."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from aggregator.cli.exit_codes import ExitCode
from aggregator.cli.printing import say, show_rows, write_json
from aggregator.errors import UsageError

if TYPE_CHECKING:
    from aggregator.config import Config
    from aggregator.source.contract.prover import Proof


def prove(config: "Config", name: str, *, as_json: bool) -> None:
    """Print what becomes of each fact. Raises UsageError for a name that is not configured, SourceError if nothing answers.

    Exits 1 if something is wrong.
    """
    from aggregator.runtime.clock import monotonic
    from aggregator.source.contract.fact import Verdict
    from aggregator.source.contract.prover import Prover
    from aggregator.source.dialects import UNPROVEN_BOUNDS
    from aggregator.wiring.sources import build_source

    if name not in config.sources:
        known = ", ".join(sorted(config.sources))
        raise UsageError(f"There is no source {name} in the configuration; it has: {known}.")
    # What it shows of its bounds is what is asked here; so it is read whatever that is.
    source = build_source(config, name, "aggregator check", accepts=[UNPROVEN_BOUNDS])
    try:
        proofs = list(Prover(source, monotonic).run())
        unpromised = [*source.cannot_promise, *source.limits()]
    finally:
        source.close()
    count = {verdict: sum(each.conclusion.verdict is verdict for each in proofs) for verdict in Verdict}
    if as_json:
        rows = [_row(each) for each in proofs]
        ok = not count[Verdict.WRONG]
        write_json(
            {"ok": ok, "source": name, "kind": source.kind, "facts": rows, "cannot_promise": unpromised}
        )
    else:
        _show(name, source.kind, proofs)
        for sentence in unpromised:
            say(f"not promised  {sentence}")
        say(", ".join(f"{number} {verdict}" for verdict, number in count.items()) + ".")
    if count[Verdict.WRONG]:
        raise click.exceptions.Exit(ExitCode.FAILED)


def _row(proof: "Proof") -> dict[str, str]:
    fact, conclusion = proof
    return {
        "fact": fact.name,
        "says": fact.says,
        "verdict": conclusion.verdict,
        "seen": conclusion.seen,
        "write": conclusion.write,
    }


def _show(name: str, kind: str, proofs: Sequence["Proof"]) -> None:
    """Print a line for each fact: the verdict, what was seen, and what to write if it is not proven."""
    rows = [
        {**_row(each), "finding": " -> ".join(filter(None, [each.conclusion.seen, each.conclusion.write]))}
        for each in proofs
    ]
    show_rows(f"source {name} ({kind})", "fact _=verdict says finding", rows)
