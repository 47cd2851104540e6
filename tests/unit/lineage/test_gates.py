"""Gates are pure: figures and requirements in, sentences out; nothing here needs a store."""

import re
from typing import Any

import numpy as np
import pytest

from posecore.errors import ConfigError
from posecore.evaluation.bootstrap import Estimate
from posecore.evaluation.clinical import ClinicalResult
from posecore.evaluation.uncertainty import TrustedGroup, UncertaintyResult
from posecore.lineage.ancestry.measurements import MeasuredOn, Measurement
from posecore.lineage.registry.gates import Check, Gate, Held, Requirements, check_figures
from posecore.lineage.store.tracking import RunLog, Tracking
from tests.support.clinical_cases import clinical_result

RUN = RunLog(Tracking("sqlite:////nowhere", "x", "0"), "run")


def figures(metrics: dict[str, float], clinical: ClinicalResult | None = None, **on: Any) -> Measurement:
    values = {"digest": "e" * 64, "bodies": 100, "subjects": 20, "head": "coco", "settings": {}, "boxes": None}
    found = Measurement(RUN, "coco", MeasuredOn.model_validate({**values, "code": "c" * 64, **on}), metrics)
    found.__dict__.update(clinical=clinical, uncertainty=None)  # as if the files were read
    return found


def checked(
    gate: str | dict[str, Any], candidate: Measurement, held: Measurement | None = None, **more: Any
) -> list[Check]:
    wanted = Requirements.model_validate({"gates": (gate,), **more})
    return check_figures(wanted, [candidate], None if held is None else Held(3, [held]))


def refused(checks: list[Check]) -> list[str]:
    return [check.statement for check in checks if not check.passed]


@pytest.mark.parametrize(
    ("gate", "sentence"),
    [
        ("coco/AP>=0.75", "coco/AP is 0.7, required >= 0.75."),
        ("coco/error<=2", "coco/error is 3, required <= 2."),
        ("mpii/PCKh>=90", "mpii/PCKh was not measured (measured: coco/AP, coco/AR, coco/error)."),
        ("coco/AR>=0", "coco/AR is nan, required >= 0."),
        (
            {"metric": "coco/AP", "operator": ">=", "bound": 0, "digest": "ffffffff"},
            "coco/AP was not measured on ffffffff (measured: coco/AP, coco/AR, coco/error).",
        ),
    ],
)
def test_a_bound_that_is_not_reached_is_one_sentence(gate: str | dict[str, Any], sentence: str) -> None:
    assert refused(checked(gate, figures({"AP": 0.7, "AR": float("nan"), "error": 3.0}))) == [sentence]


@pytest.mark.parametrize(
    ("gate", "held", "candidate", "passes"),
    [
        ("coco/AP>=0.5", 0.7, 0.696, True),
        ("coco/AP>=0.5", 0.7, 0.69, False),
        ("coco/AP>=0.5", 0.7, 0.9, True),
        ("coco/AP<=5", 2.0, 2.004, True),
        ("coco/AP<=5", 2.0, 2.1, False),
    ],
)
def test_regression_is_measured_in_the_gates_direction(gate: str, held: float, candidate: float, passes: bool) -> None:
    found = checked(gate, figures({"AP": candidate}), figures({"AP": held}), max_regression=0.005)
    assert (refused(found) == []) == passes
    assert len(found) == 2
    own = {**Gate.parse(gate).model_dump(), "max_regression": 1.0}
    assert refused(checked(own, figures({"AP": candidate}), figures({"AP": held}), max_regression=0.005)) == []


@pytest.mark.parametrize(
    ("on", "lacks"),
    [
        ({"digest": "f" * 64}, "was not measured on the same evaluation data (eeeeeeeeeeee)"),
        ({"code": "d" * 64}, "was not measured by the same code and settings"),
        ({"settings": {"flip_test": False}}, "was not measured by the same code and settings"),
        ({"boxes": "b" * 64}, "was not measured by the same code and settings"),
    ],
)
def test_only_figures_of_the_same_data_code_and_settings_are_compared(on: dict[str, Any], lacks: str) -> None:
    (sentence,) = refused(
        checked("coco/AP>=0.5", figures({"AP": 0.7}), figures({"AP": 0.1}, **on), max_regression=0.005)
    )
    assert sentence == f"coco/AP cannot be compared: version 3 {lacks}; measure it (--measure-holder)."


def test_one_subject_and_four_bodies_are_no_evidence() -> None:
    few = figures({"AP": 0.7}, subjects=1, bodies=4)
    assert refused(checked("coco/AP>=0.5", few, subjects=2, bodies=30)) == [
        "coco was judged on 1 subject, required at least 2.",
        "coco was judged on 4 bodies, required at least 30.",
    ]
    own = {"metric": "coco/AP", "operator": ">=", "bound": 0.5, "subjects": 0, "bodies": 4}
    assert refused(checked(own, few, subjects=2, bodies=30)) == []


