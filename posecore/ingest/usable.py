"""What a shard can hold: pictures of 8 bits per value, which is what models see, and regions that can be drawn."""

from collections.abc import Iterable, Iterator

from posecore.formats.segmentations import check_regions
from posecore.formats.values import Refusal
from posecore.image_header import bits_per_sample
from posecore.ingest.fetch import Examined
from posecore.ingest.job import IMAGE_STAGE
from posecore.ingest.tally import Tally
from posecore.schema import Record
from posecore.stages.rejects import reject_image


def usable(samples: Iterable[Examined], tally: Tally) -> Iterator[Examined]:
    """The samples that can be written, in order; the others are counted as rejects of the image."""
    for sample in samples:
        problem = _problem(sample.record, sample.image.data)
        if problem is None:
            yield sample
        else:
            tally.reject_image(IMAGE_STAGE, reject_image(sample.record, *problem), sample.record)


def _problem(record: Record, data: bytes) -> tuple[str, str] | None:
    if bits_per_sample(data) > 8:
        return "not-8-bit", (
            f"{record.image} has 16 bits per value, and models see 8; say what is black and what is white by the stage "
            "scale_range (posecore datasets check names the range)."
        )
    try:
        check_regions(record)
    except (Refusal, TypeError) as error:
        return "bad-segmentation", f"a segmentation cannot be drawn ({error})."
    return None
