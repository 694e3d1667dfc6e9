"""The manifests and the chart: rendered by the real programs, strictly valid, and the same pod either way."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from aggregator.config import load
from tests.kubernetes_tools import tool

ROOT = Path(__file__).parents[2]
BASE = ROOT / "deploy" / "kubernetes" / "base"
CRON_JOB = ROOT / "deploy" / "kubernetes" / "cronjob"
CHART = ROOT / "deploy" / "chart"

VERSIONS = ("1.29", "1.33", "1.36")
"""Of Kubernetes: from the first whose schema lets a failure policy name exit codes alone."""

Object = dict[str, Any]
Objects = dict[str, Object]


@cache
def printed(*command: str) -> str:
    """Return what a program prints; the files that it reads do not change meanwhile."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rendered(*command: str) -> Objects:
    """Return what a program prints as objects, by their kind."""
    objects = [each for each in YAML(typ="safe").load_all(printed(*command)) if each]
    by_kind = {each["kind"]: each for each in objects}
    assert len(by_kind) == len(objects)
    return by_kind


def kustomized(folder: Path) -> Objects:
    return rendered(tool("kubectl"), "kustomize", str(folder))


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What somebody gives the chart: the configuration of the manifests, and the name of a secret."""
    path = tmp_path_factory.mktemp("chart") / "values.yaml"
    given = {"secretName": "aggregator", "configuration": (BASE / "aggregator.yaml").read_text()}
    YAML(typ="safe").dump(given, path)
    return path


def charted(values: Path, *settings: str) -> Objects:
    return rendered(
        tool("helm"),
        "template",
        "aggregator",
        str(CHART),
        "--values",
        str(values),
        "--set",
        ",".join(settings),
    )


def overlaid(tmp_path: Path) -> Objects:
    """Return what somebody's overlay of the documentation makes, with an image and a configuration of their own."""
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    text = page.partition("# kustomization.yaml\n")[2].partition("```")[0]
    shutil.copytree(ROOT / "deploy", tmp_path / "aggregator" / "deploy")
    overlay = tmp_path / "ours"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(text)
    (overlay / "aggregator.yaml").write_text("meters: {}\n")
    return kustomized(overlay)


def pod(objects: Objects) -> Object:
    """Return the pod that a Deployment or a CronJob makes."""
    if "Deployment" in objects:
        return dict(objects["Deployment"]["spec"]["template"]["spec"])
    return dict(objects["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"])


