"""The heads of whole pictures in a model: shapes, several skeletons, warm starts, strategies, and what is refused."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch

from posecore.codecs.associative import AssociativeCodec
from posecore.codecs.scene import SelectionConfig
from posecore.config import parse_config
from posecore.errors import ConfigError
from posecore.methods.adaptation import Adaptation, AdaptationConfig, AdaptationTerms
from posecore.methods.associative_loss import tag_losses
from posecore.methods.batch import DeviceBatch, split_batch, to_device
from posecore.methods.strategies import Roles
from posecore.methods.supervised import SupervisedConfig, SupervisedHeads
from posecore.models.architecture import ModelConfig
from posecore.models.cost import model_cost
from posecore.models.export.graphs import GraphLayout
from posecore.models.export.onnx_file import check_onnx, export_onnx
from posecore.models.heads.associative import AssociativeHead, AssociativeHeadConfig, places_beside
from posecore.models.pose_model import PoseModel, build_model
from posecore.models.saving import load_model, save_model
from posecore.models.sources import ModelFolder
from posecore.models.warm_start import warm_start
from posecore.prediction.predictor import Predictor, PredictorSettings
from posecore.schema import CropBatch, CropGroup, KeypointState
from tests.support.tiny_training import tiny_skeleton

SIZE = (64, 64)
POINTS = {"people": 5, "dogs": 7}
HEADS: dict[str, dict[str, Any]] = {
    "associative": {"kind": "associative", "channels": 8, "fine_channels": 8, "fine_blocks": 1},
    "queries": {"kind": "queries", "num_queries": 6, "channels": 8, "num_layers": 2, "num_heads": 2, "hidden": 16},
}
OUTPUTS = {"associative": lambda points: (points, 6 * 16 * 16), "queries": lambda points: (3, 6, 5 + 5 * points)}
"""Shape of what a head says of a picture."""
OF_POINTS = {
    "associative": ("final_layer.", "tag_layer.", "fine_layer."),
    "queries": ("point_queries", "point_places", "point_factors"),
}
"""Names of the weights that know of a skeleton."""
GROWN = {"associative": {"fine_blocks": 2}, "queries": {"num_layers": 3}}
PARAMETERS = {
    # Another block: two 3×3 convolutions of 8 channels and two BatchNorms.
    "associative": 2 * (9 * 8 * 8 + 2 * 8),
    # Another layer of width 8: attention within and between, sampling (value and out, offsets, weights), a feed-forward
    # part, four LayerNorms; and what it says: a score, a box and a point's move behind a layer each, three factors.
    "queries": 2 * 288 + 2 * 72 + 144 + 72 + 280 + 4 * 16 + 9 + (72 + 36) + (72 + 18) + 27,
}
KINDS = pytest.mark.parametrize("kind", HEADS)


def _model(
    kind: str, points: dict[str, int] = POINTS, head: dict[str, Any] | None = None, **backbone: Any
) -> PoseModel:
    torch.manual_seed(0)
    values = {"kind": "vit", "embed_dim": 32, "depth": 2, "num_heads": 2, **backbone}
    config = parse_config(
        {"backbone": values, "head": HEADS[kind] | (head or {}), "input_size": SIZE, "heatmap_sigma": 1.0},
        ModelConfig,
        "model",
    )
    return build_model(config, {name: tiny_skeleton(name, count) for name, count in points.items()})


def _batch(seed: int = 0, counts: tuple[int, int] = (3, 1)) -> CropBatch:
    """Pictures of up to two bodies, and of nobody; one has something to ignore."""
    random = np.random.default_rng(seed)
    groups, start = [], 0
    for (name, points), count in zip(POINTS.items(), counts, strict=True):
        state = random.choice([KeypointState.UNLABELLED, KeypointState.VISIBLE], (count, 3, points), p=[0.3, 0.7])
        state[:, 2] = KeypointState.UNKNOWN
        state[:1] = KeypointState.UNKNOWN
        keypoints = random.uniform(0, 63, (count, 3, points, 2)).astype(np.float32)
        boxes = np.concatenate([keypoints.min(2), keypoints.max(2)], axis=2)
        boxes[state.max(2) == KeypointState.UNKNOWN] = (0, 0, -1, -1)
        ignored = np.zeros((count, 32, 32), np.uint8)
        ignored[-1:, 3:9, 20:30] = 1
        zeros = np.zeros((count, 2), np.float32)
        groups.append(
            CropGroup(
                dataset=name, start=start, stop=start + count, keypoints_crop=keypoints, state=state.astype(np.uint8),
                center=zeros, scale=zeros + 64, rotation=zeros[:, 0], flipped=np.zeros(count, np.bool_),
                rows=np.arange(count), seeds=np.arange(count), ignored=ignored, bbox_crop=boxes,
            )
        )  # fmt: skip
        start += count
    images = random.integers(0, 256, (start, *SIZE, 3), np.uint8)
    return CropBatch(images=images, groups=tuple(groups), step=0, epoch=0)


def _on_device(batch: CropBatch) -> DeviceBatch:
    return to_device(batch, torch.device("cpu"))


@KINDS
def test_every_skeleton_has_outputs_of_its_own_points(kind: str) -> None:
    model = _model(kind)
    found = model(torch.zeros(4, 3, *SIZE), [("people", 0, 3), ("dogs", 3, 4)])
    assert {name: tuple(outputs.shape) for name, outputs in found.items()} == {
        "people": (3, *OUTPUTS[kind](5)),
        "dogs": (1, *OUTPUTS[kind](7)),
    }


@KINDS
def test_a_skeleton_without_pictures_still_takes_part(kind: str) -> None:
    method = SupervisedHeads(_model(kind)).train()
    terms = method(_on_device(_batch(counts=(3, 0))))
    assert terms["loss/dogs"].item() == 0
    sum(terms.values()).backward()
    for name in POINTS:
        assert all(parameter.grad is not None for parameter in method.model.heads[name].parameters())
    for name, parameter in method.model.heads["people"].named_parameters():
        assert not name.startswith(OF_POINTS[kind]) or parameter.grad.any(), name
    assert not any(parameter.grad.any() for parameter in method.model.heads["dogs"].parameters())


@pytest.mark.parametrize(("kind", "training"), [("associative", False), ("queries", False), ("queries", True)])
def test_parts_of_a_batch_add_up_to_its_loss(kind: str, training: bool) -> None:
    """As accumulation, and ranks of any number, divide it; statistics of BatchNorm apart, which are at rest here."""
    method = SupervisedHeads(_model(kind), SupervisedConfig()).train(training)
    batch = _batch()
    whole = method(_on_device(batch))
    parts = [method(_on_device(part)) for part in split_batch(batch, 2)]
    for name, term in whole.items():
        assert sum(part[name].item() for part in parts) / 2 == pytest.approx(term.item(), rel=1e-5)


@KINDS
def test_a_new_skeleton_starts_from_the_points_that_it_shares(kind: str) -> None:
    parent = _model(kind, {"people": 5})
    with torch.no_grad():
        for parameter in parent.heads["people"].parameters():
            parameter.normal_()
    skeleton = tiny_skeleton("people", 5)
    fewer = skeleton.model_copy(update={"keypoints": skeleton.keypoints[3:1:-1]})
    child = build_model(parent.config, {"runners": fewer})
    told = warm_start(child, parent)
    assert "2 of 2 points from head people" in told.as_dict()["head runners"]
    ours, theirs = child.heads["runners"].state_dict(), parent.heads["people"].state_dict()
    for name, tensor in ours.items():
        expected = theirs[name][[3, 2]] if name.startswith(OF_POINTS[kind]) else theirs[name]
        assert torch.equal(tensor, expected), name


@KINDS
def test_a_model_of_crops_gives_its_backbone_and_no_head(kind: str) -> None:
    child = _model(kind, {"people": 5})
    crops = child.config.model_dump() | {"head": {"kind": "classic", "channels": 8}}
    parent = build_model(parse_config(crops, ModelConfig, "model"), child.skeletons)
    told = warm_start(child, parent).as_dict()
    assert told["head people"] == "0 of 5 points"
    assert torch.equal(child.backbone.blocks[0].attn.qkv.weight, parent.backbone.blocks[0].attn.qkv.weight)


@KINDS
@pytest.mark.parametrize(
    "strategy", ["frozen-backbone", "lora", "full", "adapter", "bitfit", {"kind": "last-n", "blocks": 1}]
)
def test_strategies_adapt_it(kind: str, strategy: Any) -> None:
    touches = strategy != "frozen-backbone"
    config = AdaptationConfig(
        terms=AdaptationTerms.model_validate({"strategy": strategy, "distillation": 0.5 * touches}),
        roles=Roles("dogs", ("people",) * touches, False, False),
        parent=ModelFolder(source="nowhere"),
        old_heads=("people",) * touches,
    )
    parent = _model(kind, {"people": 5}).eval()
    child = build_model(config.architecture(parent.config), parent.skeletons | {"dogs": tiny_skeleton("dogs", 7)})
    warm_start(child, parent)
    method = Adaptation(child, config, parent if touches else None).train()
    before = {name: value.detach().clone() for name, value in method.named_parameters()}
    learning = [parameter for parameter in method.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=10.0)
    for _ in range(2):  # LoRA's first factor begins at zero, and the other learns nothing before it
        optimizer.zero_grad()
        terms = method(_on_device(_batch(counts=(2, 2) if touches else (0, 4))))
        sum(terms.values()).backward()
        optimizer.step()
    assert ("kept/people" in terms) == touches
    changed = {name for name, value in method.named_parameters() if not torch.equal(value, before[name])}
    assert all(any(f"heads.dogs.{name}" in each for each in changed) for name in OF_POINTS[kind])
    assert not any("heads.people" in name for name in changed) or touches


@KINDS
def test_experts_see_the_features_of_their_own_sets(kind: str) -> None:
    model = _model(kind, expert_share=0.25)
    method = SupervisedHeads(model).train()
    sum(method(_on_device(_batch())).values()).backward()
    assert model.backbone.blocks[0].mlp.experts["dogs"].weight.grad.abs().sum() > 0


@KINDS
def test_a_saved_model_is_the_same(kind: str, tmp_path: Path) -> None:
    model = _model(kind).eval()
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    images = torch.randn(1, 3, *SIZE)
    assert again.config.whole_scenes
    assert torch.equal(again.predict(images, "dogs"), model.predict(images, "dogs"))


@KINDS
def test_its_cost_is_counted(kind: str) -> None:
    small, large = (model_cost(_model(kind, head=head).config, POINTS).parameters for head in ({}, GROWN[kind]))
    assert large - small == 2 * PARAMETERS[kind]  # of either head


@KINDS
def test_depth_cannot_be_added_to_it(kind: str) -> None:
    with pytest.raises(ConfigError, match="without depth"):
        _model(kind).config.with_depth()


@pytest.mark.parametrize(
    ("kind", "layout"), [("associative", "picture"), ("associative", "rtmlib"), ("queries", "rtmlib")]
)
def test_graphs_that_decode_are_refused(kind: str, layout: GraphLayout, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"layout {layout} is of crops of single bodies"):
        export_onnx(_model(kind), "dogs", tmp_path / "model.onnx", layout)


@KINDS
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"embedding": {}}, "prototypes know of one body"),
        ({"conventions": {"codec": "msra"}}, "reads udp crops"),
        ({"backbone": {"preset": "vit-nano", "depth_input": True}}, "which are shown without depth"),
    ],
)
def test_what_does_not_go_with_it_is_refused(kind: str, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _parsed(kind, fields)


def test_a_spread_must_fit_the_maps_where_there_are_any() -> None:
    with pytest.raises(ConfigError, match="does not fit maps"):
        _parsed("associative", {"heatmap_sigma": 9})
    assert _parsed("queries", {"heatmap_sigma": 9}).whole_scenes


def test_a_decoder_must_be_divisible_among_its_heads() -> None:
    with pytest.raises(ConfigError, match="channels 12 must be a multiple of 8 and of num_heads 2"):
        _parsed("queries", {"head": HEADS["queries"] | {"channels": 12}})


def _parsed(kind: str, fields: dict[str, Any]) -> ModelConfig:
    values = {"backbone": "vit-nano", "head": HEADS[kind], "input_size": SIZE} | fields
    return parse_config(values, ModelConfig, "model")


def test_a_file_takes_a_picture_and_answers_bodies_as_the_predictor_does(tmp_path: Path) -> None:
    model = _model("queries").eval()
    with torch.no_grad():
        for parameter in model.heads["dogs"].parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    path, random = tmp_path / "model.onnx", np.random.default_rng(0)
    graph = export_onnx(model, "dogs", path, "picture")
    assert check_onnx(path, graph) < 1e-4
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["image"]
    predictor = Predictor(model, PredictorSettings(nms_threshold=None, selection=SelectionConfig(least_score=0.0)))
    for shape in ((50, 90), (120, 64), (64, 64)):
        image = cv2.resize(random.integers(0, 256, (6, 8, 3), np.uint8), shape[::-1], interpolation=cv2.INTER_LINEAR)
        (found,) = predictor.predict([image], dataset="dogs")
        answer = dict(zip(graph.outputs, session.run(None, {"image": image}), strict=True))
        assert found.uncertainty is not None
        assert answer["scores"].shape == (6,)
        for name, expected in (
            ("boxes", found.bbox_xywh),
            ("keypoints", found.keypoints),
            ("scores", found.scores),
            ("keypoint_scores", found.keypoint_scores),
            ("covariances", found.uncertainty.covariances),
        ):
            # OpenCV places a fitted picture's pixels to a 32nd of one.
            np.testing.assert_allclose(answer[name], expected, rtol=2e-2, atol=0.3, err_msg=name)


def test_tags_of_two_bodies_part_where_features_are_alike() -> None:
    """The head of a picture that looks the same everywhere: only the place can tell its bodies apart."""
    torch.manual_seed(0)
    head = AssociativeHead(AssociativeHeadConfig(channels=4, fine_channels=4, fine_blocks=0), 8, 3)
    left, right = (
        torch.tensor([[5.0, 8.0], [6.0, 20.0], [4.0, 30.0]]),
        torch.tensor([[50.0, 10.0], [53.0, 20.0], [51.0, 28.0]]),
    )
    codec = AssociativeCodec(input_size=(64, 64), heatmap_size=(16, 16))
    places, seen = codec.places(torch.stack([left, right])[None], torch.ones(1, 2, 3))
    optimizer = torch.optim.AdamW(head.tag_layer.parameters(), lr=0.02)
    for _ in range(200):
        _, tags, _ = codec.split(head(torch.zeros(1, 8, 4, 4)))
        pull, push = tag_losses(tags, places, seen)
        optimizer.zero_grad()
        (pull + push).sum().backward()
        optimizer.step()
    assert push.item() < 0.05, "two bodies of one tag cost a half"
    assert pull.item() < 0.05


def test_places_go_from_edge_to_edge() -> None:
    x, y = places_beside(torch.zeros(1, 5, 2, 3))[0]
    assert x.tolist() == [[-1, 0, 1], [-1, 0, 1]]
    assert y.tolist() == [[-1, -1, -1], [1, 1, 1]]
