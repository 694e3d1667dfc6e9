"""What the text of a usage query may be: one statement that reads, and that asks for `:start` and `:end`.

This catches mistakes early; it is no fence against a hostile query. The fence is the read-only role and the
session of the source. Where Postgres is richer than this scan (nested comments), the scan sees more statement text
than there is, never less, so it errs towards refusing.
"""

import re
from collections.abc import Sequence

_UNSEEN = re.compile(
    r"""
    (?P<comment> --[^\n]* | /\*.*?\*/ )
  | [eE]'(?:\\.|''|[^'\\])*'        # a Postgres string with backslash escapes
  | '(?:''|[^'])*'
  | "(?:""|[^"])*"
  | `[^`]*`
  | (?<![\w$])(?P<dollar>\$\w*\$).*?(?P=dollar)
    """,
    re.DOTALL | re.VERBOSE,
)
_PARAMETER = re.compile(r"(?<![:\w\\]):([A-Za-z_]\w*)")
_FIRST_WORD = re.compile(r"\s*(\w*)")
_TAIL = re.compile(r"[;\s]*\Z")

PARAMETERS = ("start", "end")
DETAIL_PARAMETERS = (*PARAMETERS, "customer")
"""What is filled in of a usage query, and of one that gives the rows behind what a customer used."""

DELTA_PARAMETERS = ("after", "upto")
"""What is filled in of the query of a meter that is read by a cursor."""

UPTO_PARAMETERS = ("after",)
RECOUNT_PARAMETERS = (*PARAMETERS, "upto")
"""What is filled in of the query for where the next stretch ends, and of the one that counts windows anew."""

CHANGED_PARAMETERS = ("since",)
"""What is filled in of the query for the windows that were touched."""

BOUND_OTHERWISE = {
    CHANGED_PARAMETERS: "name the windows of rows that were touched, as in `select distinct date_trunc('hour', used_at) as "
    "window from usage where updated_at >= :since`",
    DELTA_PARAMETERS: "take the rows with `where id > :after and id <= :upto`, outside quotes",
    UPTO_PARAMETERS: "ask for the end of the next stretch, as in `select max(id) from (select id from usage where "
    "id > :after order by id limit 100000) as next`",
    RECOUNT_PARAMETERS: "count what the cursor has passed of a span, with `where used_at >= :start and used_at < :end "
    "and id <= :upto`: without all three, rows would be counted twice",
}
"""How to use what is filled in, where that is no span."""


def final_query(text: str, parameters: Sequence[str] = PARAMETERS) -> str:
    """Return the statement as it is sent, without a trailing semicolon; ValueError says what to change."""
    bare = _bare(text)
    tail = _TAIL.search(bare)
    assert tail is not None, "the tail may be empty, but it is always there"
    _check(bare[: tail.start()], parameters)
    return text[: tail.start()].rstrip()


def sampling_query(text: str, read: str) -> str:
    """Return the statement that gives samples, which nothing is filled in of; ValueError says what to change."""
    return _without_parameters(
        text, f"and with `read: {read}` it is asked for what is there now, without any bounds"
    )


def listing_query(text: str) -> str:
    """Return the statement that lists all keys, which nothing is filled in of; ValueError says what to change."""
    return _without_parameters(text, "which nothing fills in: it is asked for all keys at once")


def _without_parameters(text: str, because: str) -> str:
    final = final_query(text, ())
    found = sorted(set(_PARAMETER.findall(_bare(final))))
    if found:
        raise ValueError(
            f"uses `:{found[0]}`, {because}: leave out the condition (write `\\:{found[0]}` for a colon that stands for "
            "itself)"
        )
    return final


def normalised_query(text: str) -> str:
    """Return the text without what cannot matter: white space at the ends of lines and of the whole."""
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines())


def _bare(text: str) -> str:
    """Return the text with comments and quoted parts blotted out, every character at its old place."""
    return _UNSEEN.sub(lambda m: (" " if m["comment"] else "'") * len(m[0]), text)


def _check(bare: str, parameters: Sequence[str]) -> None:
    if not bare.strip():
        raise ValueError(
            f"is empty: write the `select` that gives {'customer and quantity' if parameters else 'key and customer'}"
        )
    first = _FIRST_WORD.match(bare)
    if first is None or first[1].lower() not in {"select", "with"}:
        raise ValueError(
            "must be one statement that starts with `select` or `with`: a source is only ever read"
        )
    if ";" in bare:
        raise ValueError("must be one statement: remove everything from the first `;` on")
    _check_parameters(set(_PARAMETER.findall(bare)), parameters)


def _check_parameters(found: set[str], parameters: Sequence[str]) -> None:
    missing = [f"`:{name}`" for name in parameters if name not in found]
    if missing == ["`:customer`"]:
        raise ValueError(
            "does not use `:customer`: it is asked for the rows of one customer, as in `and customer = :customer`"
        )
    if missing and tuple(parameters) in BOUND_OTHERWISE:
        raise ValueError(f"does not use {' and '.join(missing)}: {BOUND_OTHERWISE[tuple(parameters)]}")
    if missing:
        raise ValueError(
            f"does not use {' and '.join(missing)}: bound the rows with "
            "`where created_at >= :start and created_at < :end`, outside quotes"
            + (
                " (for what stands as of `:end`, as seats do: `and :start < :end`)"
                if missing == ["`:start`"]
                else ""
            )
        )
    unknown = sorted(found.difference(parameters))
    if unknown and parameters:
        given = [f"`:{name}`" for name in parameters]
        only = (
            f"only {', '.join(given[:-1])} and {given[-1]} are" if len(given) > 1 else f"only {given[0]} is"
        )
        raise ValueError(
            f"uses `:{unknown[0]}`, which nothing fills in: {only} given "
            f"(write `\\:{unknown[0]}` for a colon that stands for itself)"
        )
