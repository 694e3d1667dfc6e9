"""The image and the containers to look at: what they are built of is there, closed alike, and configured by what loads."""

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

import aggregator
from aggregator.config import load

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CONTAINERFILE = (DEPLOY / "Containerfile").read_text()
COMPOSE: dict[str, Any] = YAML(typ="safe", pure=True).load((DEPLOY / "compose" / "compose.yaml").read_text())
DEPLOYMENT: dict[str, Any] = YAML(typ="safe", pure=True).load(
    (DEPLOY / "kubernetes" / "base" / "deployment.yaml").read_text()
)


def test_the_builder_gets_what_is_copied() -> None:
    """Whatever the build copies from the project exists, and is not kept from the builder."""
    given = [
        line[1:] for line in (ROOT / ".containerignore").read_text().splitlines() if line.startswith("!")
    ]
    copied = [
        name
        for line in re.findall(r"^COPY (?!--from)(.+)$", CONTAINERFILE, re.MULTILINE)
        for name in line.split()[:-1]
    ]
    assert copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert [name for name in copied if not any(fnmatch(name, each) for each in given)] == []


def test_the_extras_of_the_image_exist() -> None:
    """A misspelt extra is one that pip only warns of."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"EXTRAS=([\w,]+)", CONTAINERFILE + (ROOT / "docs" / "containers.md").read_text())
    assert named
    assert {extra for each in named for extra in each.split(",")} <= known.keys()


def test_one_user_everywhere() -> None:
    """The number of the image's user is the one that the cluster runs it as, and it owns the state."""
    [user] = re.findall(r"^USER (\d+):\1$", CONTAINERFILE, re.MULTILINE)
    context = DEPLOYMENT["spec"]["template"]["spec"]["securityContext"]
    assert {context["runAsUser"], context["runAsGroup"], context["fsGroup"]} == {int(user)}
    assert f"--uid {user} " in CONTAINERFILE


def test_the_image_runs_what_the_cluster_runs() -> None:
    """The command without arguments is that of the Deployment."""
    [container] = DEPLOYMENT["spec"]["template"]["spec"]["containers"]
    [arguments] = re.findall(r"^CMD (\[.+\])$", CONTAINERFILE, re.MULTILINE)
    assert YAML(typ="safe").load(arguments) == container["args"]
    assert container["image"] == f"aggregator:{aggregator.__version__}"


def test_the_containers_to_look_at_are_closed() -> None:
    """Ours cannot write to their files or gain rights, and nothing is published but to this machine."""
    for name in ("aggregator", "sandbox"):
        service = COMPOSE["services"][name]
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    ports = [port for each in COMPOSE["services"].values() for port in each.get("ports", [])]
    assert ports == ["127.0.0.1:8080:8080"]


def test_what_they_bill_loads() -> None:
    """With the variables that the compose file gives."""
    env = {name: "2026-12-01T00:00Z" if name == "START_AT" else "t" * 48 for name in environment()}
    assert list(load(DEPLOY / "compose" / "aggregator.yaml", env).meters) == ["api_requests", "stored_gb"]


def environment() -> list[str]:
    return list(COMPOSE["services"]["aggregator"]["environment"])
