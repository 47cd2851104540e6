"""Stored answers against the teacher itself, through the real loader; who may read whose; what a killed run leaves."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from posecore.config import parse_config
from posecore.errors import ConfigError, IntegrityError
from posecore.loading.augment import AugmentConfig, mirrored_only
from posecore.loading.loader import Loader, LoadingConfig
from posecore.loading.training_crops import crop_terms
from posecore.methods.batch import split_batch, to_device
from posecore.methods.cached_teacher import CachedTeacher
from posecore.methods.distillation import Distillation, DistillationConfig
from posecore.methods.teacher_cache import AnswerJob, AnswerWriter, store_answers
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.cspnext import CspnextConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.models.heads.rtmcc import RtmccHeadConfig
from posecore.models.pose_model import PoseModel, build_model
from posecore.models.saving import CARD_FILE, WEIGHTS_FILE, save_model
from posecore.models.sources import ModelFolder
from posecore.schema import CropBatch
from posecore.shards.answers import AnswerPrecision, AnswerStore, AnswerTerms
from posecore.shards.manifest import MANIFEST_NAME
from posecore.shards.store import ShardStore
from posecore.skeletons.library import load_skeleton
from posecore.training.context import LocalContext
from posecore.training.loop import TrainingConfig, train
from posecore.training.optimizer import OptimizerConfig
from tests.support.checkpoints import load_checkpoint, newest
from tests.support.tiny_store import write_store
from tests.support.tiny_training import Stopped, stop_at

SIZE = (64, 32)
CPU = torch.device("cpu")
FLIPS = mirrored_only(0.5)


@dataclass(frozen=True)
class World:
    """Two splits and a ViT teacher of twice the input size, whose one human head knows 133 points."""

    stores: Mapping[str, ShardStore]
    teacher: ModelFolder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    stores = {
        "people": write_store(folder / "a", "people", [1, 3, 2, 1]),
        "dogs": write_store(folder / "b", "dogs", [1, 2], skeleton="ap10k17"),
    }
    return World(stores, ModelFolder.at(save_model(_teacher(), folder / "teacher")))


def _teacher(seed: int = 1, **architecture: object) -> PoseModel:
    torch.manual_seed(seed)
    backbone = VitConfig(embed_dim=32, depth=1, num_heads=2, drop_path=0.0)
    config = {"backbone": backbone, "head": ClassicHeadConfig(channels=8), "input_size": (128, 64)} | architecture
    skeletons = {"whole": load_skeleton("coco_wholebody133"), "animals": load_skeleton("ap10k17")}
    model = build_model(ModelConfig.model_validate(config), skeletons).eval()
    for head in model.heads.values():
        torch.nn.init.normal_(head.final_layer.weight, std=0.5)
    return model


def _student(stores: Mapping[str, ShardStore], size: tuple[int, int] = SIZE) -> PoseModel:
    torch.manual_seed(0)
    head = RtmccHeadConfig(token_dim=16, attention_dim=8, kernel=3)
    config = ModelConfig(backbone=CspnextConfig(deepen=0.1, widen=0.1), head=head, input_size=size)
    return build_model(config, {name: store.manifest.definition.skeleton for name, store in stores.items()})


def _jobs(
    world: World, folder: Path, precision: AnswerPrecision = "float32", **changes: object
) -> dict[str, AnswerJob]:
    """What the step of the job plans, for every split."""
    bodies = changes.pop("bodies", "labelled")
    augment = changes.pop("augment", FLIPS)
    assert isinstance(augment, AugmentConfig)
    student = _student(world.stores)
    config = DistillationConfig.model_validate({"teacher": world.teacher} | changes)
    lessons = Distillation(student, world.teacher.outline(), config).lesson_terms()
    jobs = {}
    for name, store in world.stores.items():
        crops = crop_terms(store, augment, None, SIZE, student.conventions[name], bodies)
        terms = AnswerTerms(lesson=lessons[name], crops=crops, precision=precision)
        jobs[name] = AnswerJob(
            terms=terms,
            teacher=world.teacher,
            store=str(store.location),
            folder=folder / name,
            code="this",
            instances_per_shard=3,
            batch_size=4,
        )
    return jobs


def _stored(world: World, folder: Path, precision: AnswerPrecision = "float32", **changes: object) -> dict[str, str]:
    jobs = _jobs(world, folder, precision, **changes)
    for job in jobs.values():
        store_answers(job)
    return {name: str(job.folder) for name, job in jobs.items()}


def _loader(world: World, answers: Mapping[str, str] | None, start: int = 0, **changes: object) -> Loader:
    entries = [{"name": name} for name in world.stores]
    values = {"mixture": {"entries": entries, "shuffle_window": 2}, "augment": FLIPS} | changes
    student = _student(world.stores)
    return Loader(
        world.stores,
        parse_config(values, LoadingConfig, "test"),
        input_size=SIZE,
        seed=3,
        global_batch=4,
        start_step=start,
        conventions=student.conventions,
        answers={name: AnswerStore(folder) for name, folder in (answers or {}).items()},
    )


def _batches(loader: Loader, count: int) -> list[CropBatch]:
    iterator = iter(loader)
    batches = list(islice(iterator, count))
    iterator.close()
    return batches


def _method(world: World, answers: Mapping[str, str], **changes: object) -> Distillation:
    config = DistillationConfig.model_validate({"teacher": world.teacher, "answers": dict(answers)} | changes)
    return config.build(_student(world.stores)).eval()


def _terms(method: Distillation, batch: CropBatch) -> dict[str, Tensor]:
    return method(to_device(batch, CPU))


# -- the same losses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("float16", 2e-2)])
def test_losses_with_stored_answers_are_those_of_the_teacher(
    world: World, tmp_path: Path, precision: AnswerPrecision, tolerance: float
) -> None:
    answers = _stored(world, tmp_path, precision)
    asked, cached = _method(world, {}), _method(world, answers)
    flipped, labels = [], 0.0
    for batch in _batches(_loader(world, answers), 6):
        ours, theirs = _terms(cached, batch), _terms(asked, batch)
        assert ours.keys() == theirs.keys() >= {"features", "outputs/people", "loss/people"}
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=tolerance, atol=1e-6)
        labels += ours["loss/people"].item()
        flipped += [flag for group in batch.groups for flag in group.flipped.tolist()]
    assert labels > 0
    assert 0 < sum(flipped) < len(flipped)


def test_a_mirrored_crop_has_an_answer_of_its_own(world: World, tmp_path: Path) -> None:
    """It is not the mirror image of the other: the teacher is no symmetric function."""
    store = AnswerStore(_stored(world, tmp_path)["people"])
    assert not np.allclose(store.read(0, False).outputs[..., ::-1], store.read(0, True).outputs)
    alone = AnswerStore(_stored(world, tmp_path / "alone", augment=mirrored_only(0))["people"])
    # To rounding: how many crops are asked about at once may decide how a convolution is computed.
    np.testing.assert_allclose(alone.read(0, False).outputs, store.read(0, False).outputs, rtol=1e-5, atol=1e-8)
    with pytest.raises(IntegrityError, match="no answer for row 0, mirrored"):
        alone.read(0, True)


def test_only_what_the_losses_use_is_stored(world: World, tmp_path: Path) -> None:
    """17 of the teacher's 133 points, and its 8×4 map averaged onto the student's 2×1."""
    manifest = AnswerStore(_stored(world, tmp_path)["people"]).manifest
    assert manifest.outputs_shape == (17, 32, 16)
    assert manifest.features_shape == (32, 2, 1)
    outputs = AnswerStore(_stored(world, tmp_path / "o", feature_weight=0)["people"]).manifest
    assert (outputs.outputs_shape, outputs.features_shape) == ((17, 32, 16), None)
    answers = _stored(world, tmp_path / "f", output_weight=0)
    features = AnswerStore(answers["people"]).manifest
    assert (features.outputs_shape, features.features_shape) == (None, (32, 2, 1))
    batch = _batches(_loader(world, answers), 1)[0]
    ours, theirs = (_terms(_method(world, a, output_weight=0), batch) for a in (answers, {}))
    torch.testing.assert_close(ours, theirs)


def test_answers_stay_with_their_crops_when_a_batch_is_cut(world: World, tmp_path: Path) -> None:
    answers = _stored(world, tmp_path)
    batch = _batches(_loader(world, answers), 1)[0]
    asked, cached = _method(world, {}), _method(world, answers)
    for part in split_batch(batch, 2):
        torch.testing.assert_close(_terms(cached, part), _terms(asked, part), rtol=1e-5, atol=1e-6)


# -- without the teacher -----------------------------------------------------------------------------------------------


def test_the_teacher_s_weights_are_not_read(world: World, tmp_path: Path) -> None:
    answers = _stored(world, tmp_path / "answers")
    card = (Path(world.teacher.source) / CARD_FILE).read_bytes()
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / CARD_FILE).write_bytes(card)
    assert not (tmp_path / "card" / WEIGHTS_FILE).exists()
    source = world.teacher.model_copy(update={"source": str(tmp_path / "card")})
    method = DistillationConfig(teacher=source, answers=answers).build(_student(world.stores))
    assert isinstance(method.teacher, CachedTeacher)
    assert all(parameter.is_meta for parameter in method.teacher.model.parameters())
    assert not any(tensor.is_meta for tensor in method.state_dict().values())
    assert _terms(method, _batches(_loader(world, answers), 1)[0])["features"] > 0


def test_a_stopped_run_resumes_bit_for_bit(world: World, tmp_path: Path) -> None:
    answers = _stored(world, tmp_path / "answers", "float16")
    config = TrainingConfig(
        steps=5,
        global_batch=4,
        seed=3,
        optimizer=OptimizerConfig(lr=1e-3, layer_decay=1.0),
        checkpoint_every=2,
        progress=False,
    )
    torch.set_num_threads(1)

    def run(folder: Path, stop_before: int | None = None) -> dict[str, Tensor]:
        check = stop_at(stop_before)

        def batches(start: int):
            for batch in _loader(world, answers, start):
                check(batch.step)
                yield batch

        context = LocalContext(folder)
        try:
            train(_method(world, answers).train(), batches, config, context)
        except Stopped:
            assert stop_before is not None
        latest = newest(context)
        return load_checkpoint(latest)[0].weights

    alone = run(tmp_path / "alone")
    run(tmp_path / "stopped", stop_before=3)
    resumed = run(tmp_path / "stopped")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in alone.items())


# -- whole or absent ---------------------------------------------------------------------------------------------------


def test_a_killed_fill_goes_on_and_is_never_taken_for_whole(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _stored(world, tmp_path / "whole")["people"]
    job = _jobs(world, tmp_path / "killed")["people"]

    def dies(writer: AnswerWriter, numbers: range):
        yield writer.write(numbers[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store_answers(job, dies)
    with pytest.raises(IntegrityError, match="no finished answers"):
        AnswerStore(job.folder)
    asked: list[int] = []
    cut = AnswerWriter._cut

    def counted(self: AnswerWriter, batch: list[tuple[int, bool]], cache: object) -> CropBatch:
        asked.extend(instance for instance, _ in batch)
        return cut(self, batch, cache)

    monkeypatch.setattr(AnswerWriter, "_cut", counted)
    store_answers(job)
    assert sorted(set(asked)) == [3, 4, 5, 6]
    for path in Path(whole).iterdir():
        assert path.read_bytes() == (job.folder / path.name).read_bytes(), path.name


def test_a_damaged_tar_is_made_again_and_the_others_kept(world: World, tmp_path: Path) -> None:
    job = _jobs(world, tmp_path)["people"]
    store_answers(job)
    before = {path.name: path.read_bytes() for path in job.folder.iterdir()}
    times = {path.name: path.stat().st_mtime_ns for path in job.folder.iterdir()}
    path = job.folder / "answers-000001.tar"
    path.write_bytes(before[path.name][:2000] + b"!" + before[path.name][2001:])
    with pytest.raises(IntegrityError, match=f"{path}: the answer at byte .* remove {MANIFEST_NAME}"):
        AnswerStore(job.folder).read(int(AnswerWriter(job).rows[3]), False)
    (job.folder / MANIFEST_NAME).unlink()
    store_answers(job)
    assert {path.name: path.read_bytes() for path in job.folder.iterdir()} == before
    assert (job.folder / "answers-000000.tar").stat().st_mtime_ns == times["answers-000000.tar"]


# -- refused -----------------------------------------------------------------------------------------------------------


def test_answers_of_another_teacher_are_refused(world: World, tmp_path: Path) -> None:
    answers = _stored(world, tmp_path / "answers")
    other = ModelFolder.at(save_model(_teacher(seed=2), tmp_path / "other"))
    with pytest.raises(ConfigError, match=f"SHA-256 {world.teacher.sha256}, and this run has {other.sha256}; let the"):
        _method(World(world.stores, other), answers)
    with pytest.raises(ConfigError, match=r"with head whole, and this run has animals"):
        _method(world, answers, teacher_heads={"people": "animals"})
    with pytest.raises(ConfigError, match=r"with features of size \(2, 1\), and this run has none"):
        _method(world, answers, feature_weight=0)
    with pytest.raises(ConfigError, match=r"method\.answers: none for dogs"):
        _method(world, {"people": answers["people"]})
    with pytest.raises(ConfigError, match="an answer depends on the other crops"):
        _method(world, answers, teacher_statistics="batch")
    with pytest.raises(ConfigError, match="there is nothing to store"):
        _method(world, answers, feature_weight=0, output_weight=0)
    with pytest.raises(ConfigError, match="state their checksum"):
        _method(World(world.stores, ModelFolder(source=world.teacher.source)), answers)


def test_answers_to_other_crops_are_refused(world: World, tmp_path: Path) -> None:
    answers = _stored(world, tmp_path / "answers")
    with pytest.raises(ConfigError, match="with mirrored True, and this run has False"):
        _loader(world, answers, augment=mirrored_only(0))
    with pytest.raises(ConfigError, match="with bodies labelled, and this run has all"):
        _loader(world, answers, bodies="all")
    swapped = {"people": answers["dogs"], "dogs": answers["people"]}
    with pytest.raises(ConfigError, match=r"with the dataset of digest .*, and this run has "):
        _loader(world, swapped)
    with pytest.raises(ConfigError, match=r"people: .* half_body_probability, scale_factor, .* set those to 0"):
        _loader(world, answers, augment=AugmentConfig())
    with pytest.raises(ConfigError, match="come without a teacher's answers"):
        _terms(_method(world, answers), _batches(_loader(world, None), 1)[0])


def test_what_half_precision_cannot_hold_is_refused(world: World, tmp_path: Path) -> None:
    loud = _teacher()
    with torch.no_grad():
        loud.heads["whole"].final_layer.bias.fill_(1e6)
    louder = World(world.stores, ModelFolder.at(save_model(loud, tmp_path / "loud")))
    with pytest.raises(ConfigError, match=r"says 1e\+06, which float16 cannot hold; choose float32"):
        store_answers(_jobs(louder, tmp_path / "answers", "float16")["people"])
    store_answers(_jobs(louder, tmp_path / "answers", "float32")["people"])


def test_a_split_that_is_not_the_stated_one_is_refused(world: World, tmp_path: Path) -> None:
    jobs = _jobs(world, tmp_path)
    with pytest.raises(ConfigError, match=r"its digest is .*; ingest it again"):
        store_answers(AnswerJob(**{**vars(jobs["people"]), "store": jobs["dogs"].store}))
