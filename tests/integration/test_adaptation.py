"""From a registered model of adults to its registered child for infants, with what that cost."""

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pipelines.adapt import FLAGS, main
from posecore.config import load_config
from posecore.errors import DatasetError
from posecore.lineage.jobs.steps import Outputs, StepResult
from posecore.lineage.registry.registration import register_model
from posecore.lineage.store.tracking import TrackingConfig, connect
from posecore.lineage.versions.dataset_inputs import DatasetUse
from posecore.lineage.versions.tags import RegisteredVersion, evaluations, get_version, parent_of
from posecore.lineage.versions.weights_use import WEIGHTS, WeightsUse
from posecore.methods.adaptation import AdaptationConfig
from posecore.methods.strategies import Roles
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.models.pose_model import build_model
from posecore.models.saving import load_model, save_model
from posecore.models.sources import ModelFolder
from posecore.models.warm_start import warm_start
from posecore.skeletons.library import load_skeleton
from posecore.synth.minirgbd_files import write_minirgbd
from posecore.synth.writers import write_dataset
from posecore.workflows.adaptation.checks import refuse_unlearnable
from posecore.workflows.adaptation.child import with_own_proportions
from posecore.workflows.adaptation.job import AdaptationJob
from posecore.workflows.datasets_job import DatasetsJob

