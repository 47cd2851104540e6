"""What a version must show before an alias moves to it: bounds, evidence, regressions, compared with measured figures.

Nothing is read here: figures come from :mod:`posecore.lineage.ancestry.measurements`, requirements from a policy or a
run file.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import numpy as np
from pydantic import BeforeValidator, Field

from posecore.config import Config, Extension
from posecore.counting import counted
from posecore.doors import Door
from posecore.errors import ConfigError, EvaluationError
from posecore.evaluation.bootstrap import Estimate
from posecore.evaluation.clinical_comparison import GroupChange, compare_clinic
from posecore.lineage.ancestry.measurements import Measurement
from posecore.lineage.ancestry.permissions import Permission
from posecore.lineage.ancestry.terms import UseClass

Trait: TypeAlias = Literal["keypoint", "view", "posture", "subject"]
"""What divides a set that is judged for clinics into groups."""

_GATE = re.compile(r"^\s*(?P<metric>\S+?)\s*(?P<operator>>=|<=)\s*(?P<bound>[-+.\deE]+)\s*$")
_NAMED_GROUPS = 5


class Condition(Extension):
    """The protocol of gates: something that a version must show."""

    @property
    def sets(self) -> frozenset[str]:
        """Names of the evaluation sets that it is about, which then count as gated."""
        return frozenset()

    def concerns(self, measured: Measurement) -> bool:
        """Whether it looks at what was measured, which is then measured of the alias's holder as well."""
        return measured.name in self.sets

    def compares(self, wanted: "Requirements") -> bool:
        """Whether it asks for figures of the alias's holder."""
        return False

    def check(self, wanted: "Requirements", figures: Sequence[Measurement], held: "Held | None") -> Iterator["Check"]:
        """What it says of a candidate, in at least one line.

        Args:
            wanted: whatever else is required.
            figures: of the candidate, one per evaluation set and digest.
            held: who has the alias; None where nobody has it, or nothing is to be compared.
        """
        raise NotImplementedError(f"{type(self).__name__} has to check something")


class Gate(Condition):
    """A bound on one metric, which also says which way is better.

    Attributes:
        kind: names this gate; where none is named it is this.
        metric: ``set/metric``, such as ``coco/AP``; a ``*`` stands for anything, and every metric that fits is bound:
            ``coco/coverage90/*`` are all groups of which there is a coverage.
        operator: ``>=`` where more is better, ``<=`` where less is.
        bound: the value to reach.
        digest: of the evaluation set, at least 8 digits; None takes every set of the name that was judged.
        max_regression: how much worse than the alias's holder the candidate may be, in the metric's own unit, on the
            same evaluation data; None takes that of all gates.
        subjects: people or animals the figure must rest on at least; None takes that of all gates.
        bodies: labelled bodies, likewise.
        interval: whether the worse end of the interval must reach the bound, and not the value alone; None likewise.
    """

    kind: Literal["bound"] = "bound"
    metric: str = Field(pattern=r"^[^/\s]+/\S+$")
    operator: Literal[">=", "<="]
    bound: float
    digest: str | None = Field(default=None, pattern=r"^[0-9a-f]{8,64}$")
    max_regression: float | None = None
    subjects: int | None = Field(default=None, ge=0)
    bodies: int | None = Field(default=None, ge=0)
    interval: bool | None = None

    @classmethod
    def parse(cls, text: str) -> "Gate":
        """Reads ``coco/AP>=0.6``.

        Raises:
            ConfigError: the text has another form.
        """
        match = _GATE.match(text)
        try:
            bound = float(match["bound"]) if match else None
        except ValueError:
            bound = None
        if match is None or bound is None or "/" not in match["metric"]:
            raise ConfigError(f"gate {text!r}: expected set/metric>=number or set/metric<=number, like coco/AP>=0.6.")
        operator: Literal[">=", "<="] = ">=" if match["operator"] == ">=" else "<="
        return cls(metric=match["metric"], operator=operator, bound=bound)

    @property
    def set_and_metric(self) -> tuple[str, str]:
        """Name of the evaluation set, and of the metric on it."""
        name, _, metric = self.metric.partition("/")
        return name, metric

    @property
    def sets(self) -> frozenset[str]:
        """The one that its metric begins with."""
        return frozenset({self.set_and_metric[0]})

    def compares(self, wanted: "Requirements") -> bool:
        """Whether it, or all gates, state a largest regression."""
        return wanted.margin(self) is not None

    def check(self, wanted: "Requirements", figures: Sequence[Measurement], held: "Held | None") -> Iterator["Check"]:
        """The bound, what it rests on, and the regression, for everything that was measured of that name."""
        found = [measured for measured in figures if self.concerns(measured)]
        if not found:
            known = sorted(f"{each.name}/{metric}" for each in figures for metric in each.metrics)
            said = ", ".join(dict.fromkeys(known)) or "none"
            of = "" if self.digest is None else f" on {self.digest[:12]}"
            yield Check(passed=False, statement=f"{self.metric} was not measured{of} (measured: {said}).")
        for measured in found:
            of_each = list(self._one_by_one(measured))
            yield from (_bound(wanted, one, measured) for one in of_each)
            yield from _evidence(wanted, self, measured)
            if held is not None and (margin := wanted.margin(self)) is not None:
                yield from (_regression(one, margin, measured, held) for one in of_each)

    def holds(self, value: float) -> bool:
        """Whether a value reaches the bound; NaN does not."""
        return value >= self.bound if self.operator == ">=" else value <= self.bound

    def regression(self, value: float, holder: float) -> float:
        """By how much ``value`` is worse than ``holder``; negative if better."""
        return holder - value if self.operator == ">=" else value - holder

    def concerns(self, measured: Measurement) -> bool:
        """Whether it is about what was measured."""
        fits = self.digest is None or measured.digest.startswith(self.digest)
        return measured.name == self.set_and_metric[0] and fits and any(self._one_by_one(measured))

    def _one_by_one(self, measured: Measurement) -> "Iterator[Gate]":
        """The same bound on each metric that it is about."""
        name, metric = self.set_and_metric
        form = re.compile(".*".join(map(re.escape, metric.split("*"))))
        for fits in filter(form.fullmatch, measured.metrics):
            yield self.model_copy(update={"metric": f"{name}/{fits}"})


