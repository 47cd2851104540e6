"""What a fine-tuned model forgot: every evaluation set, judged with the parent and with the child."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from posecore.errors import EvaluationError
from posecore.evaluation.protocols import metric_class


@dataclass(frozen=True, kw_only=True)
class Change:
    """One evaluation set under two models.

    Attributes:
        eval_set: its name.
        metric: the primary metric of its protocol.
        parent: the parent's value, None if it was not judged on this set (it may lack the head).
        child: the child's value, likewise.
        gain: child - parent, turned so that positive is better; None if one is missing.
    """

    eval_set: str
    metric: str
    parent: float | None
    child: float | None
    gain: float | None


def forgetting_table(
    parent: Mapping[str, Mapping[str, float]],
    child: Mapping[str, Mapping[str, float]],
    protocols: Mapping[str, str],
) -> list[Change]:
    """One row per evaluation set of either model, by name.

    Args:
        parent: evaluation set → metrics of the parent.
        child: evaluation set → metrics of the child, on the same data.
        protocols: evaluation set → name of its protocol.

    Raises:
        EvaluationError: a set has no protocol, or metrics lack the protocol's primary one.
    """
    rows: list[Change] = []
    for eval_set in sorted(set(parent) | set(child)):
        if eval_set not in protocols:
            raise EvaluationError(f"evaluation set {eval_set!r} has no protocol; name it beside its metrics.")
        protocol = metric_class(protocols[eval_set])
        before, after = (_primary(model.get(eval_set), protocol.primary, eval_set) for model in (parent, child))
        gain = None
        if before is not None and after is not None:
            gain = after - before if protocol.higher_is_better else before - after
        rows.append(Change(eval_set=eval_set, metric=protocol.primary, parent=before, child=after, gain=gain))
    return rows


def as_markdown(rows: Sequence[Change]) -> str:
    """The table for a terminal, a README or a model card."""
    lines = ["| evaluation set | metric | parent | child | gain |", "|---|---|--:|--:|--:|"]
    for row in rows:
        values = [f"{value:.4f}" if value is not None else "–" for value in (row.parent, row.child)]
        gain = f"{row.gain:+.4f}" if row.gain is not None else "–"
        lines.append(f"| {row.eval_set} | {row.metric} | {values[0]} | {values[1]} | {gain} |")
    return "\n".join(lines) + "\n"


def _primary(metrics: Mapping[str, float] | None, name: str, eval_set: str) -> float | None:
    if metrics is None:
        return None
    if name not in metrics:
        raise EvaluationError(f"metrics of {eval_set!r} lack {name}; they hold {', '.join(sorted(metrics))}.")
    return metrics[name]
