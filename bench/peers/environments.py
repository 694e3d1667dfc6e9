"""An environment for each peer, made once below `.peers/`, which Git ignores."""

import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from bench.checkouts import HOME


def environment(name: str, requirements: Sequence[str]) -> Path:
    """Return the directory of a peer's programs; install it if it is not there. Raises SystemExit if that fails."""
    root = HOME / ".peers" / name
    programs, done = root / "bin", root / "requirements"
    wanted = "\n".join(requirements)
    if done.exists() and done.read_text() == wanted:
        return programs
    print(f"installing {name}", file=sys.stderr)
    venv.create(root, clear=True, with_pip=True)
    call = [
        str(programs / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        *requirements,
    ]
    installed = subprocess.run(call, capture_output=True, text=True, check=False)
    if installed.returncode:
        raise SystemExit(f"bench.peers: {name} cannot be installed: {installed.stderr[-2_000:]}")
    done.write_text(wanted)
    return programs
