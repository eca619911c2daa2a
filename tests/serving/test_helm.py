"""The Helm chart as Kubernetes would get it. No helm binary could be had from the package registries, so the templates are rendered
here: by a reader of exactly the constructs they use, which refuses any other."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).resolve().parents[2] / "deploy" / "helm"
TOKEN = re.compile(r"(\{\{-?)\s*(.*?)\s*(-?\}\})", re.DOTALL)


def render(template: str, values: dict[str, Any], release: str = "surg") -> str:
    """Go's template language as far as the chart goes: if, not, end, paths, toYaml, nindent, quote, int, sub, whitespace trims."""
    out, showing = "", [True]
    trim_next = False
    position = 0
    for token in TOKEN.finditer(template):
        text = template[position : token.start()]
        text = text.lstrip() if trim_next else text
        out += (text.rstrip() if token[1] == "{{-" else text) if all(showing) else ""
        words, trim_next, position = token[2], token[3] == "-}}", token.end()
        if words == "end":
            showing.pop()
        elif words.startswith("if "):
            showing.append(bool(evaluate(words[3:], values, release)))
        elif all(showing):
            value = evaluate(words, values, release)
            out += str(value).lower() if isinstance(value, bool) else str(value)
    assert showing == [True], "an if without its end"
    rest = template[position:]
    return out + (rest.lstrip() if trim_next else rest)


def evaluate(words: str, values: dict[str, Any], release: str) -> Any:
    first, *pipes = (part.strip() for part in words.split("|"))
    value = call(first, values, release)
    for pipe in pipes:
        name, *arguments = pipe.split()
        value = PIPES[name](value, *map(int, arguments))
    return value


def call(words: str, values: dict[str, Any], release: str) -> Any:
    if words == ".Release.Name":
        return release
    if words.startswith(".Values."):
        node: Any = values
        for part in words.removeprefix(".Values.").split("."):
            node = node[part]
        return node
    if words.isdigit():
        return int(words)
    name, _, rest = words.partition(" ")
    arguments = [call(part.strip("()"), values, release) for part in re.findall(r"\([^)]*\)|\S+", rest)]
    return {
        "not": lambda one: not one,
        "int": int,
        "sub": lambda one, other: one - other,
        "toYaml": lambda one: yaml.safe_dump(one, default_flow_style=False, sort_keys=True).rstrip(),
    }[name](*arguments)


def nindent(text: str, spaces: int) -> str:
    return "\n" + "\n".join(" " * spaces + line for line in str(text).splitlines())


PIPES: dict[str, Callable[..., Any]] = {"nindent": nindent, "quote": lambda value: f'"{value}"'}


def objects(**changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the chart makes, by kind, with `changes` to its values."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for key, change in changes.items():
        values[key] = {**values[key], **change} if isinstance(change, dict) else change
    texts = [render(path.read_text(), values) for path in sorted((CHART / "templates").glob("*.yaml"))]
    found = [made for text in texts for made in yaml.safe_load_all(text) if made]
    return {made["kind"]: made for made in found}


def test_the_service_finds_the_pods_and_every_named_port_exists() -> None:
    made = objects()
    deployment, service = made["Deployment"], made["Service"]
    pod = deployment["spec"]["template"]
    assert service["spec"]["selector"] == pod["metadata"]["labels"] == deployment["spec"]["selector"]["matchLabels"]
    (container,) = pod["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == ports
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    assert container["image"] == "surg-serve:0.1.0"


def test_every_mount_has_its_volume_and_nothing_else_is_writable() -> None:
    for made in (objects(), objects(engineCache={"claim": "engines"})):
        pod = made["Deployment"]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert {name for name, mount in mounts.items() if not mount.get("readOnly")} <= {"tmp", "shm", "engines"}
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert len({mount["mountPath"] for mount in mounts.values()}) == len(mounts)
        # Without a claim too: onnxruntime makes this folder when it builds engines, and the root is read-only.
        assert mounts["engines"]["mountPath"] == "/cache/trt"


def test_pods_get_longer_to_end_than_triton_takes() -> None:
    made = objects(gracePeriodSeconds=45)
    pod = made["Deployment"]["spec"]["template"]["spec"]
    (variable,) = pod["containers"][0]["env"]
    assert variable == {"name": "SURG_EXIT_TIMEOUT", "value": "35"}
    assert pod["terminationGracePeriodSeconds"] == 45


@pytest.mark.parametrize("gpus", [0, 2])
def test_gpus_are_asked_for_only_where_there_are_any(gpus: int) -> None:
    container = objects(gpus=gpus)["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"].get("nvidia.com/gpu") == (gpus or None)
    assert container["resources"]["requests"]["cpu"] == "2"
    assert container["resources"]["limits"]["memory"] == "16Gi"


def test_a_roll_out_needs_no_second_gpu_unless_it_is_told_otherwise() -> None:
    for values, surge in (({"gpus": 1}, 0), ({"gpus": 0}, 1), ({"gpus": 1, "strategy": {"rollingUpdate": {"maxSurge": 2}}}, 2)):
        assert objects(**values)["Deployment"]["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == surge
    assert objects(strategy={"type": "Recreate"})["Deployment"]["spec"]["strategy"] == {"type": "Recreate"}


def test_pods_can_be_sent_to_nodes_with_gpus_and_pull_from_a_registry_with_a_log_in() -> None:
    chosen = {
        "nodeSelector": {"nvidia.com/gpu.present": "true"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "imagePullSecrets": [{"name": "registry"}],
    }
    plain = objects()["Deployment"]["spec"]["template"]["spec"]
    assert not set(chosen) & set(plain)
    pod = objects(**chosen)["Deployment"]["spec"]["template"]["spec"]  # type: ignore[arg-type]
    assert {key: pod[key] for key in chosen} == chosen


def test_the_autoscaler_owns_the_number_of_replicas() -> None:
    assert "HorizontalPodAutoscaler" not in (fixed := objects())
    assert fixed["Deployment"]["spec"]["replicas"] == 1
    scaled = objects(autoscaling={"enabled": True, "max": 7})
    target = scaled["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", scaled["Deployment"]["metadata"]["name"])
    assert "replicas" not in scaled["Deployment"]["spec"]
    metric = scaled["HorizontalPodAutoscaler"]["spec"]["metrics"][0]["pods"]
    assert metric["target"]["averageValue"] == "4"