GateConfig: TypeAlias = Annotated[Gate | Condition, Door("gate", "posecore.gates", default="bound")]
"""Every gate there is, and whoever comes by; a bound where none is named."""


def _gate_from_text(value: object) -> object:
    return Gate.parse(value) if isinstance(value, str) else value


class Requirements(Config):
    """What a version must show.

    Attributes:
        gates: bounds, a string such as ``coco/AP>=0.6`` or all fields; or conditions of one's own by ``kind``.
        max_regression: for gates that state none of their own; None does not compare with the holder.
        subgroups: ``view``, ``posture``, ``subject`` or ``keypoint`` → how much the mean error of any such group may
            exceed the holder's, in torso lengths, on every gated set that is judged for clinics.
        subjects: people or animals that a gated figure must rest on at least.
        bodies: labelled bodies, likewise.
        interval: the worse end of the interval must reach each bound; only figures in torso lengths and coverages have
            one.
        use: what everything that the model came from must allow.
        stated: permissions beyond the licences' texts.
        no_leaked_pairs: nothing that the model learned from may share pictures, subjects or videos with a gated set.
    """

    gates: tuple[Annotated[GateConfig, BeforeValidator(_gate_from_text)], ...] = ()
    max_regression: float | None = None
    subgroups: Mapping[Trait, float] = Field(default_factory=dict)
    subjects: int = Field(default=0, ge=0)
    bodies: int = Field(default=0, ge=0)
    interval: bool = False
    use: tuple[UseClass, ...] = ()
    stated: tuple[Permission, ...] = ()
    no_leaked_pairs: bool = False

    @property
    def compares(self) -> bool:
        """Whether the holder's figures matter."""
        return bool(self.subgroups) or any(gate.compares(self) for gate in self.gates)

    def margin(self, gate: Gate) -> float | None:
        """The regression that a gate allows."""
        return self.max_regression if gate.max_regression is None else gate.max_regression


class Check(Config):
    """One line of the gate report.

    Attributes:
        passed: whether it allows the promotion.
        statement: what was compared with what, as a sentence.
    """

    passed: bool
    statement: str


@dataclass(frozen=True, slots=True)
class Held:
    """The version that has the alias.

    Attributes:
        version: its number.
        figures: of it.
    """

    version: int
    figures: Sequence[Measurement]


def check_figures(wanted: Requirements, figures: Sequence[Measurement], held: Held | None) -> list[Check]:
    """Compares a candidate's figures with the bounds and with the alias's holder.

    Args:
        wanted: what is required.
        figures: of the candidate, one per evaluation set and digest.
        held: who has the alias; None where nobody has it, or nothing is to be compared.
    """
    checks = [check for gate in wanted.gates for check in gate.check(wanted, figures, held)]
    if held is not None and wanted.subgroups:
        gated = {name for gate in wanted.gates for name in gate.sets}
        for measured in figures:
            if measured.name in gated:
                checks += _subgroups(wanted, measured, held)
    return checks


def alike(measured: Measurement, figures: Sequence[Measurement]) -> Measurement | None:
    """The measurement of another model on the same data by the same code under the same settings, or None."""
    return next((each for each in figures if each.comparable_with(measured)), None)


