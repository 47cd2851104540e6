"""Pictures that leave a model of whole pictures little to learn from: each alone, learned from and answered."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posecore.config import parse_config
from posecore.conventions import Conventions
from posecore.errors import EvaluationError
from posecore.evaluation.inference import InferenceSettings, predict_store
from posecore.loading.loader import Loader, LoadingConfig
from posecore.methods.batch import to_device
from posecore.methods.supervised import SupervisedConfig, SupervisedHeads
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import build_model
from posecore.schema import Record
from posecore.shards.store import ShardStore
from posecore.skeletons.skeleton import Keypoint, Skeleton
from tests.support.tiny_store import instance, record, write_store

PAIR = Skeleton(
    name="pair",
    keypoints=(
        Keypoint(name="left", union="left_wrist", flip="right", oks_sigma=0.06),
        Keypoint(name="right", union="right_wrist", flip="left", oks_sigma=0.06),
        Keypoint(name="nose", union="nose", oks_sigma=0.03),
    ),
)
HEADS: dict[str, dict[str, Any]] = {
    "associative": {"kind": "associative", "channels": 8, "fine_channels": 8, "fine_blocks": 1},
    "queries": {"kind": "queries", "num_queries": 3, "channels": 8, "num_layers": 1, "num_heads": 2, "hidden": 16},
}
STILL = {"fit": "long", "least_zoom": 1, "most_zoom": 1, "rotation_degrees": 0, "shift": 0, "flip_probability": 0}


def _records() -> list[Record]:
    """Nobody; bodies without labels and a crowd; a body of one point; more bodies than queries; all of these."""
    nothing = np.zeros((3, 3), np.float32)
    one = np.array([(30, 20, 2), (0, 0, 0), (0, 0, 0)], np.float32)
    unlabelled = [_body("u", nothing, (0, 0, 20, 40)), _body("c", nothing, (40, 20, 30, 30), is_crowd=True)]
    many = [
        _body(f"m{place}", np.array([(x, 10, 2), (x + 6, 30, 1), (x + 3, 5, 2)], np.float32), (x - 2, 3, 12, 30))
        for place, x in enumerate(range(5, 75, 12))
    ]
    single = _body("s", one, (20, 10, 24, 30))
    pictures = [[], unlabelled, [single], many, [*unlabelled, single, *many]]
    return [
        record("pairs", number, [replace(body, id=f"{number}-{body.id}") for body in bodies])
        for number, bodies in enumerate(pictures)
    ]


def _body(name: str, keypoints: np.ndarray, box: tuple[float, ...], **fields: Any):
    return instance(name, 3, box, keypoints=keypoints, **fields)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ShardStore:
    return write_store(tmp_path_factory.mktemp("pairs"), "pairs", [], skeleton=PAIR, records=_records())


@pytest.fixture(params=HEADS)
def method(request: pytest.FixtureRequest) -> SupervisedHeads:
    torch.manual_seed(0)
    values = {"backbone": "vit-nano", "head": HEADS[request.param], "input_size": (64, 64), "heatmap_sigma": 1.0}
    model = build_model(parse_config(values, ModelConfig, "model"), {"pairs": PAIR}, {"pairs": Conventions()})
    return SupervisedHeads(model, parse_config({}, SupervisedConfig, "method"))


def test_each_alone_and_all_together_have_a_finite_loss_and_gradient(
    store: ShardStore, method: SupervisedHeads
) -> None:
    loading = {"mixture": {"entries": [{"name": "pairs"}]}, "scenes": STILL, "num_threads": 1}
    seen = set()
    for batch_size in (1, 5):
        loader = Loader(
            {"pairs": store},
            parse_config(loading, LoadingConfig, "loading"),
            input_size=(64, 64),
            seed=0,
            global_batch=batch_size,
        )
        for _, batch in zip(range(5 // batch_size), loader, strict=False):
            method.zero_grad()
            losses = method(to_device(batch, torch.device("cpu")))
            assert all(bool(torch.isfinite(loss)) for loss in losses.values())
            sum(losses.values()).backward()
            gradients = [parameter.grad for parameter in method.parameters() if parameter.grad is not None]
            assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
            assert any(bool((gradient != 0).any()) for gradient in gradients), "that nobody is there is learned, too"
            seen |= set(batch.groups[0].rows.tolist())
    assert seen == {0, 1, 2, 3, 4}


def test_all_of_them_are_answered_and_judged(store: ShardStore, method: SupervisedHeads) -> None:
    settings = InferenceSettings.model_validate(
        {"num_threads": 1, "grouping": {"peak_threshold": 0.0}, "selection": {"least_score": 0.0}}
    )
    found = predict_store(method.model, store, settings)
    assert set(found.image_row.tolist()) <= {0, 1, 2, 3, 4}
    assert np.isfinite(found.keypoints).all()


def test_a_split_of_points_that_the_head_does_not_know_is_refused_by_name(
    tmp_path: Path, method: SupervisedHeads
) -> None:
    other = Skeleton(name="tails", keypoints=(Keypoint(name="tip", union="tail_tip", oks_sigma=0.1),))
    body = instance("b", 1, (0, 0, 20, 20), keypoints=np.array([(5, 5, 2)], np.float32))
    store = write_store(tmp_path, "tails", [], skeleton=other, records=[record("tails", 0, [body])])
    with pytest.raises(EvaluationError, match="the model has no head 'tails'; it has pairs"):
        predict_store(method.model, store)
    with pytest.raises(EvaluationError, match="head 'pairs' does not predict tail_tip of skeleton tails"):
        predict_store(method.model, store, head="pairs")
