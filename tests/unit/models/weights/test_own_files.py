"""Files of one's own training: any number of points, any wrapper, mmpose 1.x's names."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from posecore.errors import CheckpointError
from posecore.models.pose_model import PoseModel
from posecore.models.weights.files import read_tensors
from posecore.models.weights.initial import SourceConfig
from posecore.models.weights.layout import without_heads
from posecore.models.weights.layouts import LAYOUTS
from posecore.models.weights.mmpose_vitpose import MMPOSE_VITPOSE
from posecore.models.weights.read import read_weights
from posecore.models.weights.rtmpose import RTMPOSE
from posecore.models.weights.vitpose import VITPOSE
from posecore.skeletons.skeleton import Skeleton
from tests.support.tiny_weights import COCO, add_tiny_presets, tiny_model


@pytest.fixture(autouse=True)
def _presets(monkeypatch: pytest.MonkeyPatch) -> None:
    add_tiny_presets(monkeypatch)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Skeleton]:
    """A skeleton of so many points in a folder of one's own, called mine."""

    def make(count: int) -> Skeleton:
        folder = tmp_path / "defs" / "mine"
        folder.mkdir(parents=True)
        points = "".join(f"  - {{name: p{place}, union: mine_{place}}}\n" for place in range(count))
        (folder / "skeleton.yaml").write_text(f"name: mine\nkeypoints:\n{points}")
        monkeypatch.setenv("POSECORE_DATASETS", str(tmp_path / "defs"))
        return Skeleton.model_validate(
            {"name": "mine", "keypoints": [{"name": f"p{n}", "union": f"mine_{n}"} for n in range(count)]}
        )

    return make


def with_points(tensors: dict[str, Tensor], count: int, last: str = "keypoint_head.final_layer") -> dict[str, Tensor]:
    changed = dict(tensors)
    for kind in ("weight", "bias"):
        changed[f"{last}.{kind}"] = tensors[f"{last}.{kind}"][:1].repeat(
            count, *[1] * (tensors[f"{last}.{kind}"].ndim - 1)
        )
    return changed


def stored(path: Path, tensors: dict[str, Tensor]) -> Path:
    torch.save({"state_dict": tensors}, path)
    return path


@pytest.mark.parametrize("count", [4, 14, 16, 20, 21])
def test_a_head_of_ones_own_is_read_by_ones_own_skeleton(
    count: int, own: Callable[[int], Skeleton], tmp_path: Path
) -> None:
    skeleton = own(count)
    path = stored(tmp_path / "mine.pth", with_points(VITPOSE.write(tiny_model()).tensors, count))
    model = SourceConfig(source=str(path), heads={"mouse": "mine"}).read()
    assert model.card.skeletons == {"mouse": skeleton}
    assert "guessed_heads" not in model.card.lineage["weights"]  # type: ignore[operator]


@pytest.mark.parametrize("count", [4, 14, 16, 20, 21])
def test_no_head_of_ones_own_becomes_a_published_one_in_silence(count: int, tmp_path: Path) -> None:
    path = stored(tmp_path / "mine.pth", with_points(VITPOSE.write(tiny_model()).tensors, count))
    with pytest.raises(CheckpointError, match=f"a head of {count} points.*heads: .*backbone_only: true"):
        SourceConfig(source=str(path)).read()
    if count == 16:
        assert read_weights(path).card.lineage["weights"]["guessed_heads"] == {"mpii": 16}  # type: ignore[index,call-overload]


@pytest.mark.parametrize("layout", ["vitpose", "mmpose-vitpose"])
def test_the_backbone_alone_is_taken_whatever_the_head_has(layout: str, tmp_path: Path) -> None:
    parent = tiny_model()
    last = "head.final_layer" if layout == "mmpose-vitpose" else "keypoint_head.final_layer"
    path = stored(tmp_path / "mine.pth", with_points(LAYOUTS[layout].write(parent).tensors, 5, last))
    model = SourceConfig(source=str(path), backbone_only=True).read()
    assert not model.heads
    dropped = model.card.lineage["weights"]["dropped"]  # type: ignore[index,call-overload]
    assert set(dropped.values()) == {"the backbone alone was wanted"}
    assert any(name.startswith(last) for name in dropped)
    name = "blocks.0.attn.qkv.weight"
    assert torch.equal(model.backbone.state_dict()[name], parent.backbone.state_dict()[name])


def test_heads_of_every_layout_are_told_from_backbones() -> None:
    names = ("head.final_layer.weight", "teacher.head.cls_x.weight", "associate_keypoint_heads.0.final_layer.bias",
             "decode_head.conv_seg.weight", "proto_head.x")  # fmt: skip
    kept, dropped = without_heads({name: torch.ones(1) for name in (*names, "backbone.head_norm.weight")})
    assert (set(kept), set(dropped)) == ({"backbone.head_norm.weight"}, set(names))
    with pytest.raises(CheckpointError, match="has experts"):
        without_heads({"backbone.blocks.0.mlp.experts.0.weight": torch.ones(1)})
    assert RTMPOSE.name in LAYOUTS


@pytest.mark.parametrize("head", ["classic", "simple"])
def test_mmpose_1_files_compute_what_the_authors_files_do(head: str, tmp_path: Path) -> None:
    parent = tiny_model(head={"kind": head}).eval()
    tensors = MMPOSE_VITPOSE.write(parent).tensors
    assert "backbone.layers.0.ffn.layers.0.0.weight" in tensors
    found = read_weights(stored(tmp_path / "mmpose.pth", tensors), skeletons=COCO)
    assert found.card.lineage["weights"]["layout"] == "mmpose-vitpose"  # type: ignore[index,call-overload]
    assert answers(found) == pytest.approx(answers(parent), rel=1e-4)
    again = MMPOSE_VITPOSE.write(found).tensors
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)


def answers(model: PoseModel) -> np.ndarray:
    height, width = model.input_size
    crops = torch.rand((2, 3, height, width), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = model.heads["coco"](model.backbone(crops))
    return output.numpy()


def test_a_tensor_that_mmpose_does_not_have_is_refused(tmp_path: Path) -> None:
    tensors = MMPOSE_VITPOSE.write(tiny_model()).tensors
    for name in ("backbone.extra.weight", "head.neck.0.weight"):
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            read_weights(stored(tmp_path / "odd.pth", tensors | {name: torch.ones(1)}), skeletons=COCO)


@pytest.mark.parametrize("prefix", ["model.", "_orig_mod.", "module.", "_orig_mod.module.", "model._orig_mod."])
def test_prefixes_of_training_programs_are_taken_off(prefix: str, tmp_path: Path) -> None:
    path = stored(tmp_path / "wrapped.pth", {f"{prefix}{name}": torch.ones(2) for name in ("a.weight", "b.bias")})
    assert set(read_tensors(path)) == {"a.weight", "b.bias"}
    path = stored(tmp_path / "partly.pth", {f"{prefix}a": torch.ones(2), "b": torch.ones(2)})
    assert set(read_tensors(path)) == {f"{prefix}a", "b"}


def test_a_training_file_of_mmengine_is_read_and_runs_nothing() -> None:
    """Written by mmengine 0.10.7 with a curve in its message hub, whose pickle asks for ``getattr``."""
    path = Path(__file__).parents[3] / "support" / "foreign" / "mmengine_training.pth"
    assert {name: tensor.tolist() for name, tensor in read_tensors(path).items()} == {"w": [1.0, 1.0]}
