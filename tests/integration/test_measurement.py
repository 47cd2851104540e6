"""Registered versions are measured as jobs measure theirs, and promotions believe what was measured, and only that."""

import re
from pathlib import Path

import pytest
import torch

from pipelines import evaluate as evaluate_command
from pipelines import promote as promote_command
from posecore.conventions import Conventions
from posecore.errors import IntegrityError, LineageError
from posecore.evaluation.inference import InferenceSettings
from posecore.lineage.ancestry.measurements import measurements_of
from posecore.lineage.ancestry.query import LineageGraph
from posecore.lineage.registry.moves import alias_holder
from posecore.lineage.registry.promotion import promote
from posecore.lineage.registry.registration import register_model
from posecore.lineage.store.tracking import Tracking
from posecore.lineage.versions.dataset_inputs import DatasetUse
from posecore.lineage.versions.tags import RegisteredVersion
from posecore.models.architecture import ModelConfig
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.models.pose_model import build_model
from posecore.models.saving import save_model
from posecore.workflows.measurement import judged_set, measure
from posecore.workflows.without_ray import ThisProcess
from tests.support.dot_worlds import HANDS, hands_definition, hands_store

SETTINGS = InferenceSettings(batch_size=4, flip_test=False, num_threads=1)
CHAMPION = "champion"


@pytest.fixture
def versions(tracking: Tracking, tmp_path: Path) -> list[RegisteredVersion]:
    """Three models of hands, registered without figures."""
    use = DatasetUse(name="hands", split="train", digest="a" * 64, role="training", license="X", commercial_use=True)
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        config = ModelConfig(backbone="vit-nano", head=ClassicHeadConfig(channels=8), input_size=(128, 96))
        model = build_model(config, {"hands": HANDS}, {"hands": Conventions()})
        folder = save_model(model, tmp_path / f"model-{seed}")
        found.append(register_model(tracking.start_run("train", {}), tracking.experiment, Path(str(folder)), [use], []))
    return found


@pytest.mark.usefixtures("this_process")
def test_candidate_and_holder_are_judged_on_the_same_shards_by_the_same_code(
    tracking: Tracking, versions: list[RegisteredVersion], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = hands_store(tmp_path / "hands", hands_definition(), num_images=4)
    holder, candidate, unmeasured = versions
    name = holder.name
    promote(tracking, holder, CHAMPION)
    registry = ["--tracking-uri", tracking.uri, "--folder", str(tmp_path / "runs")]
    command = ["--store", f"hands={store.location}", "--out", str(tmp_path / "out"), "--no-flip-test"]
    assert evaluate_command.main([*registry, "--model", candidate.uri, *command, "--worst-cases", "1"]) == 0
    assert '"AP"' in capsys.readouterr().out
    graph = LineageGraph.load(tracking)
    (found,) = measurements_of(tracking, graph, graph.weights_node(candidate).key).found
    assert (found.name, found.digest, found.bodies) == ("hands", store.manifest.digest, len(store))
    assert [graph.versions[seen.model].version for seen in graph.judged_on("hands").sightings] == [candidate]

    policies = tmp_path / "policies.yaml"
    gate = "{metric: hands/AP, operator: '>=', bound: -1, max_regression: 2}"
    policies.write_text(f"policies:\n- {{alias: champion, models: ['{name}'], gates: [{gate}]}}\n")
    own = [*registry, "--experiment", tracking.experiment]
    assert promote_command.main([*own, "--register-policies", str(policies), "--reason", "test"]) == 0
    with pytest.raises(LineageError, match="version 1 was not measured on the same evaluation data"):
        promote(tracking, candidate, CHAMPION)
    assert promote_command.main([*own, "--model", name, "--version", "2", "--measure-holder"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"hands/AP is \S+, version 1 has \S+ on the same data", said)
    assert "evaluate:" in said
    assert alias_holder(tracking, name, CHAMPION) == candidate
    assert promote_command.main([*own, "--model", name, "--version", "3", "--measure-holder"]) == 1
    assert "hands/AP was not measured (measured: none)." in capsys.readouterr().err

    sets = [judged_set("hands", str(store.location))]
    assert evaluate_command.main([*registry, "--model", candidate.uri, *command, "--worst-cases", "1"]) == 0
    assert "reused" in capsys.readouterr().out
    tracking.client.set_model_version_tag(name, str(unmeasured.version), "sha256", "f" * 64)
    with pytest.raises(IntegrityError, match="its record says f"):
        measure(ThisProcess(), tracking, unmeasured, sets, SETTINGS, tmp_path / "out")
