"""The cluster files are checked against the schemas of what reads them, and hold no secret."""

import copy
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipelines.multidataset_train import JobConfig
from posecore.config import load_config

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
FILES = sorted(path for path in [*INFRA.rglob("*"), ROOT / "ray_cluster.yaml"] if path.is_file())

# Ray's own schema leaves the provider open, so that a misspelt region would only be noticed by the cloud.
PROVIDER_KEYS = {"aws": {"region"}, "gcp": {"region", "project_id"}, "local": {"head_ip"}}
PROVIDER_KNOWN = {"aws": {"type", "region", "availability_zone", "cache_stopped_nodes", "security_group"}}


def cluster_errors(config: dict[str, Any]) -> list[str]:
    """What Ray's validator, and a stricter look at the provider, say of a cluster file."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    provider = config.get("provider") or {}
    kind = provider.get("type", "")
    errors = [f"provider.{key} is missing" for key in sorted(PROVIDER_KEYS.get(kind, set()) - provider.keys())]
    errors += [
        f"provider.{key} is unknown" for key in sorted(provider.keys() - PROVIDER_KNOWN.get(kind, provider.keys()))
    ]
    try:
        validate_config(prepare_config(copy.deepcopy(config)))
    except (jsonschema.ValidationError, ValueError) as error:
        errors.append(str(error).splitlines()[0])
    return errors


def cluster() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "ray_cluster.yaml").read_text()))


def test_the_cluster_file_passes_rays_schema() -> None:
    assert cluster_errors(cluster()) == []


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("provider", "regoin"), "x", "provider.regoin is unknown"),
        (("provider", "region"), None, "provider.region is missing"),
        (("max_wrkers",), 3, "Additional properties"),
        (("available_node_types", "gpu", "min_worker"), 1, "Additional properties"),
        (("docker", "run_options"), "--shm-size=16g", "is not of type 'array'"),
        (("available_node_types", "gpu", "min_workers"), 9, "max_workers"),
    ],
)
def test_mistakes_in_a_cluster_file_are_seen(path: tuple[str, ...], value: Any, message: str) -> None:
    config = cluster()
    node = config
    for part in path[:-1]:
        node = node[part]
    if value is None:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    assert any(message in error for error in cluster_errors(config)), cluster_errors(config)


def test_the_cluster_authenticates_by_a_token_that_is_only_referred_to() -> None:
    config = cluster()
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}


def closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
TEXT_MAP: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "string"}}
CONTAINER = closed(
    {
        "name": TEXT,
        "image": {"type": "string", "pattern": r"^[\w./-]+:[\w.-]+$"},
        "env": {"type": "array", "items": closed({"name": TEXT, "value": {"type": "string"}}, "name", "value")},
        "envFrom": {"type": "array", "items": closed({"secretRef": closed({"name": TEXT}, "name")}, "secretRef")},
        "resources": closed({"requests": TEXT_MAP, "limits": TEXT_MAP}, "requests", "limits"),
        "volumeMounts": {
            "type": "array",
            "items": closed({"name": TEXT, "mountPath": {"type": "string", "pattern": "^/"}}, "name", "mountPath"),
        },
    },
    "name",
    "image",
    "resources",
)
VOLUME = closed(
    {
        "name": TEXT,
        "persistentVolumeClaim": closed({"claimName": TEXT}, "claimName"),
        "emptyDir": closed({"medium": {"const": "Memory"}, "sizeLimit": TEXT}, "sizeLimit"),
    },
    "name",
)
POD = closed(
    {
        "spec": closed(
            {
                "containers": {"type": "array", "items": CONTAINER, "minItems": 1},
                "volumes": {"type": "array", "items": VOLUME},
            },
            "containers",
        )
    },
    "spec",
)
CLUSTER_SPEC = closed(
    {
        "rayVersion": TEXT,
        "enableInTreeAutoscaling": {"type": "boolean"},
        "authOptions": closed({"mode": {"enum": ["token", "disabled"]}}, "mode"),
        "headGroupSpec": closed({"rayStartParams": TEXT_MAP, "template": POD}, "template"),
        "workerGroupSpecs": {
            "type": "array",
            "items": closed(
                {
                    "groupName": TEXT,
                    "replicas": COUNT,
                    "minReplicas": COUNT,
                    "maxReplicas": COUNT,
                    "rayStartParams": TEXT_MAP,
                    "template": POD,
                },
                "groupName",
                "replicas",
                "minReplicas",
                "maxReplicas",
                "template",
            ),
        },
    },
    "rayVersion",
    "authOptions",
    "headGroupSpec",
    "workerGroupSpecs",
)
HEADER = {"apiVersion": {"const": "ray.io/v1"}, "metadata": closed({"name": TEXT, "generateName": TEXT})}
SCHEMAS = {
    "RayCluster": closed(
        {**HEADER, "kind": {"const": "RayCluster"}, "spec": CLUSTER_SPEC}, "apiVersion", "kind", "metadata", "spec"
    ),
    "RayJob": closed(
        {
            **HEADER,
            "kind": {"const": "RayJob"},
            "spec": closed(
                {
                    "entrypoint": TEXT,
                    "submissionMode": {"enum": ["SidecarMode", "K8sJobMode", "HTTPMode", "InteractiveMode"]},
                    "backoffLimit": COUNT,
                    "activeDeadlineSeconds": COUNT,
                    "shutdownAfterJobFinishes": {"type": "boolean"},
                    "ttlSecondsAfterFinished": COUNT,
                    "rayClusterSpec": CLUSTER_SPEC,
                },
                "entrypoint",
                "rayClusterSpec",
            ),
        },
        "apiVersion",
        "kind",
        "metadata",
        "spec",
    ),
}
"""The fields we use of KubeRay's resources at ray.io/v1, closed: a misspelt field is refused, as the API server would
silently drop it."""


def start_errors(words: list[str]) -> str:
    """What ``ray start`` says of its options; "" if it takes them."""
    import click
    from ray.scripts.scripts import start

    try:
        start.make_context("start", list(words))
    except click.UsageError as error:
        return error.message
    return ""


def ray_starts() -> list[list[str]]:
    """The options of every ``ray start`` in the cluster files."""
    config = cluster()
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    found = [command.partition("ray start ")[2].split() for command in commands if "ray start " in command]
    for name in ("raycluster.yaml", "rayjob.yaml"):
        value = manifest(name)
        spec = value["spec"].get("rayClusterSpec", value["spec"])
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            found.append([f"--{key}={value}" for key, value in group["rayStartParams"].items()])
    return found


def test_ray_takes_the_options_it_is_started_with() -> None:
    options = ray_starts()
    assert len(options) == 6
    assert [start_errors(words) for words in options] == [""] * 6
    assert "No such option" in start_errors(["--haed"])
    assert "is not a valid" in start_errors(["--num-cpus=none"])


def manifest(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((INFRA / "kuberay" / name).read_text()))


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_kuberay_manifests_fit_the_resources(name: str) -> None:
    value = manifest(name)
    jsonschema.validate(value, SCHEMAS[value["kind"]])
    spec = value["spec"].get("rayClusterSpec", value["spec"])
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for c in pod["containers"] for mount in c["volumeMounts"]} == volumes
        assert not any("persistentVolumeClaim" in volume for volume in pod["volumes"]), "nodes share no file system"
        mounted = {mount["mountPath"] for c in pod["containers"] for mount in c["volumeMounts"]}
        assert {e["value"] for c in pod["containers"] for e in c["env"] if e["name"] == "POSECORE_CACHE"} <= mounted
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize(
    ("old", "new"),
    [("entrypoint:", "entrypiont:"), ("replicas: 2", "replicas: two"), ('num-cpus: "0"', "num-cpus: 0")],
)
def test_mistakes_in_a_manifest_are_seen(old: str, new: str) -> None:
    text = (INFRA / "kuberay" / "rayjob.yaml").read_text()
    assert old in text
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text.replace(old, new)), SCHEMAS["RayJob"])


def test_the_jobs_entry_point_is_in_the_image_and_its_settings_exist() -> None:
    words = manifest("rayjob.yaml")["spec"]["entrypoint"].split()
    paths = [ROOT / word.removeprefix("/opt/posecore/") for word in words if word.startswith("/opt/posecore/")]
    assert [path.name for path in paths] == ["multidataset_train.py", "demo.yaml"]
    assert "WORKDIR /opt/posecore" in (INFRA / "docker" / "Dockerfile").read_text()
    overrides = [value for option, value in pairwise(words) if option == "--set"]
    config = load_config(paths[1], JobConfig, overrides)
    assert config.run_folder == "s3://posecore/runs/demo"
    assert config.data_folder == "s3://posecore/data"
    assert (
        config.cluster.num_workers
        == manifest("rayjob.yaml")["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"]
    )


def test_versions_agree_with_the_lock() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert manifest("raycluster.yaml")["spec"]["rayVersion"] == pinned["ray"]
    assert manifest("rayjob.yaml")["spec"]["rayClusterSpec"]["rayVersion"] == pinned["ray"]
    server = (INFRA / "mlflow" / "Dockerfile").read_text()
    for name in ("mlflow", "psycopg2-binary", "boto3"):
        assert f"{name}=={pinned[name]} " in server
    assert f"torch=={pinned['torch']}\n" in (INFRA / "docker" / "Dockerfile").read_text()


def test_the_mlflow_services_start_in_order_and_migrate_first() -> None:
    compose = yaml.safe_load((INFRA / "mlflow" / "compose.yaml").read_text())
    services = compose["services"]
    assert services["mlflow"]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    assert set(services["migrate"]["depends_on"]) == {"postgres", "store"}
    assert all("healthcheck" in services[name] for name in ("postgres", "store", "mlflow"))
    assert '"db", "upgrade"' in (INFRA / "mlflow" / "prepare.py").read_text()
    assert any(word.startswith("--allowed-hosts=") for word in services["mlflow"]["command"])
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service.get("ports", []))
    used = {secret for service in services.values() for secret in service.get("secrets", [])}
    assert used == set(compose["secrets"])
    assert all(entry["file"].startswith("./secrets/") for entry in compose["secrets"].values())
    assert "/infra/mlflow/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_images_run_as_an_ordinary_user_and_install_torch_first() -> None:
    for path in INFRA.rglob("Dockerfile"):
        users = [line.split()[1] for line in path.read_text().splitlines() if line.startswith("USER ")]
        assert users, f"{path} runs as root"
        assert "root" not in users
    text = (INFRA / "docker" / "Dockerfile").read_text()
    assert text.index("torch==") < text.index("--constraint requirements.lock")
    ignored = (INFRA / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    copied = {word for line in text.splitlines() if line.startswith("COPY") for word in line.split()[1:-1]}
    assert "*" in ignored
    assert {f"!{name}" for name in copied} <= set(ignored)
    assert all((ROOT / name).exists() for name in copied)


SECRET_NAME = re.compile(r"passw|secret|token|credential|access_?key|private_?key|api_?key", re.IGNORECASE)
REFERENCE = re.compile(r"^(\$\{?\w|\$\(|~?/|\./|[a-z0-9-]+$)")
SECRET_TEXT = (
    re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"),
    re.compile(r"-----BEGIN"),
    re.compile(r"\b(ghp|glpat|hf|sk)[_-][A-Za-z0-9]{16,}"),
    re.compile(r"://[^/\s:@]+:(?!\$)[^@\s/]+@"),
    re.compile(r"\b(?=[A-Za-z0-9+/]*\d)(?=[A-Za-z0-9+/]*[A-Za-z])[A-Za-z0-9+]{32,}\b"),
)


def secrets_in_text(text: str) -> Iterator[str]:
    for pattern in SECRET_TEXT:
        yield from (match.group() for match in pattern.finditer(text))
    for name, value in re.findall(r"^\s*(?:export |ENV |ARG )?([A-Z_]+)=[\"']?([^\s\"']+)", text, re.MULTILINE):
        if SECRET_NAME.search(name) and not REFERENCE.match(value):
            yield f"{name}={value}"


def secrets_in_yaml(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from secrets_in_yaml(item)
    if not isinstance(value, dict):
        return
    named = value.get("name")
    if isinstance(named, str) and SECRET_NAME.search(named) and "value" in value:
        yield f"{named}: {value['value']}"
    for key, item in value.items():
        if SECRET_NAME.search(str(key)) and isinstance(item, str) and not REFERENCE.match(item):
            yield f"{key}: {item}"
        yield from secrets_in_yaml(item)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_holds_a_secret(path: Path) -> None:
    text = path.read_text()
    assert list(secrets_in_text(text)) == []
    if path.suffix == ".yaml":
        assert list(secrets_in_yaml(yaml.safe_load(text))) == []


@pytest.mark.parametrize(
    "text",
    [
        "POSTGRES_PASSWORD: Hunter2!",
        "env: [{name: AWS_SECRET_ACCESS_KEY, value: abc}]",
        "uri: postgresql://mlflow:hunter2@postgres/mlflow",
        "key: AKIA" + "ABCDEFGHIJKLMNOP",
        "auth: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b",
        "export API_KEY='Xy12!'",
    ],
)
def test_secrets_would_be_seen(text: str) -> None:
    found = list(secrets_in_text(text))
    if not text.startswith("export"):
        found += list(secrets_in_yaml(yaml.safe_load(text)))
    assert found
