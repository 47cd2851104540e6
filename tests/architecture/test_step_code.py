"""What each training step counts as its code: what it runs, and nothing whose edit would train in vain."""

import importlib
import pickle
import pkgutil
from collections.abc import Mapping

import pytest

from posecore.evaluation.inference import InferenceSettings
from posecore.lineage.code.version import code_files, own_digest
from posecore.loading.loader import LoadingConfig
from posecore.loading.mixture import MixtureConfig, MixtureEntry
from posecore.methods.adaptation import AdaptationConfig, AdaptationTerms
from posecore.methods.distillation import DistillationConfig
from posecore.methods.head_distillation import HeadDistillationConfig
from posecore.methods.heads import ExpertsConfig, HeadsConfig
from posecore.methods.knowledge_token import KnowledgeTokenConfig
from posecore.methods.prototypes import PrototypesConfig
from posecore.methods.strategies import Roles
from posecore.models.architecture import ModelCard, ModelConfig
from posecore.models.sources import ModelFolder, StartFolder
from posecore.training.loop import TrainingConfig
from posecore.workflows.adaptation.worker import AdaptationWorker
from posecore.workflows.budget.search import CODE, OWN_CODE, own_code
from posecore.workflows.budget.settings import SearchConfig
from posecore.workflows.multidataset_worker import MultiDatasetWorker
from posecore.workflows.periodic_evaluation import PeriodicEvaluation
from posecore.workflows.train_step import code_of

ANYWHERE = ModelFolder(source="nowhere")
LOADING = LoadingConfig(mixture=MixtureConfig(entries=(MixtureEntry(name="coco"),)))
NEVER = ("posecore.lineage.", "posecore.viz.", "posecore.ingest.", "posecore.formats.", "posecore.prediction.")
NEVER += ("posecore.models.weights.", "posecore.synth.", "posecore.cli.", "posecore.models.catalog")
METHODS = {
    "heads": {"heads", "supervised"},
    "experts": {"heads", "supervised"},
    "prototypes": {"prototypes", "prototype_terms", "self_supervision", "staged", "supervised"},
    "token": {"knowledge_token", "supervised", "teacher"},
    "stage 1": {"distillation", "supervised", "teacher", "belief", "feature_alignment", "cached_teacher"},
    "stage 2": {"head_distillation", "losses"},
    "adaptation": {"adaptation", "strategies", "mean_teacher", "losses", "prototypes"},
}
"""Of each step, modules of posecore.methods that are its code."""
FOREIGN = {
    "heads": {"prototypes", "distillation", "adaptation", "masked_autoencoder", "mean_teacher", "knowledge_token"},
    "experts": {"prototypes", "distillation", "adaptation", "masked_autoencoder", "mean_teacher", "knowledge_token"},
    "prototypes": {"distillation", "adaptation", "masked_autoencoder", "mean_teacher", "knowledge_token"},
    "token": {"prototypes", "head_distillation", "adaptation", "masked_autoencoder", "mean_teacher"},
    "stage 1": {"prototypes", "head_distillation", "adaptation", "masked_autoencoder", "mean_teacher"},
    "stage 2": {"prototypes", "distillation", "adaptation", "masked_autoencoder", "mean_teacher"},
    "adaptation": {"distillation", "masked_autoencoder", "knowledge_token", "head_distillation"},
}
"""And modules of it that are not."""


def worker(method: object, **more: object) -> MultiDatasetWorker:
    values = {
        "model": ModelConfig.model_validate({"backbone": "vit-nano"}),
        "training": TrainingConfig(steps=1, global_batch=1),
        "loading": LOADING,
        "stores": {"coco": "nowhere"},
        "method": method,
        "evaluate": PeriodicEvaluation(stores={}, heads={}, settings=InferenceSettings()),
    }
    if isinstance(method, AdaptationConfig):
        card = ModelCard.model_construct()
        return AdaptationWorker(**values, parent="nobody", card=card, **more)
    return MultiDatasetWorker(**values, **more)