def test_the_worse_end_of_an_interval_must_reach_the_bound() -> None:
    clinical = clinical_result(nearer=0.5)
    error = clinical.whole.error
    assert error.low < error.value < error.high
    judged = figures(clinical.headline(), clinical)
    assert refused(checked(f"coco/torso/error<={error.value + 1e-9}", judged)) == []
    (sentence,) = refused(checked(f"coco/torso/error<={error.value + 1e-9}", judged, interval=True))
    assert sentence.endswith("at its worse end.")
    assert refused(checked(f"coco/torso/error<={error.high + 1e-9}", judged, interval=True)) == []
    pck = clinical.whole.pck[0.2]
    assert refused(checked(f"coco/torso/PCK_0.2>={pck.low - 1e-9}", judged, interval=True)) == []
    assert len(refused(checked(f"coco/torso/PCK_0.2>={pck.value}", judged, interval=True))) == 1
    (sentence,) = refused(checked("coco/AP>=0.5", figures({"AP": 0.7}), interval=True))
    assert "with its interval, but it has none" in sentence


def test_a_bound_on_groups_is_one_on_each() -> None:
    by_view = {"coverage90": 0.9, "coverage90_low": 0.1, "coverage90/view/side": 0.95, "coverage90/view/top": 0.81}
    judged = figures(by_view)
    checks = checked("coco/coverage90/*>=0.88", judged)
    assert [check.passed for check in checks] == [True, False]
    assert refused(checks) == ["coco/coverage90/view/top is 0.81, required >= 0.88."]
    assert refused(checked("coco/coverage90/view/*>=0.8", judged)) == []
    assert refused(checked("coco/coverage90*>=0.8", judged)) == [
        "coco/coverage90_low is 0.1, required >= 0.8.",
    ]
    (sentence,) = refused(checked("coco/coverage90/posture/*>=0.88", judged))
    assert sentence.startswith("coco/coverage90/posture/* was not measured")
    before = figures({"coverage90/view/side": 0.95, "coverage90/view/top": 0.9})
    gate = {**Gate.parse("coco/coverage90/*>=0.5").model_dump(), "max_regression": 0.05}
    (sentence,) = refused(checked(gate, judged, before))
    assert sentence.startswith("coco/coverage90/view/top is 0.81, version 3 has 0.9 on the same data: 0.09 worse")


def test_the_worse_end_of_a_coverage_must_reach_the_bound() -> None:
    low, wide = Estimate(0.9, 0.87, 0.93), Estimate(0.92, 0.85, 0.97)
    whole, side = (
        TrustedGroup(name=name, points=90, units=9, coverage=of, ellipse=of, radius=4.0, visible_error=Estimate(np.nan))
        for name, of in (("all", low), ("side", wide))
    )
    told = UncertaintyResult(level=0.9, fitted_on="a b", unit="subject", whole=whole, by={"view": [side]})
    assert UncertaintyResult.from_json(told.to_json(), "x").headline() == told.headline()
    judged = figures(told.headline())
    judged.__dict__["uncertainty"] = told
    assert refused(checked("coco/coverage90*>=0.84", judged, interval=True)) != []
    assert refused(checked("coco/coverage90/*>=0.84", judged, interval=True)) == []
    (sentence,) = refused(checked("coco/coverage90>=0.88", judged, interval=True))
    assert sentence == "coco/coverage90 is 0.9 (0.87 to 0.93), required >= 0.88 at its worse end."
    (sentence,) = refused(checked("coco/coverage90/*>=0.88", judged, interval=True))
    assert sentence.startswith("coco/coverage90/view/side is 0.92 (0.85 to 0.97)")


def test_no_group_may_lose_more_than_allowed() -> None:
    near, far = clinical_result(nearer=0.5), clinical_result(nearer=0.2)
    held = figures(near.headline(), near)
    gate, allowed = "coco/torso/error<=9", {"posture": 0.01, "subject": 0.02}
    passed = checked(gate, held, held, subgroups=allowed)
    assert refused(passed) == []
    assert "coco: no subject of 9 lost more than 0.02 torso lengths." in [check.statement for check in passed]
    worse = refused(checked(gate, figures(far.headline(), far), held, subgroups=allowed))
    assert any(
        re.match(r"coco, posture Prone: error .* worse \(.* to .*\), allowed 0\.01 torso lengths\.", w) for w in worse
    )
    assert refused(checked(gate, held, figures(far.headline(), far), subgroups=allowed)) == []
    assert refused(checked(gate, held, held, subgroups={"view": 0.1})) == ["coco states no view of its bodies."]
    without = figures(near.headline(), None)
    (sentence,) = refused(checked(gate, without, held, subgroups=allowed))
    assert sentence == "groups of coco cannot be compared: it is not judged in torso lengths."
    others = clinical_result(seed=7)
    (sentence,) = refused(checked(gate, figures(others.headline(), others), held, subgroups={"posture": 0.1}))
    assert "the two results are of other bodies" in sentence


@pytest.mark.parametrize("text", ["coco/AP", "coco/AP>0.5", "coco/AP>=high", ">=0.5", "coco/AP>=1.2.3", "AP>=0.5"])
def test_a_misspelt_gate_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected set/metric>=number"):
        Gate.parse(text)
