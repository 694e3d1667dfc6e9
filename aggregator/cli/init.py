"""`aggregator init`: a commented configuration to start from."""

import datetime as dt
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from aggregator.cli.options import config_option
from aggregator.cli.printing import say
from aggregator.errors import UsageError

if TYPE_CHECKING:
    from aggregator.core.semantic_metric import SemanticMetric
    from aggregator.source import Source

URL = "APP_DATABASE_URL"
"""The variable that a starter configuration takes the source's URL from."""

LONGEST = dt.timedelta(seconds=30)
"""How long a look at a table may take."""

existing_file = click.Path(exists=True, dir_okay=False, path_type=Path)


class Chosen(NamedTuple):
    """What a person named: a metric, and columns or fields."""

    metric: str | None
    when: str | None
    customer: str | None
    quantity: str | None

    def columns(self) -> dict[str, str]:
        """Return the columns, by the options that name them."""
        found = {"when": self.when, "customer": self.customer, "quantity": self.quantity}
        return {what: column for what, column in found.items() if column is not None}


@click.command()
@click.option(
    "--from-table",
    "table",
    metavar="TABLE",
    help=f"Write a meter over this table of the database that {URL} leads to, such as app.api_requests.",
)
@click.option(
    "--from-dbt",
    "manifest",
    type=existing_file,
    metavar="FILE",
    help="Write a meter that bills a metric of dbt. FILE is dbt's target/manifest.json.",
)
@click.option(
    "--from-ossie",
    "model",
    type=existing_file,
    metavar="FILE",
    help="Write a meter that bills a metric of an Apache Ossie semantic model.",
)
@click.option("--metric", metavar="NAME", help="Which metric of the file to bill.")
@click.option("--when", metavar="COLUMN", help="The column that says when something was used.")
@click.option("--customer", metavar="COLUMN", help="The column that says who used it.")
@click.option(
    "--quantity", metavar="COLUMN", help="The column that says how much. Without one, rows are counted."
)
@config_option
def init(
    config_path: Path,
    *,
    table: str | None,
    manifest: Path | None,
    model: Path | None,
    metric: str | None,
    when: str | None,
    customer: str | None,
    quantity: str | None,
) -> None:
    """Write a starter configuration with comments; a file that exists is never overwritten.

    With --from-table, the meter reads a table of yours. The command chooses columns by their names and types, and says
    why. It looks for a customer's id at Stripe in the table itself and where its foreign keys lead. It writes nothing
    to the database.

    With --from-dbt or --from-ossie, the meter bills a metric of a semantic layer. If the metric leaves something open,
    the command fills it in and says so. A metric that is not a sum over rows is refused.
    """
    from aggregator.config import starter

    if config_path.exists():
        raise UsageError(f"{config_path} exists already; remove it, or name another file with --config.")
    chosen = Chosen(metric, when, customer, quantity)
    if sum(each is not None for each in (table, manifest, model)) > 1:
        raise UsageError("A meter begins with one of `--from-table`, `--from-dbt` and `--from-ossie`.")
    if manifest is not None:
        over, (text, reasons) = f"the metric of {manifest}", _of_dbt(manifest, chosen)
    elif model is not None:
        over, (text, reasons) = f"the metric of {model}", _of_ossie(model, chosen)
    elif table is not None:
        over, (text, reasons) = table, _over(table, chosen)
    else:
        for what, name in {"metric": metric, **chosen.columns()}.items():
            if name is not None:
                raise UsageError(_of_what(what))
        config_path.write_text(starter(start_at=_this_month()))
        say(f"Wrote {config_path}. Edit it, then run `aggregator check`.")
        return
    config_path.write_text(text)
    say(f"Wrote {config_path}, with a meter over {over}:")
    for reason in reasons:
        say(f"- {reason}")
    say("Read the query and correct it where needed. Then run `aggregator check`, which tries it.")


def _of_what(option: str) -> str:
    if option == "metric":
        return "`--metric` names a metric: also name its file, with `--from-dbt` or `--from-ossie`."
    return f"`--{option}` names a column: also name its table, with `--from-table`."