@pytest.fixture(scope="module")
def workers() -> Mapping[str, MultiDatasetWorker]:
    start = StartFolder(source="nowhere")
    terms = AdaptationTerms.model_validate({"strategy": "full"})
    return {
        "heads": worker(HeadsConfig()),
        "experts": worker(ExpertsConfig(), weights=start),
        "prototypes": worker(PrototypesConfig(), weights=start),
        "token": worker(KnowledgeTokenConfig(teacher=ANYWHERE)),
        "stage 1": worker(DistillationConfig(teacher=ANYWHERE)),
        "stage 2": worker(HeadDistillationConfig(teacher=ANYWHERE)),
        "adaptation": worker(AdaptationConfig(terms=terms, roles=Roles("coco"), parent=ANYWHERE), weights=start),
    }


def code(modules: list[str]) -> set[str]:
    return {key.partition("/")[0] if "/" in key else key for key in code_files(modules)}


@pytest.mark.parametrize("step", METHODS)
def test_a_trainings_code_is_what_it_runs(workers: Mapping[str, MultiDatasetWorker], step: str) -> None:
    found = code(code_of(workers[step], judges=False))
    assert {"posecore.training.loop", "posecore.loading.loader", "posecore.models.pose_model"} <= found
    own = {name.rpartition(".")[2] for name in found if name.startswith("posecore.methods.")}
    assert own >= METHODS[step]
    assert not own & FOREIGN[step]
    assert [name for name in sorted(found) if name.startswith((*NEVER, "posecore.evaluation."))] == []
    of_jobs = {name for name in found if name.startswith(("pipelines", "posecore.cluster", "posecore.workflows."))}
    workers_code = {f"posecore.workflows.{name}" for name in ("multidataset_worker", "adaptation", "adaptation.worker")}
    assert of_jobs <= workers_code


@pytest.mark.parametrize("step", METHODS)
def test_the_evaluation_counts_if_it_is_ever_called(workers: Mapping[str, MultiDatasetWorker], step: str) -> None:
    quiet = code(code_of(workers[step], judges=False))
    judged = code(code_of(workers[step], judges=True))
    assert {"posecore.evaluation.oks", "posecore.workflows.periodic_evaluation"} <= judged - quiet
    assert "posecore.evaluation.label_losses" in code(code_of(workers[step], judges=False, records=True))


def test_pretraining_is_code_of_its_own() -> None:
    found = code(["posecore.workflows.pretraining.worker"])
    assert {"posecore.methods.masked_autoencoder", "posecore.loading.unlabelled_crops"} <= found
    own = {name.rpartition(".")[2] for name in found if name.startswith("posecore.methods.")}
    assert not own & {"supervised", "prototypes", "distillation", "adaptation", "mean_teacher", "knowledge_token"}
    assert [name for name in sorted(found) if name.startswith((*NEVER, "posecore.evaluation."))] == []


TELL = {"contest", "held_out", "record", "result", "search", "story"}
"""Modules of the search that decide nothing which its inputs do not say: what is held out is named by its digest."""


def test_every_module_of_a_search_either_counts_as_its_code_or_tells() -> None:
    package = "posecore.workflows.budget"
    names = {info.name for info in pkgutil.iter_modules(importlib.import_module(package).__path__)}
    counted = {name.rpartition(".")[2] for name in code([*CODE]) | {*OWN_CODE} if name.startswith(f"{package}.")}
    assert counted | TELL == names
    assert not counted & TELL


def test_what_lets_trials_race_counts_where_they_do() -> None:
    race = own_digest(own_code(SearchConfig(budget="1h", scheduler="asha")))
    assert race == own_digest([*OWN_CODE, "posecore.cluster.tune"])
    assert own_digest(own_code(SearchConfig(budget="1h"))) == own_digest(OWN_CODE) != race


def test_workers_are_still_sent_to_other_processes(workers: Mapping[str, MultiDatasetWorker]) -> None:
    assert all(type(pickle.loads(pickle.dumps(each))) is type(each) for each in workers.values())
