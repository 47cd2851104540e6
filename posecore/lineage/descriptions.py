"""Lineage answers in words, for the command line."""

from collections.abc import Sequence

from posecore.counting import counted
from posecore.lineage.ancestry.graph import Node
from posecore.lineage.ancestry.permissions import verdicts
from posecore.lineage.ancestry.query import Answer, LineageGraph, Sighting
from posecore.lineage.versions.dataset_inputs import DatasetUse
from posecore.lineage.versions.tags import COST, EVALUATION, EvaluationResult, RegisteredVersion
from posecore.lineage.versions.weights_use import WeightsUse
from posecore.lineage.withdrawal.certificate import Certificate
from posecore.lineage.withdrawal.execution import Done, WithdrawalPolicy
from posecore.lineage.withdrawal.plan import WithdrawalPlan


def describe_model(graph: LineageGraph, model: RegisteredVersion) -> tuple[list[str], bool]:
    """What a version is made from, its ancestors' data included, how it was measured, and whether that is all.

    Raises:
        QuestionError: there is no such version.
    """
    own = graph.version_node(model)
    behind = graph.behind(model)
    lines: list[str] = []
    for weights in (node for node in behind if node.kind == "weights"):
        first = weights == graph.weights_node(model)
        lines += _describe_weights(graph, own, weights, first=first)
        lines += _figures(graph, own) if first else []
    for verdict in verdicts(graph, graph.weights_node(model)):
        lines.append(f"may be used for {verdict.use}: {verdict.word}")
        lines += [f"             {why}" for why in verdict.reasons]
    unknown = [why for node, why in graph.unknown_origins().items() if node in behind]
    unknown += [line for line in graph.unreadable if model.uri in line or graph.name(own) in line]
    return [*lines, *(f"unknown: {why}" for why in unknown)], not unknown


def _describe_weights(graph: LineageGraph, own: Node, weights: Node, *, first: bool) -> list[str]:
    versions = [own] if first else graph.registered_as(weights)
    name = graph.name(versions[0] if versions else weights)
    lines = [name if first else f"made from {name}"]
    for version in versions[:1]:
        record = graph.versions[version]
        lines.append(f"  run {record.run_id or 'unknown'}, git {record.tags.get('git') or 'unknown'}")
    uses = graph.uses_of(weights)
    if first:
        uses = [*uses, *(use for use in graph.versions[own].uses if use.role == "evaluation")]
    for use in uses:
        lines.append(f"  {use.role:<10} {use.label}  {use.digest[:12]}  {use.license}")
        lines += [f"             {use.location}"] if use.location else []
    origin = graph.origins.get(weights)
    if origin is not None:
        lines.append(f"  known as   {origin.source}  {origin.digest[:12]}  {origin.license}")
        lines += [f"             {origin.note}"] if origin.note else []
    return lines


def _figures(graph: LineageGraph, own: Node) -> list[str]:
    lines = []
    tags = graph.versions[own].tags
    for key, value in sorted(tags.items()):
        if key.startswith(EVALUATION):
            try:
                result = EvaluationResult.model_validate_json(value)
            except ValueError:
                lines.append(f"  measured   {key}: not as we write it")
                continue
            figures = ", ".join(f"{metric} {number:.4g}" for metric, number in result.metrics.items())
            lines.append(f"  measured   {result.name} on {result.digest[:12]}: {figures}")
    costs = [f"{tag.removeprefix(COST)} {value}" for tag, value in tags.items() if tag.startswith(COST)]
    return [*lines, *([f"  one crop   {', '.join(sorted(costs))}"] if costs else [])]


def describe_sightings(graph: LineageGraph, sightings: Sequence[Sighting]) -> list[str]:
    """One line per model, with the nearest way to it."""
    lines = []
    for seen in sightings:
        through = graph.name(seen.through)
        via = "" if through == graph.name(seen.model) else f" through {through}"
        lines.append(f"{graph.name(seen.model)}: {_what(graph, seen)}{via}")
    return lines or ["no model"]


