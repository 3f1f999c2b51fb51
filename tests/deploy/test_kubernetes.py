"""The chart, as the real tools read it: Helm's engine, Kubernetes' and KEDA's own schemas."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.settings import ApiSettings
from jobs.contract.model_file import load_catalogue
from jobs.settings import ROOT, RoleSettings
from tests.dialects.sdks import node_with, python_with, run_node, run_python
from worker.settings import WorkerSettings

CHART = ROOT / "deploy" / "helm"
CASES = ("trial.yaml", "gpu.yaml", "openshift.yaml", "plain.yaml", "scaled.yaml")
HELM = ("helm-python-sdk==0.2.2",)
SCHEMAS = ("kubernetes-validate==1.37.0",)
KEDA = ("@kubernetes-models/keda@2.0.0",)
OURS = {"api", "worker", "janitor", "courier", "first-key"}
VALIDATE = """
import json, sys, kubernetes_validate as k
wrong = []
for one in json.load(open(sys.argv[1])):
    try:
        k.validate(one, "1.37", strict=True)
    except k.ValidationError as error:
        wrong.append(f"{one['kind']} {one['metadata']['name']}: {error.message}")
    except k.SchemaNotFoundError:
        pass
print(json.dumps(wrong))
"""
KEDA_VALIDATE = """
import {ScaledObject} from '@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject';
import fs from 'fs';
const found = JSON.parse(fs.readFileSync(process.argv[2])).filter(o => o.kind === 'ScaledObject');
for (const one of found) new ScaledObject(one).validate();
console.log(JSON.stringify(found.length));
"""


@functools.cache
def rendered() -> dict[str, dict[str, Any]]:
    """What Helm makes of each example of values."""
    return helm(*(CHART / "ci" / name for name in CASES))


def helm(*values: Path) -> dict[str, Any]:
    script = Path(__file__).with_name("chart_tool.py").read_text()
    return run_python(python_with(*HELM), script, str(CHART), *map(str, values))


def objects(case: str) -> list[dict[str, Any]]:
    """Every object of one example."""
    texts = [text for path, text in rendered()[case]["files"].items() if path.endswith(".yaml")]
    return [one for text in texts for one in yaml.safe_load_all(text) if one]


def pods(case: str) -> dict[str, dict[str, Any]]:
    """The pod templates of one example, by the name of what makes them."""
    return {
        one["metadata"]["name"]: one["spec"]["template"]
        for one in objects(case)
        if one["kind"] in ("Deployment", "StatefulSet")
    }


def containers(case: str) -> list[dict[str, Any]]:
    """Every container of ours, first ones too."""
    specs = [pod["spec"] for pod in pods(case).values()]
    every = [c for s in specs for c in (*s.get("initContainers", ()), *s["containers"])]
    return [c for c in every if c["name"] in OURS]


@pytest.mark.parametrize("case", CASES)
def test_helm_finds_no_fault(case: str) -> None:
    made = rendered()[case]

    assert made["error"] is None
    assert not made["lint"]["errors"]
    assert [m for m in made["lint"]["messages"] if m["severity"] > 1] == []


@pytest.mark.parametrize("case", CASES)
def test_every_object_is_what_kubernetes_knows(case: str, tmp_path: Path) -> None:
    file = tmp_path / "objects.json"
    file.write_text(json.dumps(objects(case)))

    assert run_python(python_with(*SCHEMAS), VALIDATE, str(file)) == []


def test_the_scaled_objects_are_what_keda_knows(tmp_path: Path) -> None:
    file = tmp_path / "objects.json"
    file.write_text(json.dumps(objects("gpu.yaml")))

    assert run_node(node_with(*KEDA), KEDA_VALIDATE, str(file)) == 2


@pytest.mark.parametrize("case", CASES)
def test_every_variable_is_a_setting_of_its_role(case: str) -> None:
    """A misspelt one would be refused at start, by every pod."""
    known = {
        "api": ApiSettings,
        "first-key": ApiSettings,
        "worker": WorkerSettings,
        "janitor": WorkerSettings,
        "courier": WorkerSettings,
    }
    for container in containers(case):
        names = {e["name"] for e in container["env"] if e["name"].startswith("PRINTWORKS_")}
        settings: type[RoleSettings] = known[container["name"]]
        assert names <= settings.variables(), container["name"]


@pytest.mark.parametrize("case", CASES)
def test_kubernetes_adds_no_variable_that_looks_like_ours(case: str) -> None:
    """A Service `printworks-api` would else give every pod PRINTWORKS_API_PORT=tcp://..."""
    assert {pod["spec"]["enableServiceLinks"] for pod in pods(case).values()} == {False}


