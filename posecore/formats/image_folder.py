"""A folder of images and nothing else, for pre-training: no annotation is read and no body is known."""

from collections.abc import Iterator

from posecore.errors import DatasetError
from posecore.formats.files import relative_path, source_file
from posecore.formats.reader import Source
from posecore.schema import Record, Reject

_SUFFIXES = (".jpg", ".jpeg", ".png")


class ImageFolderReader:
    """Every JPEG and PNG below the split's ``images``, in folders of any depth; the path is the image's id."""

    def read(self, source: Source) -> Iterator[Record | Reject]:
        """Yields one record without instances per image, sorted by path.

        Raises:
            DatasetError: the folder is missing, or there is no image in it.
        """
        top = source_file(source, source.images)
        names = sorted(
            path.relative_to(top).as_posix()
            for path in top.rglob("*")
            # A link to nothing or a pipe is an image that ingestion rejects with its reason, and not nothing.
            if path.name.lower().endswith(_SUFFIXES) and not path.is_dir()
        )
        if not names:
            raise DatasetError(
                f"{source.dataset} {source.split}: no file below {top} ends in {', '.join(_SUFFIXES)}; name the folder "
                "of the images as `images` of the split."
            )
        for name in names:
            yield Record(
                dataset=source.dataset,
                split=source.split,
                source_id=name,
                image=relative_path(source.images, name),
                width=0,
                height=0,
                license=source.license,
            )
