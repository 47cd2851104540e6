"""Lineage answers in words, for the command line."""

from collections.abc import Sequence

from posecore.lineage.dataset_inputs import DatasetUse
from posecore.lineage.query import LineageGraph, Sighting, Start, Trace
from posecore.lineage.versions import COST, RegisteredVersion, evaluations
from posecore.lineage.weights_use import WeightsUse

_TERMS = {True: "commercial use allowed", False: "no commercial use", None: "commercial use not stated"}


def describe_model(graph: LineageGraph, model: RegisteredVersion) -> list[str]:
    """What a version is made from, its ancestors' data included, and how it was measured."""
    lines = []
    for generation, ancestor in enumerate(graph.ancestry(model)):
        version = graph.version(ancestor)
        lines.append(f"{'made from ' if generation else ''}{ancestor.name} version {ancestor.version}")
        lines.append(f"  run {version.tags.get('run_id', 'unknown')}, git {version.tags.get('git') or 'unknown'}")
        for use in graph.uses(ancestor):
            if use.role == "training" or generation == 0:
                lines.append(
                    f"  {use.role:<10} {use.label}  {use.digest[:12]}  {use.license} ({_TERMS[use.commercial_use]})"
                )
                lines.append(f"             {use.location}")
        for start in graph.weights(ancestor):
            terms = f"{start.license} ({_TERMS[start.commercial_use]})"
            lines.append(f"  started from {start.source}  {start.digest[:12]}  {terms}")
            if start.note:
                lines.append(f"             {start.note}")
        if generation == 0:
            for result in evaluations(version):
                figures = ", ".join(f"{metric} {value:.4g}" for metric, value in result.metrics.items())
                lines.append(f"  measured   {result.name} on {result.digest[:12]}: {figures}")
            costs = [f"{tag.removeprefix(COST)} {value}" for tag, value in version.tags.items() if tag.startswith(COST)]
            if costs:
                lines.append(f"  one crop   {', '.join(sorted(costs))}")
    return lines


def describe_sightings(sightings: Sequence[Sighting | Start]) -> list[str]:
    """One line per model and split, or model and weights."""
    lines = []
    for seen in sightings:
        via = "" if seen.through == seen.model else f" through {seen.through.name} version {seen.through.version}"
        use = seen.use
        lines.append(f"{seen.model.name} version {seen.model.version}: {_what(use)} {use.label} {use.digest[:12]}{via}")
    return lines or ["no registered model"]


def _what(use: DatasetUse | WeightsUse) -> str:
    return f"{use.role} on" if isinstance(use, DatasetUse) else "started from"


def describe_trace(trace: Trace) -> list[str]:
    """The models, and where the question could not be answered."""
    return [*describe_sightings(trace.sightings), *(f"unknown: {line}" for line in trace.unread)]