SIZE = (64, 48)
FILM = {
    "name": "film", "definition": "syrip", "root": "film", "train": "train", "head": "syrip", "unlabelled": "boxes"
}  # fmt: skip


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory, store_folder: Path) -> Path:
    """A run file beside its data, and a registered parent that knows people and animals."""
    folder = tmp_path_factory.mktemp("adaptation")
    kinds = {"coco": "coco", "syrip": "syrip", "ward": "syrip", "film": "syrip", "zoo": "ap10k"}
    for seed, (name, kind) in enumerate(kinds.items()):
        write_dataset(kind, folder / name, num_train=8, num_val=4, image_size=(128, 128), seed=seed)  # type: ignore[arg-type]
    torch.manual_seed(0)
    config = ModelConfig(
        backbone=VitConfig(embed_dim=16, depth=2, num_heads=2), head=ClassicHeadConfig(channels=8), input_size=SIZE
    )
    heads = {"coco": load_skeleton("coco17"), "ap10k": load_skeleton("ap10k17")}
    parent = build_model(config, heads, licenses={"coco": "CC-BY-4.0"})
    tracking = TrackingConfig(uri=f"sqlite:///{store_folder}/mlflow.db", experiment="adaptation")
    use = DatasetUse(
        name="coco", split="train", digest="a" * 64, role="training", location="/nowhere", license="CC-BY-4.0",
        commercial_use=True,
    )  # fmt: skip
    run = connect(tracking, store_folder).start_run("parent", {})
    register_model(run, "body", Path(str(save_model(parent, folder / "parent"))), [use], [])
    values: dict[str, Any] = {
        "name": "little-infants",
        "run_folder": str(folder / "run"),
        "data_folder": str(folder),
        "tracking": tracking.model_dump(),
        "parent": "models:/body/1",
        "target": "syrip",
        "method": {"strategy": "full"},
        "datasets": [
            {"name": "syrip", "root": "syrip", "train": "train", "evaluate": "val"},
            {"name": "coco", "root": "coco", "train": "train", "evaluate": "val"},
            {"name": "ward", "definition": "syrip", "root": "ward", "evaluate": "val", "head": "syrip"},
            FILM,
        ],
        "training": {
            "steps": 4,
            "global_batch": 8,
            "schedule": {"kind": "cosine", "warmup_steps": 1},
            "progress": False,
        },
        "inference": {"flip_test": False, "num_threads": 1},
        "gates": {"max_forgetting": 0.5, "gates": ["syrip/AP>=0.9", "syrip/torso/error_high<=0.01"]},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_the_whole_job(run_file: Path, store_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flags = ["--strategy", "lora", "--model", "models:/body/1", "--target", "datasets/syrip", "--keep", "coco"]
    for setting in ("method.distillation=0.5", "training.evaluate_every=1", "label_check={pictures: 4}"):
        flags += ["--set", setting]
    assert main(["--config", str(run_file), *flags]) == 0
    said = capfd.readouterr().out
    ingested = ["ingest:syrip:train", "ingest:syrip:val", "ingest:coco:train", "ingest:coco:val", "ingest:ward:val"]
    ingested.append("ingest:film:train")
    judged = ["evaluate:parent", "train", "evaluate:child", "labels:syrip"]
    steps = [*ingested, "audit", "proportions:syrip", *judged, "register", "report"]
    assert re.findall(r"^(\S+) +ran ", said, re.MULTILINE) == steps

    child = load_model(re.findall(r"\(folder (\S+)\)", said)[0])
    assert child.skeletons.keys() == {"coco", "ap10k", "syrip"}
    assert child.card.lineage["weights"]["source"] == "models:/body/1"
    assert child.card.lineage["strategy"]["kind"] == "lora"
    parent = load_model(run_file.parent / "parent")
    images = torch.randn(2, 3, *SIZE)
    assert not torch.equal(child.predict(images, "coco"), parent.predict(images, "coco"))
    heads = child.heads["coco"].state_dict()
    assert all(torch.equal(tensor, heads[name]) for name, tensor in parent.heads["coco"].state_dict().items())

    from peft import PeftModel

    base = build_model(child.config, child.skeletons)
    warm_start(base, parent)
    adapter = Path(re.findall(r"adapter   (\S+)", said)[0]).parent
    loaded = PeftModel.from_pretrained(base, str(adapter)).eval()
    for head in ("syrip", "coco"):
        with torch.no_grad():
            answer = loaded.base_model.model.predict(images, head)
        torch.testing.assert_close(answer, child.predict(images, head), rtol=1e-5, atol=1e-5)

    tracking = connect(load_config(run_file, AdaptationJob).tracking, store_folder)
    version = get_version(tracking, "little-infants", 1)
    assert parent_of(version) == RegisteredVersion("body", 1)
    weights = [WeightsUse.model_validate_json(value) for tag, value in version.tags.items() if tag.startswith(WEIGHTS)]
    assert [use.source for use in weights] == ["models:/body/1"]
    assert version.tags["strategy"] == "lora"
    assert {artifact.path for artifact in tracking.client.list_artifacts(version.run_id, "adapter")} == {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    }
    assert "verdict   must not be promoted" in said  # nobody reaches an AP of 0.9 in four steps
    page = Path(re.findall(r"report    (\S+)", said)[0]).read_text()
    assert "film: 0.5 of the crops" in page
    for title in ("target", "forgetting", "generalisation", "must not be promoted", "left_wrist", "syrip/AP is"):
        assert title in page, title
    for title in (
        "syrip (target)",
        "ward (independent)",
        "coco (kept)",
        "by posture",
        "by subject",
        "syrip/torso/error",
    ):
        assert title in page, title
    assert page.count('class="reliability"') == 6, "a reliability diagram of each model on each set"
    (measured,) = (result.metrics for result in evaluations(version) if result.name == "syrip")
    assert {"torso/error_change", "torso/error_change_high"} <= measured.keys()
    assert f"syrip/torso/error_high is {measured['torso/error_high']:.6g}, required" in page
    runs = tracking.client.search_runs([tracking.experiment_id], "tags.`posecore.step` = 'evaluate:child'")
    assert runs[0].data.metrics["syrip/torso/PCK_0.2"] == measured["torso/PCK_0.2"]
    artifacts = tracking.client.list_artifacts(runs[0].info.run_id, "syrip")
    names = ["clinical.json", "keypoint_errors.json", "samples.jpg", "worst.jpg"]
    assert [artifact.path for artifact in artifacts] == [f"syrip/{name}" for name in names]
    assert "Labels were not compared with the proportions of their bodies: syrip train: 8 of 8" in page
    assert re.search(r"\d+ labels? hardly learned", page)
    link = re.search(r'href="(labels/syrip/index.html)"', page)
    assert link is not None
    assert (Path(re.findall(r"report    (\S+)", said)[0]).parent / link[1]).exists()

    assert main(["--config", str(run_file), *flags]) == 0
    assert not re.findall(r"^(\S+) +ran ", capfd.readouterr().out, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.usefixtures("this_process")
def test_a_parent_of_pictures_gets_a_child_that_takes_depth_and_holds_to_its_own_proportions(
    run_file: Path, store_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_minirgbd(tmp_path / "minirgbd", 24, 2)
    values = yaml.safe_load(run_file.read_text())
    values |= {
        "target": "minirgbd",
        "datasets": [{"name": "minirgbd", "root": str(tmp_path / "minirgbd"), "train": "train", "evaluate": "test"}],
        "method": {"strategy": "lora"},
        "depth_input": True,
        "own_proportions": 0.02,
        "name": "infants-in-depth",
    }
    values["gates"] = {}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    assert main(["--config", str(tmp_path / "run.yaml")]) == 0
    child = load_model(re.findall(r"\(folder (\S+)\)", capfd.readouterr().out)[0])
    assert child.takes_depth
    assert child.backbone.patch_embed.depth_proj.weight.any()  # type: ignore[union-attr]
    tracking = connect(load_config(run_file, AdaptationJob).tracking, store_folder)
    metrics = tracking.client.get_run(str(child.card.lineage["run_id"])).data.metrics
    assert metrics["prior/minirgbd"] >= 0  # points that a head is not sure of do not count, and a fresh one is of none


def test_too_few_bodies_have_no_proportions_of_their_own(run_file: Path) -> None:
    config = load_config(run_file, AdaptationJob, ["own_proportions=0.02"])
    parent = ModelFolder(source=config.parent.source)
    method = AdaptationConfig(terms=config.method, roles=Roles("syrip"), parent=parent)
    checked = StepResult("proportions:syrip", "run", False, Outputs({"told": "8 bodies are too few", "page": ""}))
    with pytest.raises(DatasetError, match="own_proportions must be 0 here: 8 bodies are too few"):
        with_own_proportions(method, config, checked)


@pytest.mark.slow
@pytest.mark.usefixtures("this_process")
def test_unlabelled_pictures_of_those_who_are_judged_are_refused(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = yaml.safe_load(run_file.read_text())
    values["datasets"] = [values["datasets"][0], FILM | {"root": "syrip", "train": "val"}]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    assert main(["--config", str(tmp_path / "run.yaml")]) == 1
    assert "training and evaluation data overlap: syrip/val and syrip/val share 4 exact" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "job", "sentence"),
    [
        ({"head": "coco"}, {}, "datasets.film.head: unlabelled pictures teach the target's; set syrip"),
        ({"evaluate": "val"}, {}, "film: unlabelled pictures have a train split and a head that learns from them"),
        ({"unlabelled": None, "train": None, "evaluate": "val"}, {}, "no entry of datasets is unlabelled; mark one"),
        ({}, {"replay": 0.5}, "with replay 0.5, 0.5 leaves no crop for the target's labels"),
        ({"definition": "ap10k", "root": "zoo"}, {}, "datasets.film: its points are not those of the head 'syrip'"),
    ],
)
def test_unlabelled_pictures_that_could_teach_nothing_are_refused(
    run_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    job: dict[str, Any],
    sentence: str,
) -> None:
    values = yaml.safe_load(run_file.read_text()) | job
    values["datasets"][-1] = FILM | changes
    values["method"] = {"strategy": "full", "unlabelled": {"weight": 2.0}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    assert main(["--config", str(tmp_path / "run.yaml")]) == 1
    assert sentence in capsys.readouterr().err


def test_other_jobs_have_nobody_who_could_label_them() -> None:
    entries = [{"name": "syrip", "root": ".", "train": "train", "evaluate": "val"}, FILM]
    with pytest.raises(ValueError, match=r"datasets.film.unlabelled: only an adaptation \(pipelines/adapt.py\)"):
        DatasetsJob.model_validate({"name": "a", "run_folder": "run", "datasets": entries})


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["method.strategy=expert", "depth_input=true"], "what reads depth is shared by all sets, and expert changes"),
        (["parent=models:/body/9"], "models:/body/9: "),
        (["target=nobody"], "target: 'nobody' must be an entry of datasets with train and evaluate splits"),
        (["keep=[mpii]"], "keep: 'mpii' is no entry of datasets"),
        (["method.strategy=expert", "replay=0.5"], "expert leaves everything the kept sets use as it is; set it to 0"),
        (["method.strategy=lora", "l2_sp=0.1"], "with lora no inherited weight learns; set it to 0"),
        (["method.strategy={kind: last-n, blocks: 5}"], "5 blocks cannot learn, for the backbone has 2 blocks"),
        (["method.strategy=lorra"], "lorra"),
        (["method.prior={source: infants.json}"], "as well, which have others; name whose they are: [syrip]"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    run_file: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], sentence: str
) -> None:
    settings = [word for override in overrides for word in ("--set", override)]
    assert main(["--config", str(run_file), *settings]) in (1, 2)
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": "ap10k"}, "the parent has a head 'ap10k' with other points; give the entry another name"),
        (
            {
                "name": "dots",
                "changes": {"skeleton": {"name": "dots", "keypoints": [{"name": "dot", "union": "dot"}], "links": []}},
            },
            "target: dots has the points dot, none of which the parent knows (its heads: coco, ap10k); take a parent "
            "with a common point; where a point is one of those under another name, say so as its union in the "
            "skeleton; or set allow_fresh_head: true to keep what its backbone has learned under a head that begins at "
            "chance.",
        ),
    ],
)
def test_a_target_the_parent_cannot_take_is_refused(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], sentence: str
) -> None:
    values = yaml.safe_load(run_file.read_text())
    values["datasets"] = [values["datasets"][0] | {"definition": "syrip"} | changes]
    values["target"] = changes["name"]
    values["gates"] = {}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    assert main(["--config", str(tmp_path / "run.yaml")]) == 1
    assert sentence in capsys.readouterr().err


