"""Rejects, as stages make them."""

from dataclasses import replace

from posecore.schema import Instance, Record, Reject


def reject_image(record: Record, reason: str, detail: str) -> Reject:
    """A reject of a whole image."""
    return Reject(
        reason=reason,
        detail=detail,
        dataset=record.dataset,
        split=record.split,
        source=record.image,
        source_id=record.source_id,
    )


def reject_instance(record: Record, instance: Instance, reason: str, detail: str) -> Reject:
    """A reject of one instance."""
    return replace(reject_image(record, reason, detail), instance_id=instance.id)
