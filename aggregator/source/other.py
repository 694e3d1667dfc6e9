"""Any other database that SQLAlchemy knows: read as it comes, and plain about what is not certain."""

import sqlalchemy as sa

from aggregator.source.dialects import Dialect, Fault, first_line, not_idle


def other(name: str) -> Dialect:
    """Return what is known of a kind of database that we do not know."""
    return Dialect(
        name=name,
        engine=lambda url, _: sa.create_engine(url, poolclass=sa.NullPool, hide_parameters=True),
        begin=lambda *_: not_idle,
        bound=lambda instant: instant,
        fault=_unknown_fault,
        said=first_line,
        naive_is_utc=False,
        from_number="a conversion to a timestamp with time zone",
        kind=lambda code: code.lower() if isinstance(code, str) else None,
        cannot_promise=(
            f"{name}: the queries of one span may see different states; return `window`, so that it is one query.",
            f"{name}: no statement timeout is set; set one for the role.",
            f"{name}: nothing but the role's privileges keeps a query from writing.",
            f"{name}: the session's time zone is not set; compare instants that carry one.",
            f"{name}: the driver may hold a whole result in memory.",
            f"{name}: a mistake in a query may be taken for trouble that passes by itself.",
        ),
    )


def _unknown_fault(error: BaseException) -> Fault:
    """Go by the names that every driver shares (PEP 249)."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"OperationalError", "InterfaceError"}:
        return Fault.TRANSIENT
    told = names & {"Error", "Warning", "SQLAlchemyError", "UnicodeError"}
    return Fault.REFUSED if told else Fault.UNEXPECTED