def test_a_set_to_keep_of_which_the_parent_has_no_head_is_refused(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = yaml.safe_load(run_file.read_text())
    values["datasets"][1]["name"], values["datasets"][1]["definition"] = "people", "coco"
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    assert main(["--config", str(tmp_path / "run.yaml")]) == 1
    assert "datasets.people: the parent has no head 'people' (it has coco, ap10k)" in capsys.readouterr().err


def test_a_set_to_replay_with_the_points_in_another_order_is_refused(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Heads learn by number, so the nose's map would be taught ankles."""
    values = yaml.safe_load(run_file.read_text())
    skeleton = load_skeleton("coco17").model_dump(mode="json")
    skeleton["keypoints"].reverse()
    values["datasets"][1]["changes"] = {"skeleton": skeleton}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    assert main(["--config", str(tmp_path / "run.yaml")]) == 1
    assert "datasets.coco: its points are not those of the head 'coco'" in capsys.readouterr().err


def unlabelled(annotations: list[dict[str, Any]], keep: int = 0) -> None:
    """Takes every point's flag from all bodies but the first."""
    for annotation in annotations[keep:]:
        annotation["keypoints"] = [0] * len(annotation["keypoints"])
        annotation["num_keypoints"] = 0


def unlabelled_for_judging(annotations: list[dict[str, Any]]) -> None:
    unlabelled(annotations)


def without_left_wrist(annotations: list[dict[str, Any]]) -> None:
    for annotation in annotations:
        annotation["keypoints"][27:30] = [0, 0, 0]


def of_one_infant(annotations: list[dict[str, Any]]) -> None:
    for annotation in annotations:
        annotation["subject_id"] = "emil"


def with_one_area(annotations: list[dict[str, Any]]) -> None:
    for annotation in annotations:
        annotation["area"] = 14232.77


@pytest.mark.slow
@pytest.mark.usefixtures("this_process")
@pytest.mark.parametrize(
    ("damage", "changes", "sentence"),
    [
        (unlabelled, {}, "target syrip: its train split has 0 labelled bodies, fewer than the 4 that a head can learn"),
        (
            lambda bodies: unlabelled(bodies, keep=3),
            {},
            "target syrip: its train split has 3 labelled bodies, fewer than the 4 that a head can learn",
        ),
        (
            without_left_wrist,
            {},
            "target syrip: left_wrist is labelled on no body of its train split, so no head could",
        ),
        (of_one_infant, {}, "syrip/train and syrip/val share 1 subject"),
        (
            with_one_area,
            {"area_rule": "annotated"},
            "syrip train: the annotations state one area, 14232.8 px², for all 8 bodies",
        ),
        (unlabelled_for_judging, {}, "datasets.syrip: evaluation split val: no body has a labelled point"),
    ],
    ids=["no labels", "three labels", "no left wrist", "one infant in both", "one area for all", "none to judge by"],
)
def test_labels_that_will_not_do_are_one_sentence(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Any, changes: dict[str, Any],
    sentence: str,
) -> None:  # fmt: skip
    shutil.copytree(run_file.parent / "syrip", tmp_path / "syrip")
    for path in sorted((tmp_path / "syrip" / "annotations").glob("*.json")):
        document = json.loads(path.read_text())
        if damage is of_one_infant or ("train" in path.name) != (damage is unlabelled_for_judging):
            damage(document["annotations"])
        path.write_text(json.dumps(document))
    values = yaml.safe_load(run_file.read_text())
    values |= {"data_folder": str(tmp_path), "run_folder": str(tmp_path / "run"), "gates": {}}
    values["datasets"] = [values["datasets"][0] | {"changes": changes}]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    assert main(["--config", str(tmp_path / "run.yaml")]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert sentence in line


@pytest.mark.parametrize("bodies", [0, 3])
def test_a_target_with_next_to_no_label_is_refused(bodies: int) -> None:
    labelled = np.zeros((9, 2), np.bool_)
    labelled[:bodies] = True
    sentence = f"target infants: its train split has {bodies} labelled bodies, fewer than the 4 that a head can learn"
    with pytest.raises(DatasetError, match=sentence):
        refuse_unlearnable("infants", ["left_hand", "right_hand"], labelled)


def test_a_point_that_is_labelled_nowhere_is_named() -> None:
    refuse_unlearnable("infants", ["left_hand", "right_hand"], np.array([[True, False]] * 3 + [[False, True]]))
    with pytest.raises(DatasetError, match="target infants: right_hand is labelled on no body of its train split"):
        refuse_unlearnable("infants", ["left_hand", "right_hand"], np.array([[True, False]] * 4))


def test_sets_share_the_crops(run_file: Path) -> None:
    job = load_config(run_file, AdaptationJob, ["replay=0.4", "unlabelled_share=0.5"]).taking_part()
    weights = {entry.name: entry.weight for entry in job.mixture(False).mixture.entries}
    assert weights == pytest.approx({"syrip": 0.1, "coco": 0.4, "film": 0.5})
    assert [entry.unlabelled for entry in job.mixture(False).mixture.entries] == [None, None, "boxes"]
    assert job.mixture(True).depth
    assert not job.mixture(False).depth
    assert load_config(run_file, AdaptationJob).replay_share == 0.25
    kept = load_config(run_file, AdaptationJob, ["method.strategy=expert"]).taking_part()
    assert [entry.name for entry in kept.mixture(False).mixture.entries] == ["syrip", "film"]
    assert [(entry.name, entry.roles) for entry in kept.datasets][1] == ("coco", ["evaluation"])


def test_flags_are_short_for_settings() -> None:
    parser = argparse.ArgumentParser()
    FLAGS.declare(parser)
    assert FLAGS.overrides(parser.parse_args([])) == []
    flags = ["--model", "models:/b@c", "--target", "datasets/mine", "--strategy", "lora"]
    settings = ["parent=models:/b@c", "target=mine", "method.strategy=lora"]
    assert FLAGS.overrides(parser.parse_args([*flags, "--keep", "coco,mpii"])) == [*settings, "keep=[coco,mpii]"]
    assert FLAGS.overrides(parser.parse_args([*flags, "--keep", ""])) == [*settings, "keep=[]"]
