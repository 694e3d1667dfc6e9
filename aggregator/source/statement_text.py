"""What engines that must be kept from writing have in common: the words of a text, and whether they are one query. Pure."""

import re
from collections.abc import Collection, Mapping, Sequence


def words_of(text: str, tokens: re.Pattern[str], stand_for: Mapping[str, str]) -> list[str]:
    """Return words in small letters and marks one by one, as the engine has them.

    `tokens` names what it finds: `word`, `mark`, or something that is passed over or has a mark of its own in `stand_for`,
    such as what stands in quotes.
    """
    found = []
    for token in tokens.finditer(text):
        kind = token.lastgroup or ""
        if kind in ("word", "mark"):
            found.append(token[0].lower())
        elif kind in stand_for:
            found.append(stand_for[kind])
    return found


def not_one_query(words: Sequence[str], beginnings: Collection[str]) -> str | None:
    """Say why words are not one statement that begins like a query; None if they are."""
    first = next((word for word in words if word != "("), None)
    if first is None:
        return "it is empty"
    if first not in beginnings:
        return f"it begins with `{first}`"
    if ";" in words and any(word != ";" for word in words[words.index(";") :]):
        return "another statement follows its `;`"
    return None
