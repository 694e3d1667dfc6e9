"""Files that are no ordinary configuration: pipes, depths, aliases without end, and keys that are the reader's own."""

import json
import os
from pathlib import Path

import pytest

from aggregator.config import json_schema, load
from aggregator.errors import ConfigError

GOOD = """
x-every-hour: &hourly {window: 1h, start_at: 2026-11-01T00:00Z, source: app, sinks: [files]}
x-notes: [anything, {at: all}]
sources: {app: {url: "sqlite:///app.db"}}
sinks: {files: {type: csv, directory: out}}
meters:
  calls:
    <<: *hourly
    query: select customer, quantity from usage where at >= :start and at < :end
"""


def piped(text: str) -> Path:
    """Return what a shell passes for `<(...)`: one end of a pipe, by the name of its descriptor."""
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    return Path(f"/dev/fd/{reading}")


def test_a_configuration_may_come_through_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--config <(...)`: it is read once, and its paths lead from where the command was run."""
    monkeypatch.chdir(tmp_path)
    path = piped(GOOD)
    config = load(path, {})
    assert config.state_dir == tmp_path / ".aggregator"
    assert getattr(config.sinks["files"], "directory", None) == tmp_path / "out"
    with pytest.raises(ConfigError, match="is a pipe, which can be read only once: give a file"):
        load(path, {})
    os.close(int(path.name))


def test_keys_for_anchors(tmp_path: Path) -> None:
    """What begins with `x-` at the top level is the reader's own; anything else that is not known is a mistake."""
    path = tmp_path / "aggregator.yaml"
    path.write_text(GOOD)
    assert load(path, {}).meter("calls").sinks == ("files",)
    path.write_text(GOOD.replace("x-notes", "notes"))
    with pytest.raises(ConfigError, match=r"aggregator.yaml:3: notes: is not a known key"):
        load(path, {})
    assert "^x-" in json.dumps(json_schema()["patternProperties"])


BOMB = "\n".join(
    [
        "a0: &a0 [x, x, x, x, x, x, x, x, x]",
        *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)),
    ]
)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("meters:\n  m: " + "[" * 300_000, ":2: is nested too deeply", id="open brackets"),
        pytest.param(
            "\n" + "{a: " * 100_000 + "1" + "}" * 100_000, ":2: is nested too deeply", id="mappings"
        ),
        pytest.param(
            "\n".join(" " * n + "a:" for n in range(900)), ":40: is nested too deeply", id="indentation"
        ),
        pytest.param(BOMB, ":6: holds aliases that unfold to more", id="aliases of aliases"),
    ],
)
def test_a_file_without_end_is_refused_at_once(tmp_path: Path, text: str, told: str) -> None:
    """With its line, and before it takes time or memory."""
    path = tmp_path / "aggregator.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        load(path, {})