def _over(table: str, chosen: Chosen) -> tuple[str, Sequence[str]]:
    """Return a configuration with a meter over a table, and what was assumed of it. Raises UsageError or SourceError."""
    from aggregator.config import starter
    from aggregator.config.starter import meter_of_table
    from aggregator.core.table_guess import guess

    if chosen.metric is not None:
        raise UsageError(_of_what("metric"))
    with closing(_source(table)) as source:
        try:
            found = guess(source.shape(table), chosen.columns())
        except LookupError as error:
            raise UsageError(f"{error}.") from None
        meter = meter_of_table(table, found, source.kind, source.quoted, _this_month())
    return starter(meter=meter, timezone="UTC" if found.when.kind == "local" else None), found.reasons


def _of_dbt(path: Path, chosen: Chosen) -> tuple[str, Sequence[str]]:
    """Return a configuration with a meter of a metric of dbt. Raises UsageError or SourceError."""
    from aggregator.semantic import dbt

    if chosen.when is not None:
        raise UsageError("A metric of dbt says when by its `agg_time_dimension`: leave out `--when`.")
    manifest = dbt.read(path)
    return _of_metric(lambda _: dbt.metric(manifest, chosen.metric), chosen)


def _of_ossie(path: Path, chosen: Chosen) -> tuple[str, Sequence[str]]:
    """Return a configuration with a meter of a metric of an Ossie model. Raises UsageError or SourceError."""
    from aggregator.semantic import ossie

    model = ossie.read(path)
    return _of_metric(lambda engine: ossie.metric(model, chosen.metric, engine, chosen.when), chosen)


def _of_metric(metric_for: Callable[[str], "SemanticMetric"], chosen: Chosen) -> tuple[str, Sequence[str]]:
    """Return a configuration with a meter that bills a metric, and what was assumed of it."""
    from aggregator.config import starter
    from aggregator.config.starter import Reads, exact, meter_that
    from aggregator.core import semantic_metric
    from aggregator.semantic import expressions

    if chosen.quantity is not None:
        raise UsageError("A metric says how much by itself: leave out `--quantity`.")
    with closing(_source("the table of a metric")) as source:
        engine = expressions.engine_of(source.kind)
        metric = metric_for(engine)
        shape = source.shape(metric.table)
        try:
            rows = semantic_metric.rows(metric, shape, chosen.customer)
        except LookupError as error:
            raise UsageError(f"{error}.") from None
        within = {metric.within.lower()} if metric.within else set()

        def written(text: str) -> str:
            return expressions.rewritten(text, shape.columns, metric.written_in, engine, within)

        amount = written(metric.expression)
        reasons = [*metric.assumed, *rows.reasons]
        column = expressions.plain(metric.expression)
        kinds = {each.name.lower(): each.kind for each in shape.columns}
        if metric.aggregation == "sum" and kinds.get((column or "").lower()) == "float":
            amount = exact(amount)
            reasons.append(f"`{column}` is a floating-point number, and is cast to an exact one")
        if metric.written_in != engine:
            reasons.append(expressions.translated(metric.written_in, engine))
        reads = Reads(
            metric.table,
            metric.name,
            rows.when,
            rows.customer,
            rows.through,
            f"{metric.aggregation}({amount})",
            tuple(map(written, metric.conditions)),
            metric.daily or rows.when.kind == "date",
        )
        meter = meter_that(reads, source.kind, source.quoted, _this_month())
    naive = rows.when.kind in {"local", "date"}
    return starter(meter=meter, timezone="UTC" if naive else None), reasons


def _source(what: str) -> "Source":
    """Return the database that the variable leads to. Raises UsageError without one."""
    from aggregator.source import Source

    url = os.environ.get(URL)
    if not url:
        raise UsageError(
            f"To look at {what}, its database is needed: set {URL} to its URL, such as `postgresql://reader@host/app`."
        )
    return Source("app", url, statement_timeout=LONGEST)


def _this_month() -> dt.datetime:
    from aggregator.runtime.clock import utcnow

    return utcnow().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