def _bound(wanted: Requirements, gate: Gate, measured: Measurement) -> Check:
    _, metric = gate.set_and_metric
    value = measured.metrics[metric]
    said = f"{gate.metric} is {value:.6g}, required {gate.operator} {gate.bound:g}"
    if not (wanted.interval if gate.interval is None else gate.interval):
        return Check(passed=gate.holds(value), statement=f"{said}.")
    found = interval(measured, metric)
    if found is None or not np.isfinite([found.low, found.high]).all():
        return Check(passed=False, statement=f"{said} with its interval, but it has none.")
    worse = found.low if gate.operator == ">=" else found.high
    reaches = f"required {gate.operator} {gate.bound:g} at its worse end"
    statement = f"{gate.metric} is {value:.6g} ({found.low:.6g} to {found.high:.6g}), {reaches}."
    return Check(passed=gate.holds(worse), statement=statement)


def interval(measured: Measurement, metric: str) -> Estimate | None:
    """The estimate behind a metric in torso lengths or of how sure a model is, or None."""
    if measured.uncertainty is not None and (found := measured.uncertainty.estimate(metric)) is not None:
        return found
    clinical, name = measured.clinical, metric.removeprefix("torso/")
    if clinical is None or name == metric:
        return None
    known = {
        "error": clinical.whole.error,
        "error_over_subjects": clinical.mean_over_subjects,
        "missed": clinical.whole.missed,
        "ECE": clinical.calibration.expected_error,
        "overconfidence": clinical.calibration.surplus,
        **{f"PCK_{limit:g}": pck for limit, pck in clinical.whole.pck.items()},
    }
    return known.get(name)


def _evidence(wanted: Requirements, gate: Gate, measured: Measurement) -> Iterator[Check]:
    for noun, number, own, of_all in (
        ("subject", measured.subjects, gate.subjects, wanted.subjects),
        ("body", measured.bodies, gate.bodies, wanted.bodies),
    ):
        least = of_all if own is None else own
        if least:
            statement = f"{measured.name} was judged on {counted(number, noun)}, required at least {least:,}."
            yield Check(passed=number >= least, statement=statement)


def _regression(gate: Gate, margin: float, measured: Measurement, held: Held) -> Check:
    other = alike(measured, [each for each in held.figures if gate.concerns(each)])
    if other is None:
        return Check(passed=False, statement=_incomparable(gate.metric, measured, held))
    _, metric = gate.set_and_metric
    own, its = measured.metrics[metric], other.metrics[metric]
    worse = gate.regression(own, its)
    statement = (
        f"{gate.metric} is {own:.6g}, version {held.version} has {its:.6g} on the same data: {abs(worse):.6g} "
        f"{'worse' if worse > 0 else 'better or equal'}, allowed regression {margin:g}."
    )
    return Check(passed=worse <= margin, statement=statement)


def _incomparable(what: str, measured: Measurement, held: Held) -> str:
    same = [each for each in held.figures if each.name == measured.name and each.digest == measured.digest]
    lacks = "by the same code and settings" if same else f"on the same evaluation data ({measured.digest[:12]})"
    return f"{what} cannot be compared: version {held.version} was not measured {lacks}; measure it (--measure-holder)."


def _subgroups(wanted: Requirements, measured: Measurement, held: Held) -> Iterator[Check]:
    other = alike(measured, held.figures)
    if other is None:
        yield Check(passed=False, statement=_incomparable(f"groups of {measured.name}", measured, held))
        return
    before, after = other.clinical, measured.clinical
    if before is None or after is None:
        statement = f"groups of {measured.name} cannot be compared: it is not judged in torso lengths."
        yield Check(passed=False, statement=statement)
        return
    try:
        compared = compare_clinic(before, after)
    except EvaluationError as error:
        yield Check(passed=False, statement=f"groups of {measured.name} cannot be compared: {error}")
        return
    for trait, margin in wanted.subgroups.items():
        groups = compared.by.get(trait)
        if groups is None:
            yield Check(passed=False, statement=f"{measured.name} states no {trait} of its bodies.")
            continue
        worse = sorted((group for group in groups if _lost(group) > margin), key=_lost, reverse=True)
        if not worse:
            statement = f"{measured.name}: no {trait} of {len(groups)} lost more than {margin:g} torso lengths."
            yield Check(passed=True, statement=statement)
        for group in worse[:_NAMED_GROUPS]:
            change = group.error
            statement = (
                f"{measured.name}, {trait} {group.child.name}: error {group.child.error.value:.6g}, version "
                f"{held.version} has {group.parent.error.value:.6g}: {change.value:.6g} worse ({change.low:.6g} to "
                f"{change.high:.6g}), allowed {margin:g} torso lengths."
            )
            yield Check(passed=False, statement=statement)


def _lost(group: GroupChange) -> float:
    """By how much the error rose; where only one of the two found anything at all, endlessly, or not."""
    before, after = np.isfinite(group.parent.error.value), np.isfinite(group.child.error.value)
    if before != after:
        return np.inf if before else -np.inf
    return group.error.value if before else -np.inf