def _what(graph: LineageGraph, seen: Sighting) -> str:
    start = seen.start
    if isinstance(seen.use, WeightsUse):
        return f"came from {seen.use.source} {seen.use.digest[:12]}"
    if isinstance(seen.use, DatasetUse):
        way = seen.reached[seen.model]
        judged = way is not None and way.relation == "judged on"
        return f"{'judged' if judged else 'training'} on {seen.use.label} {start.key[:12]}"
    return f"came out of {graph.name(start)}"


def describe_answer(graph: LineageGraph, answer: Answer) -> list[str]:
    """The models, why there may be more, and what is taken on trust."""
    return [
        *describe_sightings(graph, answer.sightings),
        *(f"unknown: {line}" for line in answer.unknown),
        *(f"on trust: {line}" for line in answer.on_trust),
    ]


def describe_plan(graph: LineageGraph, plan: WithdrawalPlan, policy: WithdrawalPolicy) -> list[str]:
    """Everything a withdrawal concerns, with what will become of it, and what must be made again."""
    where = ", ".join(f"{graph.name(edition.split)} ({rows.num_rows})" for edition, rows in plan.found.editions)
    lines = [f"{plan.name}: {len(plan.found.digests)} digests of pictures in {where or 'no edition that can be read'}"]
    whole = {edition.split for edition, _ in plan.found.editions if plan.is_whole(edition)}
    for item in plan.items:
        made_anew = item.kind in ("shard", "table") and item.node not in whole
        fate = "is made anew" if made_anew else "goes" if item.node in whole or policy.deletes(item) else "stays"
        relation = "holds" if item.holds else "descends"
        lines.append(f"  {relation:<8} {item.kind:<16} {item.size_bytes:>12,} B  {fate:<12} {item.place}")
    for (model, alias), node in plan.aliases.items():
        lines.append(f"  alias    {model}@{alias} is {graph.name(node)}, and moves")
    lines += [f"  version  {graph.name(node)} is marked" for node in plan.versions]
    for step in plan.again:
        seconds = "was never finished" if step.seconds is None else f"took {step.seconds:,.1f} s"
        lines.append(f"  again    {step.step} of {step.folder or 'an unknown folder'}, which {seconds}")
    for cut in plan.shortcuts:
        start = "nothing it came from is clean" if cut.ancestor is None else f"start from {graph.name(cut.ancestor)}"
        lines.append(
            f"  cheapest in the place of {graph.name(cut.version)}: {start}, about {cut.seconds:,.1f} s; everything "
            f"behind it took {cut.whole_seconds:,.1f} s"
        )
    return [*lines, "weights are not made to forget: affected models must be trained again"] + [
        f"unknown: {line}" for line in plan.unknown
    ]


def describe_done(done: Done) -> list[str]:
    """What a withdrawal did, and what it could not do."""
    return [
        *(f"moved    {line}" for line in done.moved),
        *(f"marked   {line}" for line in done.marked),
        *(f"ingested {place}: {digest}" for place, digest in done.ingested.items()),
        *(f"deleted  {place}" for place in done.deleted),
        *(f"kept     {place}" for place in done.kept),
        *(f"FAILED   {line}" for line in done.failed),
        f"recorded in run {done.run_id}",
    ]


def describe_certificate(found: Certificate) -> list[str]:
    """The verdict, with its proof or what it lacks."""
    verb = {"never saw": "has never seen", "saw": "has seen", "not provable": "cannot be proven never to have seen"}
    return [
        f"{found.model} {verb[found.verdict]} {found.asked} (weights {found.weights[:12] or 'unknown'})",
        *(f"  {step}" for step in found.path),
        *(
            f"  not in {entry['split']} {entry['edition'][:12]}, {counted(entry['pictures'], 'picture')}"
            for entry in found.proof
        ),
        *(f"  because {line}" for line in found.missing),
        *(f"  trusted: {line}" for line in found.trusted),
    ]
