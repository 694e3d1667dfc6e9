"""Compares JSON with a class of Stripe's library: the fields it declares, their kinds, and the classes within.

A field that is not Optional must be there; one that is there must be of its declared kind; one that is not declared is
a mistake too, since it was made up. What cannot be read of a declaration is an error, never a pass.
"""

import sys
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, ClassVar, ForwardRef, Literal, Union, get_args, get_origin

import stripe
from stripe import StripeObject
from stripe._stripe_object import UntypedStripeObject


class Names(dict[str, Any]):
    """The names where a class stands; those that its module imports for type checkers only are the library's own."""

    def __missing__(self, name: str) -> Any:
        return getattr(stripe, name)


def mistakes(value: object, declared: Any, where: str = "") -> list[str]:
    """Return what is wrong with a value, each mistake with its place; nothing when it is as declared."""
    return list(_mistakes(value, declared, where))


def fields(kind: type[StripeObject]) -> dict[str, tuple[Any, type]]:
    """Return the declared fields of a class and of those it is made from, each with the class that declares it."""
    found: dict[str, tuple[Any, type]] = {}
    for each in reversed(kind.__mro__):
        if issubclass(each, StripeObject) and each is not StripeObject:
            for name, declared in vars(each).get("__annotations__", {}).items():
                if not name.startswith("_") and get_origin(declared) is not ClassVar:
                    found[name] = declared, each
    return found


def _mistakes(value: object, declared: Any, where: str) -> Iterator[str]:
    origin = get_origin(declared)
    if declared is Any:
        return
    if origin in {Union, UnionType}:
        yield from _against_any_of(value, get_args(declared), where)
    elif origin is Literal:
        if value not in get_args(declared):
            yield f"{where} is {value!r}, not one of {get_args(declared)}"
    elif origin is list:
        yield from _against_list(value, get_args(declared)[0], where)
    elif origin in {dict, UntypedStripeObject}:
        yield from _against_map(value, get_args(declared)[-1], where)
    elif isinstance(declared, type) and issubclass(declared, StripeObject):
        yield from _against_class(value, declared, where)
    elif not _is_plainly(value, declared):
        yield f"{where} is {value!r}, not {declared}"


def _against_any_of(value: object, options: tuple[Any, ...], where: str) -> Iterator[str]:
    if value is None and NoneType in options:
        return
    tries = [mistakes(value, option, where) for option in options if option is not NoneType]
    if all(tries):
        yield from min(tries, key=len)


def _against_list(value: object, declared: Any, where: str) -> Iterator[str]:
    if not isinstance(value, list):
        yield f"{where} is {value!r}, not a list"
        return
    for place, item in enumerate(value):
        yield from _mistakes(item, declared, f"{where}[{place}]")


def _against_map(value: object, declared: Any, where: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{where} is {value!r}, not a map"
        return
    for key, item in value.items():
        yield from _mistakes(item, declared, f"{where}.{key}")


def _against_class(value: object, declared: type[StripeObject], where: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{where} is {value!r}, not a {declared.__name__}"
        return
    wanted = fields(declared)
    for name in value.keys() - wanted.keys():
        yield f"{where}.{name} is not declared in {declared.__name__}"
    for name, (kind, owner) in wanted.items():
        if name in value:
            yield from _mistakes(value[name], _resolved(kind, owner), f"{where}.{name}")
        elif NoneType not in get_args(kind):
            yield f"{where}.{name} is missing"


def _is_plainly(value: object, declared: Any) -> bool:
    if declared not in {str, int, float, bool}:
        raise TypeError(f"{declared!r} is a declaration that the checker cannot read.")
    if declared is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is declared


def _resolved(declared: Any, kind: type) -> Any:
    """Return a declaration without forward references, which are looked up where the class stands."""
    if isinstance(declared, ForwardRef):
        declared = declared.__forward_arg__
    if isinstance(declared, str):
        declared = eval(declared, {}, Names({**vars(sys.modules[kind.__module__]), **vars(kind)}))
    arguments = get_args(declared)
    if get_origin(declared) is Literal or not any(isinstance(each, str | ForwardRef) for each in arguments):
        return declared
    resolved = tuple(_resolved(each, kind) for each in arguments)
    return (get_origin(declared) or Union)[resolved]
