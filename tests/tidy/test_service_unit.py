"""The systemd unit: systemd itself takes it, and finds it closed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "config" / "aggregator.service"

EXPOSURE = 1.5
"""As `systemd-analyze security` counts, from 0 (can do nothing) to 10. To reach the network alone counts 0.8."""


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, starting a program that this machine has: systemd looks whether it is there."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", UNIT.read_text(), flags=re.MULTILINE)
    copy = tmp_path / UNIT.name
    copy.write_text(text)
    return copy


def analyze(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["systemd-analyze", *words], capture_output=True, text=True, timeout=120, check=False
    )


def test_systemd_takes_the_unit(unit: Path) -> None:
    """It verifies without a word: a key that systemd does not know, or a value it cannot read, it names."""
    verified = analyze("verify", "--man=no", str(unit))
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


def test_systemd_names_a_mistake(unit: Path) -> None:
    """What the test above relies on."""
    unit.write_text(unit.read_text().replace("ProtectHome=yes", "ProtectHom=yes"))
    assert "ProtectHom" in analyze("verify", "--man=no", str(unit)).stderr


def test_the_service_can_do_little(unit: Path) -> None:
    """By systemd's own count it is exposed as little as something that calls databases and sinks can be."""
    judged = analyze("security", "--offline=true", "--no-pager", str(unit)).stdout
    level = re.search(r"Overall exposure level for \S+: ([\d.]+)", judged)
    assert level is not None, judged
    assert float(level[1]) <= EXPOSURE, judged
