"""From a file of results and a file of annotations to a score: which protocol reads what, and how it judges."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from posecore.config import parse_config, read_yaml
from posecore.datasets.definition import DatasetDefinition, EvaluationDefinition
from posecore.errors import EvaluationError, UsageError
from posecore.evaluation.bootstrap import BootstrapSettings
from posecore.evaluation.protocols import protocol_problem
from posecore.nearest import did_you_mean
from posecore.schema import AreaRule, Json
from posecore.scoring.aic_score import read_aic_answers, score_aic
from posecore.scoring.answer_score import score_answers
from posecore.scoring.body_answers import read_all
from posecore.scoring.coco_truth import read_aic_truth, read_coco_truth, skeleton_of_file
from posecore.scoring.mpii_files import read_mpii_answers, read_mpii_truth
from posecore.scoring.oks_judge import OksRules
from posecore.scoring.oks_score import num_entries, score_oks
from posecore.scoring.posetrack_score import score_posetrack
from posecore.scoring.score import Scored
from posecore.scoring.truth import Truth, truth_of_definition
from posecore.skeletons.library import load_skeleton
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import AnyPath, as_path


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One way of scoring published files.

    Attributes:
        evaluation: what judges.
        skeleton: whose points the files have, None where the annotations name them.
        rules: of protocols that rank by OKS, None for others.
    """

    evaluation: EvaluationDefinition
    skeleton: str | None = None
    rules: OksRules | None = None


