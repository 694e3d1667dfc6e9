"""A plan as Markdown, for a comment on a pull request: short, as a table, with all details folded. Pure.

Rules
- Names, customers and queries may hold anything: none of it becomes markup, a mention of somebody, or another row.
- A comment on GitHub has at most 65,536 characters, so details that would not fit are left out, and that is said.
"""

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal

from aggregator.core.model import Span
from aggregator.core.shown import counted, shown
from aggregator.plan.changes import METER, Change, names
from aggregator.plan.document import Plan
from aggregator.plan.reading import MeterFigures
from aggregator.plan.usage import Comparison

LONGEST = 60_000
"""Characters: what GitHub takes, with room for whoever adds a line."""

LEFT_OUT = "Details that would make this too long for a comment are left out: `aggregator plan` shows them."


def markdown(plan: Plan) -> str:
    """Return the plan as a comment."""
    lines = [f"### {headline(plan)}", ""]
    if plan.changes:
        lines += [*_table(["of", "what changes", "holds"], "---", map(_row, plan.changes)), ""]
    lines += _figures(plan)
    for note in plan.notes:
        lines += [_prose(note), ""]
    text = "\n".join(lines)
    for details in _details(plan):
        block = "\n".join(details) + "\n\n"
        if len(text) + len(block) > LONGEST - len(LEFT_OUT):
            return f"{text[: LONGEST - len(LEFT_OUT)]}{LEFT_OUT}\n"
        text += block
    return text


def headline(plan: Plan) -> str:
    """Say in a line what changes."""
    if not plan.changes:
        return "Nothing changes for usage that is billed"
    found = names(plan.changes)
    meters = sum(what == METER for what, _ in found)
    others = len(found) - meters
    parts = [counted(meters, "meter")] if meters else []
    parts += [counted(others, "other block")] if others else []
    return f"{' and '.join(parts)} {'changes' if len(found) == 1 else 'change'}"


def heading(span: Span) -> str:
    """Say what the figures of a range are."""
    return (
        f"What {shown(span.start)} to {shown(span.end)} UTC comes to, in each meter's units. It is an example: nothing of "
        "it is billed again"
    )


def _row(change: Change) -> list[str]:
    said = f"{change.text}: {change.means}" if change.means else change.text
    return [f"{change.what} {code(change.name)}", _prose(said), change.holds]


def _figures(plan: Plan) -> Iterator[str]:
    """Yield the table of what the range comes to."""
    if plan.span is None or not plan.figures:
        return
    yield f"{heading(plan.span)}:"
    yield ""
    headings = [
        "meter",
        "sinks",
        "before",
        "after",
        "difference",
        "customers that differ",
        "new",
        "gone",
        "unmapped rows",
    ]
    yield from _table(headings, "---:", [_of_meter(each) for each in plan.figures], left=2)
    yield ""
    for each in plan.figures:
        for note in each.notes:
            yield f"- {code(each.meter)}: {_prose(note)}"
    yield ""


def _of_meter(figures: MeterFigures) -> list[str]:
    found = figures.comparison
    head = [code(figures.meter), _prose(sinks(figures))]
    if found is None:
        return [*head, *["-"] * 7]
    totals = [shown(each.billed if each else None) for each in (found.before, found.after)]
    counts = [shown(each) for each in (found.differing, found.new, found.gone)]
    return [*head, *totals, signed(found.difference), *counts, unmapped(found)]


def sinks(figures: MeterFigures) -> str:
    """Write which sinks a meter feeds, before and after if that differs."""
    before, after = ", ".join(figures.sinks_before) or "none", ", ".join(figures.sinks_after) or "none"
    return after if set(figures.sinks_before) == set(figures.sinks_after) else f"{before} → {after}"


def signed(quantity: Decimal | None) -> str:
    """Write a difference with its sign; one that nobody knows as nothing."""
    return f"{'+' if quantity is not None and quantity > 0 else ''}{shown(quantity)}"


def unmapped(found: Comparison) -> str:
    """Write how many rows can be billed to nobody, before and after if that differs."""
    before, after = (shown(each.unmapped_rows if each else None) for each in (found.before, found.after))
    return after if before == after else f"{before} → {after}"


def _details(plan: Plan) -> Iterator[list[str]]:
    """Yield what is folded, block by block."""
    for each in plan.figures:
        if each.comparison is not None and each.comparison.movers:
            rows = [
                [code(mover.customer), shown(mover.before), shown(mover.after), signed(mover.difference)]
                for mover in each.comparison.movers
            ]
            table = _table(["customer", "before", "after", "difference"], "---:", rows, left=1)
            yield _folded(f"{each.meter}: customers that differ most", list(table))
    for change in plan.changes:
        lines = change.query_lines()
        if lines:
            yield _folded(f"{change.name}: the query", _fenced(lines))


def _folded(summary: str, lines: Sequence[str]) -> list[str]:
    return [
        "<details>",
        f"<summary>{_unmentioned(_html(_one_line(summary)))}</summary>",
        "",
        *lines,
        "",
        "</details>",
    ]


def _fenced(lines: Sequence[str]) -> list[str]:
    longest = max((len(found) for line in lines for found in re.findall(r"`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}diff", *lines, fence]


def _table(
    headings: Sequence[str],
    align: str,
    rows: "Iterator[list[str]] | list[list[str]] | map[list[str]]",
    left: int = 9,
) -> Iterator[str]:
    yield _line(headings)
    yield _line(["---" if place < left else align for place in range(len(headings))])
    for row in rows:
        yield _line(row)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def code(text: str) -> str:
    """Write a name so that nothing in it is markup: in code, between as many backticks as it takes."""
    plain = _one_line(text).replace("|", "\\|")
    longest = max((len(found) for found in re.findall(r"`+", plain)), default=0)
    if not longest:
        return f"`{plain}`"
    fence = "`" * (longest + 1)
    return f"{fence} {plain} {fence}"


def _prose(text: str) -> str:
    """Write a sentence of ours, in which names and values stand that are not."""
    return _unmentioned(re.sub(r"([\\`*_\[\]~#|])", r"\\\1", _html(_one_line(text))))


def _unmentioned(text: str) -> str:
    """Let nobody be called whose name happens to stand behind an @: what has no width comes between the two."""
    return text.replace("@", "@\u200b")


def _html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _one_line(text: str) -> str:
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())
