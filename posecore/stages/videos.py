"""A stage that takes pictures out of videos."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Literal

from pydantic import Field

from posecore.schema import Record, Reject
from posecore.stages.extras import VIDEO
from posecore.stages.pixels import encoded
from posecore.stages.protocol import Picture, SourceStage
from posecore.stages.rejects import reject_image
from posecore.storage import AnyPath
from posecore.videos.address import FrameAddress, parse_frame_address
from posecore.videos.frames import VideoError, VideoFacts, VideoFrame, open_video


class VideoFrames(SourceStage):
    """Takes the frames out of videos that records name, to the frame: ``film.mp4#frame=12``, ``film.mp4#t=1.5``.

    Frames are counted from 0 in the order of presentation; at a time, the frame is taken that is on the screen then. So
    a video of any and of varying rate gives the same pictures everywhere. They are turned as players turn them. The
    number, the time and the mean rate of frames go into the extras of the image, the number into ``frame_index`` where
    none is stated.

    Attributes:
        format: ``jpeg`` or ``png`` of the pictures that are stored.
        quality: of JPEG files, from 1 to 100.
    """

    format: Literal["jpeg", "png"] = "jpeg"
    quality: int = Field(default=95, ge=1, le=100)

    def source_file(self, image: str) -> str | None:
        """The video, where the image is a frame of one."""
        address = parse_frame_address(image)
        return None if address is None else address.video

    def __call__(self, root: AnyPath, records: Sequence[Record], max_pixels: int) -> Iterator[Picture | Reject]:
        """Yields the frame of each record."""
        for video, of_one in groupby(records, key=lambda record: self.source_file(record.image)):
            assert video is not None, records
            yield from self._of_one(root / video, list(of_one), max_pixels)

    def _of_one(self, path: AnyPath, records: list[Record], max_pixels: int) -> Iterator[Picture | Reject]:
        wanted = [parse_frame_address(record.image) or FrameAddress("") for record in records]
        decoded: dict[int, Picture | Reject] = {}
        due = 0
        try:
            with open_video(path, wanted, max_pixels) as (facts, frames):
                for place, frame in frames:  # in the order of presentation, which the records need not have
                    decoded[place] = self._answer(records[place], facts, frame)
                    while due in decoded:
                        yield decoded.pop(due)
                        due += 1
        except VideoError as error:
            for place in range(due, len(records)):
                yield decoded.get(place) or reject_image(records[place], error.reason, error.detail)

    def _answer(self, record: Record, facts: VideoFacts, frame: VideoFrame | VideoError) -> Picture | Reject:
        if isinstance(frame, VideoError):
            return reject_image(record, frame.reason, frame.detail)
        height, width = frame.pixels.shape[:2]
        if (record.width and record.width != width) or (record.height and record.height != height):
            stated = f"{record.width}x{record.height}"
            detail = f"{record.image} is {width}x{height} pixels, the annotation says {stated}."
            return reject_image(record, "size-mismatch", detail)
        number = frame.number if record.frame_index is None else record.frame_index
        told = {"frame": frame.number, "time_s": frame.time_s, "fps": facts.fps}
        described = replace(
            record, width=width, height=height, frame_index=number, extras={**record.extras, VIDEO: told}
        )
        return Picture(data=encoded(frame.pixels, self.format, self.quality), record=described)
