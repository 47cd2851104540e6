"""What a shard can hold: pictures of 8 bits per value, which is what models see, and regions that can be drawn."""

from collections.abc import Iterable, Iterator

from posecore.formats.segmentations import check_regions
from posecore.formats.values import Refusal
from posecore.image_header import bits_per_sample
from posecore.ingest.fetch import Examined
from posecore.ingest.job import IMAGE_STAGE
from posecore.ingest.tally import Tally
from posecore.schema import Segmentation
from posecore.stages.rejects import reject_image


def usable(samples: Iterable[Examined], tally: Tally) -> Iterator[Examined]:
    """The samples that can be written, in order; the others are counted as rejects of the image."""
    for sample in samples:
        record, image = sample.record, sample.image
        regions = [body.segmentation for body in record.instances]
        why = why_unusable(record.image, image.data, regions, (image.height, image.width))
        if why is None:
            yield sample
        else:
            tally.reject_image(IMAGE_STAGE, reject_image(record, *why), record)


def why_unusable(
    name: str, data: bytes, regions: Iterable[Segmentation | None], size: tuple[int, int]
) -> tuple[str, str] | None:
    """Why a sample cannot be written: reason and detail of a reject; None if it can.

    Args:
        name: of the image.
        data: its bytes.
        regions: of its bodies.
        size: height, width of the picture.
    """
    if bits_per_sample(data) > 8:
        return "not-8-bit", (
            f"{name} has 16 bits per value, and models see 8; say what is black and what is white by the stage "
            "scale_range (posecore datasets check names the range)."
        )
    try:
        check_regions(regions, *size)
    except (Refusal, TypeError) as error:
        return "bad-segmentation", f"a segmentation cannot be drawn ({error})."
    return None
