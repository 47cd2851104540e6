"""The hub, as a server on this machine that speaks its protocol, and as a name that leads nowhere."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save

from posecore.errors import CheckpointError, IntegrityError
from posecore.models.saving import save_model
from posecore.models.sources import initial_weights
from posecore.models.weights.hub import HubName, parse_hub_name
from posecore.models.weights.initial import WeightsConfig
from posecore.models.weights.read import read_weights
from posecore.models.weights.vitpose import VITPOSE
from tests.support.tiny_weights import COCO, add_tiny_presets, tiny_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLD = "fedcba9876543210fedcba9876543210fedcba98"


class Hub(ThreadingHTTPServer):
    """Repositories by name, revision and file; ``requests`` says what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *arguments: object) -> None:
        self.server.requests.append(f"{self.command} {self.path}")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repository, revision = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main"
            revisions = self.server.repositories.get(repository)
            if revisions is None:
                return self.refuse(404, "RepoNotFound")
            if revision not in revisions:
                return self.refuse(404, "RevisionNotFound")
            commit = COMMIT if revision == "main" else revision
            siblings = [{"rfilename": file} for file in revisions[revision]]
            return self.answer(json.dumps({"id": repository, "sha": commit, "siblings": siblings}).encode(), {})
        if parts[2:3] != ["resolve"]:
            return self.refuse(404, "EntryNotFound")
        repository, revision, file = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        content = self.server.repositories[repository][revision][file]
        etag = hashlib.sha256(content).hexdigest()
        return self.answer(content, {"ETag": f'"{etag}"', "X-Repo-Commit": revision})

    def answer(self, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``HF_ENDPOINT`` does, which is read once, when the client is imported."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    add_tiny_presets(monkeypatch)
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    point_to(server.url, monkeypatch)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def publish(hub: Hub, files: dict[str, bytes], repository: str = "lab/pose") -> None:
    hub.repositories[repository] = {"main": files, COMMIT: files}


def weights() -> bytes:
    return save({name: tensor.contiguous() for name, tensor in VITPOSE.write(tiny_model()).tensors.items()})


def test_names() -> None:
    assert parse_hub_name("lab/pose") == HubName("lab/pose", None, None)
    assert parse_hub_name("lab/pose@v1.0") == HubName("lab/pose", "v1.0", None)
    assert parse_hub_name("lab/pose.b@main:sub/a+b.pth") == HubName("lab/pose.b", "main", "sub/a+b.pth")
    for text in ("pose", "a/b/c", "lab/pose:../../etc/passwd", "./weights.pth:", "lab/", "/lab/pose", "s3://bucket/x"):
        assert parse_hub_name(text) is None, text


def test_weights_come_with_the_commit_and_the_checksum(hub: Hub) -> None:
    publish(hub, {"README.md": b"", "model.safetensors": weights()})
    model = read_weights("lab/pose", skeletons=COCO)
    record = model.card.lineage["weights"]
    assert (record["source"], record["revision"]) == ("lab/pose", COMMIT)
    assert record["sha256"] == hashlib.sha256(weights()).hexdigest()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in tiny_model().state_dict().items())
    # The branch was resolved once, and every file then taken from that commit.
    assert all(f"/resolve/{COMMIT}/" in request for request in hub.requests if "/resolve/" in request)


def test_a_pinned_revision_is_the_one_that_is_read(hub: Hub) -> None:
    publish(hub, {"model.safetensors": b"new and different"})
    hub.repositories["lab/pose"][OLD] = {"model.safetensors": weights()}
    assert read_weights(f"lab/pose@{OLD}", skeletons=COCO).card.lineage["weights"]["revision"] == OLD
    config = WeightsConfig(
        source="lab/pose", revision=OLD, sha256=hashlib.sha256(weights()).hexdigest(), heads={"coco": "coco17"}
    )
    child = tiny_model(heads=("mpii",))
    initial_weights(child, config)
    assert child.card.lineage["weights"]["revision"] == OLD
    with pytest.raises(IntegrityError, match="not the stated"):
        initial_weights(child, config.model_copy(update={"sha256": "0" * 64}))


def test_one_of_several_files_is_named(hub: Hub) -> None:
    publish(hub, {"a/small.safetensors": weights(), "a/large.safetensors": b""})
    with pytest.raises(CheckpointError, match=r"holds a/large\.safetensors, a/small\.safetensors; add :<file>"):
        read_weights("lab/pose", skeletons=COCO)
    assert list(read_weights("lab/pose:a/small.safetensors", skeletons=COCO).heads) == ["coco"]
    with pytest.raises(CheckpointError, match=r"holds no b\.pth; it holds a/large\.safetensors"):
        read_weights("lab/pose:b.pth")


def test_shards_and_models_of_ours_are_fetched_whole(hub: Hub, tmp_path: Path) -> None:
    tensors = list(VITPOSE.write(tiny_model()).tensors.items())
    index = {"weight_map": {name: f"{number % 2}.safetensors" for number, (name, _) in enumerate(tensors)}}
    shards = {f"{part}.safetensors": save(dict(tensors[part::2])) for part in (0, 1)}
    publish(hub, {"model.safetensors.index.json": json.dumps(index).encode(), **shards})
    assert list(read_weights("lab/pose", skeletons=COCO).heads) == ["coco"]
    folder = Path(str(save_model(tiny_model(), tmp_path / "own")))
    publish(hub, {path.name: path.read_bytes() for path in folder.iterdir()}, "lab/own")
    assert list(read_weights("lab/own").heads) == ["coco"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lab/nothing", "the hub has no model lab/nothing"),
        ("lab/pose@v9", "lab/pose has no revision v9"),
        ("lab/text", r"holds no weights, only README\.md"),
    ],
)
def test_what_is_not_there_is_said(hub: Hub, name: str, message: str) -> None:
    publish(hub, {"model.safetensors": weights()})
    publish(hub, {"README.md": b""}, "lab/text")
    with pytest.raises(CheckpointError, match=message):
        read_weights(name)


def test_without_a_network_a_local_file_is_asked_for(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    point_to("http://127.0.0.1:9", monkeypatch)  # nobody listens there
    with pytest.raises(CheckpointError, match=r"could not be fetched .* give its path here instead"):
        read_weights("lab/pose", skeletons=COCO)
    with pytest.raises(CheckpointError, match=r"could not be fetched .* give its path here instead"):
        read_weights("sapiens-0.3b-coco")


def test_without_a_network_a_copy_in_the_cache_serves(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(hub, {"model.safetensors": weights()})
    read_weights("lab/pose", skeletons=COCO)
    point_to("http://127.0.0.1:9", monkeypatch)
    found = read_weights(f"lab/pose@{COMMIT}:model.safetensors", skeletons=COCO)
    assert found.card.lineage["weights"]["revision"] == COMMIT