PROTOCOLS: Mapping[str, Protocol] = {
    "coco": Protocol(
        evaluation=EvaluationDefinition(protocol="oks"), skeleton="coco17", rules=OksRules(per_category=True)
    ),
    "wholebody": Protocol(
        evaluation=EvaluationDefinition(protocol="wholebody"),
        skeleton="coco_wholebody133",
        rules=OksRules(parts=True),
    ),
    "crowdpose": Protocol(
        evaluation=EvaluationDefinition(protocol="crowdpose"),
        skeleton="crowdpose14",
        rules=OksRules(area="box_053", crowding=True),
    ),
    "aic": Protocol(evaluation=EvaluationDefinition(protocol="aic"), skeleton="aic14"),
    "mpii": Protocol(evaluation=EvaluationDefinition(protocol="pckh"), skeleton="mpii16"),
    "ap10k": Protocol(
        evaluation=EvaluationDefinition(protocol="oks_per_category"),
        skeleton="ap10k17",
        rules=OksRules(per_category=True),
    ),
    "posetrack-like": Protocol(evaluation=EvaluationDefinition(protocol="pckh")),
    "torso": Protocol(evaluation=EvaluationDefinition(protocol="torso")),
    "pixel": Protocol(evaluation=EvaluationDefinition(protocol="pixel")),
}
_POSETRACK = "posetrack-like"
_RULES: Mapping[str, OksRules] = {
    "oks": OksRules(),
    "oks_per_category": OksRules(per_category=True),
    "wholebody": OksRules(parts=True),
    "crowdpose": OksRules(area="box_053", crowding=True),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What results are to be scored against, and how.

    Attributes:
        name: of the protocol, for people.
        truth: the annotations.
        evaluation: what judges.
        rules: of protocols that rank by OKS.
    """

    name: str
    truth: Truth
    evaluation: EvaluationDefinition
    rules: OksRules | None


def task_of_file(
    annotations: str | AnyPath,
    protocol: str,
    *,
    skeleton: str | None = None,
    area: AreaRule | None = None,
    options: Mapping[str, Json] | None = None,
) -> Task:
    """Annotations as published, by a protocol of :data:`PROTOCOLS`.

    Args:
        annotations: the file.
        protocol: name of the protocol.
        skeleton: a shipped skeleton or the path of a skeleton.yaml, where the points are not the protocol's own.
        area: what OKS divides by, where it is not the protocol's own.
        options: of the protocol, such as ``neck`` and ``hip`` of ``torso``.

    Raises:
        EvaluationError: the file does not fit the protocol, or the protocol cannot judge its points.
        UsageError: there is no such protocol.
    """
    if protocol not in PROTOCOLS:
        known = ", ".join(PROTOCOLS)
        raise UsageError(f"no protocol is called {protocol!r}.{did_you_mean(protocol, PROTOCOLS)} There are {known}.")
    path, chosen = as_path(annotations), PROTOCOLS[protocol]
    evaluation = chosen.evaluation.model_copy(update={"options": dict(options or {})})
    if protocol == "mpii":
        truth = read_mpii_truth(path)
    else:
        points = _skeleton(path, skeleton or chosen.skeleton)
        if protocol == "aic":
            truth = read_aic_truth(path, points)
        else:
            wholebody = evaluation.protocol == "wholebody"
            truth = read_coco_truth(path, points, wholebody=wholebody, heads=protocol == _POSETRACK)
    if protocol != _POSETRACK:
        _refuse_unjudged(evaluation, truth.skeleton)
    rules = chosen.rules if chosen.rules is None or area is None else replace(chosen.rules, area=area)
    return Task(name=protocol, truth=truth, evaluation=evaluation, rules=rules)


def task_of_definition(definition: DatasetDefinition, split: str, root: str | AnyPath) -> Task:
    """The annotations and the protocol of a dataset's definition.

    Raises:
        DatasetError: the split cannot be read.
        EvaluationError: the protocol cannot judge the dataset's points.
    """
    evaluation = definition.evaluation
    _refuse_unjudged(evaluation, definition.skeleton)
    rules = _RULES.get(evaluation.protocol)
    if rules is not None and evaluation.scale_rule is not None:
        rules = replace(rules, area=evaluation.scale_rule)
    truth = truth_of_definition(definition, split, root)
    return Task(name=evaluation.protocol, truth=truth, evaluation=evaluation, rules=rules)


def score(task: Task, results: str | AnyPath, bootstrap: BootstrapSettings | None) -> Scored:
    """Scores a file.

    Args:
        task: what it is held against.
        results: the file.
        bootstrap: how intervals are made, or None for none.

    Raises:
        EvaluationError: the file does not fit the annotations.
    """
    path = as_path(results)
    if task.rules is not None:
        return score_oks(
            path, task.truth, task.rules, protocol=task.name, evaluation=task.evaluation, bootstrap=bootstrap
        )
    if task.name == _POSETRACK:
        return score_posetrack(path, task.truth, bootstrap=bootstrap)
    if task.evaluation.protocol == "aic":
        return score_aic(path, task.truth, task.evaluation, bootstrap=bootstrap)
    return score_answers(path, task.truth, task.evaluation, protocol=task.name, bootstrap=bootstrap)


def num_results(task: Task, results: str | AnyPath) -> int:
    """How many results a file has, which is read as :func:`score` reads it and not judged.

    Raises:
        EvaluationError: the file does not fit the annotations.
    """
    path = as_path(results)
    if task.rules is not None:
        return num_entries(path, task.truth)
    if task.evaluation.protocol == "aic":
        predictions, num_unknown = read_aic_answers(path, task.truth)
        return len(predictions) + num_unknown
    if task.name != _POSETRACK and task.evaluation.protocol == "pckh":
        return len(read_mpii_answers(path, task.truth)[0])
    return read_all(path, task.truth).num_entries


def _skeleton(annotations: AnyPath, name: str | None) -> Skeleton:
    if name is None:
        return skeleton_of_file(annotations)
    if name.endswith((".yaml", ".yml")):
        return parse_config(read_yaml(as_path(name)), Skeleton, origin=name)
    return load_skeleton(name)


def _refuse_unjudged(evaluation: EvaluationDefinition, skeleton: Skeleton) -> None:
    problem = protocol_problem(evaluation, skeleton)
    if problem is not None:
        raise EvaluationError(problem)
