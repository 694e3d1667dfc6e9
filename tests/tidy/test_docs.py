"""The pages for users are complete and true: what the code has stands in them, and what they show works."""

import inspect
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest
from ruamel.yaml import YAML

from aggregator import errors
from aggregator.cli import cli
from aggregator.config import json_schema, load
from aggregator.core.model import State
from aggregator.core.states import BEGINNINGS, CANCELLATION_STEPS, STEPS
from aggregator.runtime import log
from aggregator.sandbox.__main__ import command as sandbox
from aggregator.sandbox.control import PREFIX, ROUTES
from aggregator.sandbox.metronome import MetronomeRules
from aggregator.sandbox.rules import Rules
from aggregator.sandbox.settings import FaultSettings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), *sorted(ROOT.glob("*.md"))]

GLOSSARY = """
source, meter, definition, window, pass, reading, dimension, combination, key, mapping, slot, ledger, mark, delay,
commit barrier, revisit, touched, sample, series, glance, backfill, restate, lease, epoch, event, identifier, revision,
correction, delta, total, carry, move, outbox, claim, attempt, sink, transport, share, feed, shadow, verdict, held,
guard, refused, in doubt, dismissed, unmapped, halted, report, notification, readback, cancellation, cutover, parity, adopt,
sandbox
"""
"""Every word with a meaning of its own here. A new one is added to the table and to this list."""

MOST_WORDS = 60
"""As many as a newcomer can be asked to learn. Who needs another one gives one up, or says it in plain words."""

ENVIRONMENT = {
    "APP_DATABASE_URL": "postgresql://reader@db/app",
    "LEDGER_URL": "postgresql://aggregator@db/ledger",
    "STRIPE_API_KEY": "rk_live_1",
    "NEXT_API_KEY": "rk_live_2",
    "STRIPE_WEBHOOK_SECRET": "whsec_1",
    "METRONOME_TOKEN": "token",
    "AGGREGATOR_WEB_TOKEN": "operator-token-of-24-chars",
    "AGGREGATOR_TOKEN_SECRET": "a-secret-that-has-32-characters-at-least",
}


def page(name: str) -> str:
    return (DOCS / name).read_text()


def code_in(text: str) -> set[str]:
    """What stands between backticks."""
    return set(re.findall(r"`([^`\n]+)`", text))


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of every row of the tables whose first column has this heading."""
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        first, _, *others = [
            [cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()
        ]
        found += others if first[0] == heading else []
    return found


def section(text: str, heading: str) -> str:
    """What stands below a heading, up to the next one of the same level."""
    level = heading.partition(" ")[0]
    found = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^{level} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"there is no {heading}"
    return found[1]


def log_events() -> set[str]:
    """Every name that the log may use."""
    return {value for name, value in vars(log).items() if name.isupper() and isinstance(value, str)}


def commands(group: click.Group, path: str = "aggregator") -> Iterator[tuple[str, click.Command]]:
    """Every command, by what one types."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


COMMANDS = dict(commands(cli))


def options(command: click.Command) -> list[str]:
    """The long names of a command's options."""
    return [
        name
        for option in command.params
        if isinstance(option, click.Option)
        for name in option.opts
        if name.startswith("--")
    ]


def keys() -> dict[str, dict[str, Any]]:
    """Every key of the configuration with its schema, by the heading it belongs under."""
    schema: dict[str, Any] = json_schema()
    found = {name: block["properties"] for name, block in schema["$defs"].items()}
    return {
        "## Top level": schema["properties"],
        "## ledger": found["Ledger"],
        "## web": found["Web"],
        "## monitoring": found["Monitoring"],
        "## sources": found["Source"],
        "## files": found["SourceFiles"],
        "## sinks": found["StripeSink"] | found["StripeReports"],
        "## Metronome sinks": found["MetronomeSink"],
        "## csv sinks": found["CsvSink"],
        "## directory sinks": found["DirectorySink"],
        "## s3 sinks": found["S3Sink"],
        "## meters": found["Meter"]
        | found["Changed"]
        | found["Guards"]
        | found["Deltas"]
        | found["StripeEvent"]
        | found["MetronomeEvent"]
        | found["FedSink"],
        "## tests": found["QueryTest"] | found["ExpectedUsage"],
    }