def invalid(objects: Objects, version: str) -> Iterator[str]:
    for kind, each in objects.items():
        if each["apiVersion"].startswith("monitoring.coreos.com/"):
            continue  # not Kubernetes' own: its operator has the schema
        try:
            kubernetes_validate.validate(each, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{kind}: {error.message}"


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_them(values: Path, version: str) -> None:
    """Each object fits the schema of its kind, and has no field that the schema does not know."""
    for objects in (
        kustomized(BASE),
        kustomized(CRON_JOB),
        charted(values, "serviceMonitor.enabled=true"),
        charted(values, "mode=cronjob"),
    ):
        assert list(invalid(objects, version)) == []


def test_a_mistake_is_named() -> None:
    """What the test above relies on."""
    objects = kustomized(BASE)
    pod(objects)["containers"][0]["readinesProbe"] = {}
    objects["Service"]["spec"]["ports"][0]["port"] = "many"
    assert len(list(invalid(objects, VERSIONS[-1]))) == 2


def test_the_chart_passes_its_own_lint(values: Path) -> None:
    """`helm lint --strict` finds nothing."""
    command = [tool("helm"), "lint", "--strict", str(CHART), "--values", str(values)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("missing", ["configuration", "secretName"])
def test_the_chart_asks_for_what_it_needs(values: Path, missing: str) -> None:
    """Without a configuration or a secret nothing is installed, and what is missing is named."""
    command = [tool("helm"), "template", "x", str(CHART), "--values", str(values), "--set", f"{missing}="]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert missing in done.stderr


def test_both_ways_run_the_same_pod(values: Path) -> None:
    """What the chart makes is what the manifests make, for the daemon and for the CronJob."""
    for manifests, chart in (
        (kustomized(BASE), charted(values)),
        (kustomized(CRON_JOB), charted(values, "mode=cronjob")),
    ):
        ours, theirs = pod(manifests), pod(chart)
        assert theirs["containers"][0].pop("imagePullPolicy") == "IfNotPresent"
        [generated] = [each for each in ours["volumes"] if each["name"] == "configuration"]
        assert generated["configMap"].pop("name").startswith("aggregator-")
        [given] = [each for each in theirs["volumes"] if each["name"] == "configuration"]
        assert given["configMap"].pop("name") == "aggregator"
        assert theirs == ours
        assert chart.keys() == manifests.keys()
        for kind in manifests.keys() & {"CronJob", "NetworkPolicy", "PodDisruptionBudget", "Service"}:
            assert settings(chart[kind]) == settings(manifests[kind]), kind


def settings(each: Object) -> Object:
    """Return an object's `spec` without what names the release and without the pod, which is compared by itself."""
    found = {name: value for name, value in each["spec"].items() if name not in ("selector", "podSelector")}
    if "jobTemplate" in found:
        job = found["jobTemplate"]["spec"]
        found["jobTemplate"] = {name: value for name, value in job.items() if name != "template"}
    return found


def test_the_daemon_and_the_cron_job_differ_in_what_they_must(values: Path) -> None:
    """One listens and is probed, the other ends: all else of their pods is the same."""
    daemon, job = pod(kustomized(BASE)), pod(kustomized(CRON_JOB))
    assert job.pop("restartPolicy") == "Never"
    for name in ("ports", "startupProbe", "livenessProbe", "readinessProbe"):
        assert daemon["containers"][0].pop(name)
        assert name not in job["containers"][0]
    assert daemon["containers"][0].pop("args")[0] == "run"
    assert job["containers"][0].pop("args")[:2] == ["run", "--once"]
    assert daemon == job


def test_the_pod_can_do_little(values: Path) -> None:
    """As the restricted pod security standard wants it (kubernetes.io/docs/concepts/security/pod-security-standards)."""
    for objects in (kustomized(BASE), charted(values, "mode=cronjob")):
        found = pod(objects)
        assert found["securityContext"]["runAsNonRoot"] is True
        assert found["securityContext"]["runAsUser"] > 0
        assert found["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert found["automountServiceAccountToken"] is False
        [container] = found["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_the_state_cannot_be_forgotten(values: Path) -> None:
    """The pod needs a claim, one pod at a time has it, and the chart keeps it when it goes itself."""
    for objects in (kustomized(BASE), charted(values)):
        [state] = [each for each in pod(objects)["volumes"] if each["name"] == "state"]
        assert state["persistentVolumeClaim"] == {"claimName": "aggregator-state"}
        assert objects["PersistentVolumeClaim"]["metadata"]["name"] == "aggregator-state"
        assert objects["Deployment"]["spec"]["strategy"] == {"type": "Recreate"}
    kept = charted(values)["PersistentVolumeClaim"]["metadata"]["annotations"]
    assert kept == {"helm.sh/resource-policy": "keep"}
    theirs = charted(values, "state.existingClaim=ours")
    assert "PersistentVolumeClaim" not in theirs
    [state] = [each for each in pod(theirs)["volumes"] if each["name"] == "state"]
    assert state["persistentVolumeClaim"] == {"claimName": "ours"}


def test_what_cannot_help_is_not_repeated(values: Path) -> None:
    """A job whose configuration is wrong, or that needs a person, is not run again; one that may pass is."""
    for objects in (kustomized(CRON_JOB), charted(values, "mode=cronjob")):
        job = objects["CronJob"]["spec"]
        assert job["timeZone"] == "Etc/UTC"
        [rule] = job["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
        assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2, 4])
        [container] = pod(objects)["containers"]
        assert rule["onExitCodes"]["containerName"] == container["name"]


def test_prometheus_finds_the_pod(values: Path, tmp_path: Path) -> None:
    """The monitor selects the service, by a port that it has, with a token that is a key of the secret."""
    for objects in (overlaid(tmp_path), charted(values, "serviceMonitor.enabled=true")):
        monitor, service = objects["ServiceMonitor"], objects["Service"]
        wanted = monitor["spec"]["selector"]["matchLabels"]
        assert wanted.items() <= service["metadata"]["labels"].items()
        [endpoint] = monitor["spec"]["endpoints"]
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        assert endpoint["authorization"]["credentials"] == {"name": "aggregator", "key": "scrape_token"}


def test_an_overlay_makes_it_yours(tmp_path: Path) -> None:
    """The documentation's has its image, its configuration and its namespace in place of ours."""
    objects = overlaid(tmp_path)
    [container] = pod(objects)["containers"]
    assert container["image"] == "registry.example.com/aggregator:0.1.0"
    assert objects["ConfigMap"]["data"] == {"aggregator.yaml": "meters: {}\n"}
    assert {each["metadata"]["namespace"] for each in objects.values()} == {"billing"}


def test_a_changed_configuration_makes_a_new_pod(values: Path) -> None:
    """The name of the generated map, or an annotation, is made from the text."""
    before = charted(values)["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    after = charted(values, "configuration=other")["Deployment"]["spec"]["template"]["metadata"][
        "annotations"
    ]
    assert before.keys() == after.keys() == {"checksum/configuration"}
    assert before != after


def test_the_configuration_that_is_shown_loads(tmp_path: Path) -> None:
    """With each secret as a file, by the name that the page tells to give it."""
    text = (BASE / "aggregator.yaml").read_text()
    secrets = {
        "ledger_url": "postgresql://ledger",
        "app_url": "postgresql://app",
        "operator_token": "t" * 48,
        "scrape_token": "s" * 48,
        "stripe_api_key": "rk_live_" + "x" * 24,
    }
    for name, value in secrets.items():
        (tmp_path / name).write_text(value)
    path = tmp_path / "aggregator.yaml"
    path.write_text(text.replace("/run/secrets/aggregator", str(tmp_path)))
    assert list(load(path, {}).meters) == ["api_requests"]
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    given = set(re.findall(r"--from-(?:file|literal)=(\w+)", page))
    assert given == secrets.keys()