@pytest.mark.parametrize("case", CASES)
def test_every_container_is_confined(case: str) -> None:
    for pod in pods(case).values():
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert not pod["spec"]["automountServiceAccountToken"]
        for container in pod["spec"]["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"]
            assert not context["allowPrivilegeEscalation"]
            assert context["capabilities"] == {"drop": ["ALL"]}


def test_openshift_chooses_user_and_group() -> None:
    for pod in pods("openshift.yaml").values():
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(pod["spec"]["securityContext"])


@pytest.mark.parametrize("case", CASES)
def test_a_model_file_is_one_that_the_service_reads(case: str, tmp_path: Path) -> None:
    files = {o["metadata"]["name"]: o["data"] for o in objects(case) if o["kind"] == "ConfigMap"}
    groups = {name: data["models.toml"] for name, data in files.items() if "models.toml" in data}

    ids: dict[str, list[str]] = {}
    for name, text in groups.items():
        (tmp_path / name).write_text(text)
        ids[name] = [entry.id for entry in load_catalogue(tmp_path / name).models]

    if case == "gpu.yaml":
        assert ids["printworks-models"] == ["sdxl", "flux-schnell"]
        assert ids["printworks-models-sdxl"] == ["sdxl"]
        assert ids["printworks-models-flux"] == ["flux-schnell"]
    else:
        assert ids == {"printworks-models": ["demo"]}


def test_a_pod_has_more_time_than_its_role_takes() -> None:
    for name, pod in pods("gpu.yaml").items():
        (container,) = pod["spec"]["containers"]
        env = {e["name"]: e.get("value", "") for e in container["env"]}
        grace = float(env.get("PRINTWORKS_API_GRACE_S") or env.get("PRINTWORKS_WORKER_GRACE_S", 25))
        assert pod["spec"]["terminationGracePeriodSeconds"] > grace + 5, name


def test_a_group_asks_for_its_gpu_and_its_models_only() -> None:
    sdxl = pods("gpu.yaml")["printworks-worker-sdxl"]["spec"]

    assert sdxl["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {"configMap": {"name": "printworks-models-sdxl"}, "name": "models"} in sdxl["volumes"]


def test_secrets_are_named_and_never_written() -> None:
    made = objects("gpu.yaml")

    assert not [o for o in made if o["kind"] == "Secret"]
    for container in containers("gpu.yaml"):
        for variable in container["env"]:
            if "KEY" in variable["name"] or variable["name"].endswith("REDIS_URL"):
                assert "secretKeyRef" in variable["valueFrom"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "set redis.existingSecret"),
        ({"redis": {"existingsecret": "x"}}, "existingsecret"),
        ({"valkey": {"enabled": True}, "settings": {"REDIS": "x"}}, "REDIS"),
        (
            {"valkey": {"enabled": True}, "workers": [{"name": "a", "models": ["gone"]}]},
            "a worker group names the model",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_words(
    values: dict[str, Any], words: str, tmp_path: Path
) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))

    assert words in helm(file)["values.yaml"]["error"]


@pytest.mark.parametrize(
    ("file", "case", "kinds"),
    [
        ("printworks.yaml", "plain.yaml", None),
        ("scaled-worker.yaml", "scaled.yaml", {"ScaledObject"}),
    ],
)
def test_the_plain_manifests_are_those_of_the_chart(
    root: Path, file: str, case: str, kinds: set[str] | None
) -> None:
    """Else: `python -m tests.deploy.test_kubernetes` writes them anew."""
    wanted = [o for o in objects(case) if kinds is None or o["kind"] in kinds]

    assert list(yaml.safe_load_all((root / "deploy" / "k8s" / file).read_text())) == wanted


def write_manifests() -> None:
    """Write deploy/k8s anew."""
    for file, case, only in (
        ("printworks.yaml", "plain.yaml", None),
        ("scaled-worker.yaml", "scaled.yaml", "ScaledObject"),
    ):
        made = [o for o in objects(case) if only is None or o["kind"] == only]
        text = yaml.safe_dump_all(made, sort_keys=False, width=110)
        head = f"# Made from the chart with deploy/helm/ci/{case}. First: docs/operations.md.\n"
        (ROOT / "deploy" / "k8s" / file).write_text(head + text)


if __name__ == "__main__":
    write_manifests()
