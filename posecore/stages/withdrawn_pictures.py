"""A stage that takes out listed pictures, by what is in them and not by their names."""

from typing import ClassVar

from posecore.schema import Reject
from posecore.shards.digests import known_digests
from posecore.stages.protocol import ImageStage, Picture
from posecore.stages.rejects import reject_image


class DropPictures(ImageStage):
    """Takes out pictures by digest (``picture-listed``), under whatever name they come; reads every picture for it.

    Attributes:
        pictures: digest of a picture, or of the file that an earlier stage made it from, to the reason.
    """

    may_lose: ClassVar[bool] = True

    pictures: dict[str, str]

    def __call__(self, picture: Picture) -> Picture | Reject:
        """Returns the picture, or its reject if it is listed."""
        for digest in (*known_digests(picture.data), picture.record.source_digest):
            if digest in self.pictures:
                reason = self.pictures[digest]
                return reject_image(picture.record, "picture-listed", f"it is among those to take out: {reason}.")
        return picture
