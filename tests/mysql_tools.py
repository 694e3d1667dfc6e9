"""MySQL's server for the tests: Debian carries it in its unstable branch only, so it is taken from there into a folder.

    python -m tests.mysql_tools FOLDER     fetch it and the libraries that it needs, and unpack them below the folder

Rules
- Nothing is installed, and the system's own lists of packages stay as they are: apt works on lists of its own.
- It runs by the C library that comes with it, as that branch has newer ones than the system.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HOME = Path(__file__).parents[1] / ".mysql"

PACKAGE = "mysql-server-core"
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
BESIDE = ("perl", "libperl", "libc-gconv", "libudev")
"""What its scripts need, or its libraries for what no server does."""

LIBRARIES = Path("usr/lib/x86_64-linux-gnu")


def command(home: Path = HOME) -> list[str] | None:
    """Return what runs it; None where it is not."""
    program, loader = home / "usr/sbin/mysqld", home / LIBRARIES / "ld-linux-x86-64.so.2"
    if not program.exists() or not loader.exists():
        return None
    return [str(loader), "--library-path", str(home / LIBRARIES), str(program)]


def fetch(home: Path) -> None:
    """Fetch it from where this system's own packages come from. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        work.chmod(0o755)
        for folder in ("lists/partial", "cache/archives/partial"):
            (work / folder).mkdir(parents=True)
        (work / "status").touch()
        sites = _said("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").split()
        site = next(each for each in sites if not each.rstrip("/").endswith("-security"))
        (work / "sources").write_text(f"deb [signed-by={KEYS}] {site} unstable main\n")
        ours = {
            "Dir::Etc::SourceList": work / "sources",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State::Lists": work / "lists",
            "Dir::State::Status": work / "status",
            "Dir::Cache": work / "cache",
            "APT::Sandbox::User": "root",
            "Debug::NoLocking": "true",
        }
        apt = ("apt-get", "-qq", *(part for key, value in ours.items() for part in ("-o", f"{key}={value}")))
        _said(*apt, "update")
        _said(*apt, "install", "--yes", "--no-install-recommends", "--download-only", PACKAGE)
        unpacked = work / "root"
        unpacked.mkdir()
        for archive in sorted((work / "cache/archives").glob("*.deb")):
            if not archive.name.startswith(BESIDE):
                _said("dpkg-deb", "--extract", str(archive), str(unpacked))
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(unpacked, home, symlinks=True)


def _said(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=300).stdout


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
