"""A plan as JSON, for programs and for `aggregator apply`: what it says, and what it was made of. Pure.

Rules
- What it was made of is named thing by thing, each by a digest: so whoever finds that it does not hold any more can say what
  has changed. No digest is of a secret, and no secret stands anywhere in it.
- The mark and all else that moves by itself while nobody changes anything belongs to no digest.
"""

import datetime as dt
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from aggregator.core.model import Span
from aggregator.plan.changes import Change
from aggregator.plan.reading import MeterFigures
from aggregator.plan.usage import Comparison, Total

VERSION = 1

LONGEST_PLAN = 50_000_000
"""Bytes: more than any plan has."""

Digests = Mapping[str, str]
"""By what a thing is called in a sentence, the digest of what it says."""


class InForce(NamedTuple):
    """The ledger that a plan was made against."""

    ledger_id: str
    generation: int
    things: Digests


class Basis(NamedTuple):
    """What a plan was made of."""

    configuration: Digests
    ledger: InForce | None
    """None where only files were compared."""
    read: Digests
    """By meter, what was read of it over the range."""


class Plan(NamedTuple):
    """What a change of the configuration would do."""

    made_at: dt.datetime
    against: str
    """What the configuration was compared with, in words."""
    span: Span | None
    """The past range that was read; None: nothing was."""
    changes: Sequence[Change]
    figures: Sequence[MeterFigures]
    notes: Sequence[str]
    basis: Basis

    @property
    def failed(self) -> list[str]:
        """The meters whose new definition could not be asked."""
        return [each.meter for each in self.figures if each.failed]


class Written(NamedTuple):
    """What `apply` takes from a plan that was written to a file."""

    made_at: dt.datetime
    span: Span | None
    basis: Basis


class UnusablePlan(ValueError):
    """A text is no plan; its words go behind the name of the file."""


def digest(value: object) -> str:
    """Return a SHA-256, in hex, of a value that JSON can have."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def as_json(plan: Plan) -> dict[str, object]:
    """Return the plan for programs; `from_json` reads it again."""
    basis = plan.basis
    return {
        "version": VERSION,
        "made_at": plan.made_at,
        "against": plan.against,
        "changes": len(plan.changes),
        "range": list(plan.span) if plan.span else None,
        "changed": [
            {**each._asdict(), "kind": each.kind.value, "holds": each.holds} for each in plan.changes
        ],
        "meters": [_meter(each) for each in plan.figures],
        "notes": list(plan.notes),
        "made_of": {
            "configuration": {"digest": digest(basis.configuration), "parts": basis.configuration},
            "ledger": basis.ledger
            and {
                "id": basis.ledger.ledger_id,
                "generation": basis.ledger.generation,
                "digest": digest(basis.ledger.things),
                "parts": basis.ledger.things,
            },
            "read": basis.read,
        },
    }


def _meter(figures: MeterFigures) -> dict[str, object]:
    return {
        "meter": figures.meter,
        "sinks_before": list(figures.sinks_before),
        "sinks_after": list(figures.sinks_after),
        "figures": figures.comparison and _comparison(figures.comparison),
        "notes": figures.notes,
        "failed": figures.failed,
    }


def _comparison(found: Comparison) -> dict[str, object]:
    return {
        "before": _total(found.before),
        "after": _total(found.after),
        "difference": found.difference,
        "customers_differ": found.differing,
        "new_customers": found.new,
        "gone_customers": found.gone,
        "movers": [{**each._asdict(), "difference": each.difference} for each in found.movers],
    }


def _total(total: Total | None) -> dict[str, object] | None:
    return None if total is None else total._asdict()


def from_json(text: str) -> Written:
    """Return what a plan was made of. Raises UnusablePlan."""
    try:
        said = json.loads(text)
    except ValueError:
        raise UnusablePlan("is no JSON: give a file that `aggregator plan --out` wrote") from None
    version = said.get("version") if isinstance(said, dict) else None
    if version != VERSION:
        raise UnusablePlan(
            f"is no plan of version {VERSION}: plan again, with the version of aggregator that is to apply it"
        )
    try:
        made_of = said["made_of"]
        ledger = made_of["ledger"]
        bounds = said["range"]
        return Written(
            dt.datetime.fromisoformat(said["made_at"]),
            bounds and Span(*map(dt.datetime.fromisoformat, bounds)),
            Basis(
                dict(made_of["configuration"]["parts"]),
                ledger and InForce(str(ledger["id"]), int(ledger["generation"]), dict(ledger["parts"])),
                dict(made_of["read"]),
            ),
        )
    except (KeyError, TypeError, ValueError):
        raise UnusablePlan("is a plan that somebody has cut or changed: plan again") from None


def differences(planned: Basis, now: Basis) -> Iterator[str]:
    """Yield what is not as it was planned with, each thing by its name; `read` is compared where it was read again."""
    yield from _between("in the configuration", planned.configuration, now.configuration)
    if planned.ledger is not None and now.ledger is not None:
        yield from in_ledger(planned.ledger, now.ledger)
    for meter, before in planned.read.items():
        if meter in now.read and now.read[meter] != before:
            yield f"what the source says of meter {meter} over the range"


def in_ledger(planned: InForce, now: InForce) -> Iterator[str]:
    """Yield what is not in a ledger as it was."""
    if planned.ledger_id != now.ledger_id:
        yield f"the ledger: the plan is for {planned.ledger_id}, and this is {now.ledger_id}"
    elif planned.generation != now.generation:
        yield "the ledger's generation: it was adopted meanwhile"
    else:
        yield from _between("in the ledger", planned.things, now.things)


def _between(where: str, before: Digests, after: Digests) -> Iterator[str]:
    for name in sorted({*before, *after}):
        if name not in after:
            yield f"{name} {where}, which is gone"
        elif name not in before:
            yield f"{name} {where}, which is new"
        elif before[name] != after[name]:
            yield f"{name} {where}"