def anchors(text: str) -> set[str]:
    """The names under which a page's headings can be linked to."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def all_blocks(language: str) -> list[Any]:
    found = [(path, text) for path in PAGES for text in blocks(path.read_text(), language)]
    return [pytest.param(text, id=f"{path.name}-{n}") for n, (path, text) in enumerate(found)]


def test_the_index_lists_every_page() -> None:
    """docs/README.md leads to each page."""
    index = page("README.md")
    assert [path.name for path in DOCS.glob("*.md") if f"({path.name})" not in index] == ["README.md"]


def test_every_log_event_is_documented() -> None:
    """docs/log.md lists each event of the log, and no other."""
    assert {row[0].strip("`") for row in rows(page("log.md"), "event")} == log_events()


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_is_documented(path: str) -> None:
    """docs/operations.md has a row for each command, with all its options and no other."""
    table = {row[0]: row for row in rows(page("operations.md"), "command")}
    assert f"`{path}`" in table, f"docs/operations.md does not tell of `{path}`"
    assert (
        sorted(code_in(table[f"`{path}`"][2])) == sorted(options(COMMANDS[path]))
        or path == "aggregator sandbox"
    )


def test_every_option_of_the_sandbox_is_documented() -> None:
    """docs/sandbox.md has a row for each of its options, and no other."""
    table = rows(section(page("sandbox.md"), "## Options"), "option")
    assert [row[0].strip("`") for row in table] == options(sandbox)


def test_every_control_call_of_the_sandbox_is_documented() -> None:
    """docs/sandbox.md has each method of each control call."""
    calls = section(page("sandbox.md"), "## Control calls")
    told = {
        (method, found[2])
        for found in re.finditer(rf"`((?:GET|PUT|POST|, |`)+) {PREFIX}(\w+)", calls)
        for method in re.findall("GET|PUT|POST", found[1])
    }
    assert told == set(ROUTES)


def test_every_setting_of_the_sandbox_is_documented() -> None:
    """docs/sandbox.md has each fault and each rule."""
    told = " ".join(code_in(page("sandbox.md")))
    names = [
        *FaultSettings.__dataclass_fields__,
        *Rules.__dataclass_fields__,
        *MetronomeRules.__dataclass_fields__,
    ]
    assert [name for name in names if not re.search(rf"\b{name}\b", told)] == []


@pytest.mark.parametrize(("heading", "wanted"), keys().items(), ids=keys())
def test_every_key_is_documented(heading: str, wanted: dict[str, Any]) -> None:
    """docs/configuration.md has a row for each key under the heading of its block, with its default, and no other."""
    told = {row[0].strip("`"): row for row in rows(section(page("configuration.md"), heading), "key")}
    assert sorted(told) == sorted(wanted), f"{heading} of docs/configuration.md"
    for key, its in wanted.items():
        if "default" in its:
            default = json.dumps(its["default"]).strip('"')
            assert f"`{default}`" in told[key][2], f"{key} has the default {default}"


@pytest.mark.parametrize("text", all_blocks("yaml"))
def test_every_configuration_that_is_shown_loads(text: str, tmp_path: Path) -> None:
    """Each YAML block is YAML, and each that is a whole configuration can be used as it is."""
    shown = list(YAML(typ="safe", pure=True).load_all(text))
    whole = (
        len(shown) == 1 and isinstance(shown[0], dict) and {"sources", "sinks", "meters"} <= shown[0].keys()
    )
    if whole:
        (tmp_path / "aggregator.yaml").write_text(text)
        assert load(tmp_path / "aggregator.yaml", ENVIRONMENT).meters


def test_a_whole_configuration_is_shown() -> None:
    """docs/configuration.md begins with one, so that the test above has something to load."""
    assert "meters" in YAML(typ="safe", pure=True).load(blocks(page("configuration.md"), "yaml")[0])


def test_every_table_and_column_is_documented(ledger_url: str) -> None:
    """docs/ledger.md has each table of the ledger with each of its columns, and no other."""
    told = {
        name: {column for row in rows(text, "column") for column in code_in(row[0])}
        for name, text in re.findall(
            r"^### `(\w+)`.*?\n(.*?)(?=^##)", page("ledger.md"), re.MULTILINE | re.DOTALL
        )
    }
    with psycopg.connect(ledger_url) as connection:
        found = connection.execute(
            "select table_name, array_agg(column_name::text) from information_schema.columns"
            " where table_schema = 'aggregator' group by table_name"
        ).fetchall()
    assert told == {name: set(columns) for name, columns in found}


@pytest.mark.parametrize(
    "statement", blocks(page("ledger.md"), "sql"), ids=range(len(blocks(page("ledger.md"), "sql")))
)
def test_every_ledger_query_runs(statement: str, ledger_url: str) -> None:
    """Each query of docs/ledger.md can be run as it is, by a session that may only read."""
    with psycopg.connect(ledger_url) as connection:
        connection.read_only = True
        cursor = connection.execute(statement.encode())
        assert cursor.description, "it returns rows"


def test_every_state_is_documented() -> None:
    """docs/how-it-works.md says what each state of an event means."""
    told = code_in(section(page("how-it-works.md"), "## Events and their states"))
    assert [state.value for state in State if state.value not in told] == []


def test_the_steps_between_states_are_drawn() -> None:
    """docs/how-it-works.md draws the table of `core/states`: the beginnings, and one line for each state with steps."""
    left = {state: [step.new for step in STEPS if step.old is state] for state in State}
    drawn = {"begins": list(BEGINNINGS)} | {
        state.value: following for state, following in left.items() if following
    }
    width = max(map(len, drawn))
    lines = [f" {name:<{width}} ──> {' | '.join(following)}" for name, following in drawn.items()]
    assert "\n".join(lines) in section(page("how-it-works.md"), "## Events and their states")


def test_each_step_has_its_cause_in_the_docs() -> None:
    """docs/ledger.md has each step of an event and of a cancellation, with its cause as the core has it, and no other."""
    steps = [["(begins)", f"`{state}`", cause] for state, cause in BEGINNINGS.items()]
    steps += [
        [f"`{step.old}`", f"`{step.new}`", step.cause + "; only if it was never tried" * step.untried]
        for step in STEPS
    ]
    steps += [
        [f"`{old}`", f"`{new}`", cause]
        for old, following in CANCELLATION_STEPS.items()
        for new, cause in following.items()
    ]
    assert rows(page("ledger.md"), "from") == steps


def test_every_word_is_explained() -> None:
    """The glossary of docs/how-it-works.md has each word once, and no other."""
    words = [row[0].strip("*") for row in rows(page("how-it-works.md"), "word")]
    assert words == [word.strip() for word in GLOSSARY.replace("\n", " ").split(",")]
    assert len(words) <= MOST_WORDS


def test_every_error_is_drawn_and_explained() -> None:
    """Each error class has a docstring, which is its message, and stands in the drawing in the place it has."""
    drawing = {
        name: depth
        for line in inspect.getdoc(errors).splitlines()  # type: ignore[union-attr]  # the module has a docstring
        for depth, name in re.findall(r"^(.*?)([A-Z]\w+)  ", line)
    }
    classes = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.AggregatorError)
    }
    assert drawing.keys() == classes.keys()
    root = len(drawing["AggregatorError"])
    for name, kind in classes.items():
        assert kind.__doc__, f"{name} has no docstring"
        assert len(kind.__mro__) - len(errors.AggregatorError.__mro__) == (len(drawing[name]) - root) // 4, (
            name
        )


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    """Links between pages, and to headings in them, resolve."""
    prose = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{path.name} links to {target}, which is not there"
        assert not anchor or anchor in anchors(there.read_text()), (
            f"{path.name} links to {target}: no such heading"
        )


def test_the_package_names_addresses_that_the_pages_cite() -> None:
    """What an index shows beside the package are pages that a reader of the docs is sent to as well."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    text = "".join(each.read_text() for each in PAGES)
    assert urls
    assert not [url for url in urls.values() if not re.search(re.escape(url) + r"[)#\s]", text)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_page_promises_what_can_be_kept(path: Path) -> None:
    """No page claims that something is delivered exactly once except to say that it cannot be."""
    for line in path.read_text().splitlines():
        assert "exactly once" not in line.lower() or "cannot" in line, f"{path.name}: {line}"
