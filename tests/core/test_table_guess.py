"""Which columns of a table a meter goes by: the most telling ones, each with a reason."""

import pytest

from aggregator.core.table_guess import Column, Guess, Reference, TableShape, guess

INSTANT, LOCAL, NUMBER, FLOAT, TEXT = "instant", "local", "number", "float", "text"
ACCOUNT = Reference("account_id", "app.account", "id", ("id", "name", "stripe_customer_id"))


def shape(
    *columns: tuple[str, str], indexed: tuple[str, ...] = (), references: tuple[Reference, ...] = ()
) -> TableShape:
    """A table of these columns."""
    return TableShape("calls", tuple(Column(*each) for each in columns), frozenset(indexed), references)


def guessed(of: TableShape, **named: str) -> Guess:
    """What is guessed of a table."""
    return guess(of, named)


def test_an_instant_that_an_index_serves_is_preferred() -> None:
    """Each read asks for a stretch of time: without an index it goes through the whole table, and that is said."""
    both = (("used_at", INSTANT), ("created_at", INSTANT), ("customer_id", TEXT))
    assert guessed(shape(*both)).when.name == "used_at"
    assert guessed(shape(*both, indexed=("created_at",))).when.name == "created_at"
    assert any("no index begins with `used_at`" in reason for reason in guessed(shape(*both)).reasons)


def test_a_database_that_needs_no_index_is_not_blamed_for_having_none() -> None:
    """One that keeps columns apart reads a stretch of time without."""
    plain = shape(("used_at", INSTANT), ("customer", TEXT))._replace(indexed=None)
    assert not any("index" in reason for reason in guessed(plain).reasons)


def test_an_instant_of_another_name_is_found_by_its_type() -> None:
    """And one without a zone is said to be taken for UTC."""
    found = guessed(shape(("logged", LOCAL), ("customer", TEXT)))
    assert found.when == Column("logged", LOCAL)
    assert any("taken for UTC" in reason for reason in found.reasons)


def test_the_customer_at_stripe_is_looked_for_behind_a_foreign_key() -> None:
    """The application's own key is no customer of the billing system."""
    columns = (("at", INSTANT), ("account_id", NUMBER))
    found = guessed(shape(*columns, references=(ACCOUNT,)))
    assert (found.customer, found.through) == ("stripe_customer_id", ACCOUNT)
    alone = guessed(shape(*columns))
    assert (alone.customer, alone.through) == ("account_id", None)
    assert any("join the table that has it" in reason for reason in alone.reasons)


def test_a_column_with_the_customer_at_stripe_wins() -> None:
    """Whatever else there is."""
    columns = (("at", INSTANT), ("account_id", NUMBER), ("stripe_customer_id", TEXT))
    found = guessed(shape(*columns, references=(ACCOUNT,)))
    assert (found.customer, found.through) == ("stripe_customer_id", None)


def test_a_quantity_is_a_number_that_is_called_one() -> None:
    """A price, an id or a text is none: then rows are counted."""
    rest = (("at", INSTANT), ("customer_id", NUMBER))
    assert guessed(shape(*rest, ("tokens", NUMBER))).quantity == Column("tokens", NUMBER)
    for column in (("price", NUMBER), ("tokens", TEXT), ("id", NUMBER)):
        found = guessed(shape(*rest, column))
        assert found.quantity is None
        assert found.reasons[-1] == "each row counts as 1"
    assert any("cast" in reason for reason in guessed(shape(*rest, ("hours", FLOAT))).reasons)


def test_what_a_person_names_is_taken() -> None:
    """In whichever letters."""
    columns = (("at", INSTANT), ("since", INSTANT), ("who", TEXT), ("customer_id", TEXT), ("price", NUMBER))
    found = guessed(shape(*columns), when="SINCE", customer="who", quantity="price")
    assert found.quantity is not None
    assert (found.when.name, found.customer, found.quantity.name) == ("since", "who", "price")


@pytest.mark.parametrize(
    ("columns", "named", "told"),
    [
        (
            (("at", INSTANT),),
            {},
            "no column of calls looks like a customer; it has: at. Name one with `--customer`",
        ),
        ((("customer", TEXT),), {}, "looks like the instant .* Name one with `--when`"),
        ((("at", INSTANT),), {"quantity": "n"}, "calls has no column n for `--quantity`; it has: at"),
    ],
)
def test_what_cannot_be_told_is_asked(
    columns: tuple[tuple[str, str], ...], named: dict[str, str], told: str
) -> None:
    """With what there is to choose from."""
    with pytest.raises(LookupError, match=told):
        guessed(shape(*columns), **named)
