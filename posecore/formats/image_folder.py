"""A folder of images and nothing else, for pre-training: no annotation is read and no body is known."""

from collections.abc import Iterable, Iterator

from posecore.errors import DatasetError
from posecore.formats.files import relative_path, source_file
from posecore.formats.reader import ReaderOfParts, Source
from posecore.schema import Record, Reject
from posecore.storage import AnyPath

_SUFFIXES = (".jpg", ".jpeg", ".png")


class ImageFolderReader(ReaderOfParts):
    """Every JPEG and PNG below the split's ``images``, in folders of any depth; the path is the image's id."""

    def parts(self, source: Source) -> list[str]:
        """The folder's own images, under no name, and each folder in it by name.

        Raises:
            DatasetError: the folder is missing, or there is no image in it.
        """
        top = source_file(source, source.images)
        if next(_images(top.rglob("*")), None) is None:
            raise DatasetError(
                f"{source.dataset} {source.split}: no file below {top} ends in {', '.join(_SUFFIXES)}; name the folder "
                "of the images as `images` of the split."
            )
        # What a link to a folder shows is elsewhere too, or without end.
        return ["", *sorted(path.name for path in top.iterdir() if path.is_dir() and not path.is_symlink())]

    def read_part(self, source: Source, part: str) -> Iterator[Record | Reject]:
        """Yields one record without instances per image, sorted by path."""
        top = source_file(source, source.images)
        found = (top / part).rglob("*") if part else top.iterdir()
        for name in sorted(path.relative_to(top).as_posix() for path in _images(found)):
            yield Record(
                dataset=source.dataset,
                split=source.split,
                source_id=name,
                image=relative_path(source.images, name),
                width=0,
                height=0,
                license=source.license,
            )


def _images(paths: Iterable[AnyPath]) -> Iterator[AnyPath]:
    # A link to nothing or a pipe is an image that ingestion rejects with its reason, and not nothing.
    return (path for path in paths if path.name.lower().endswith(_SUFFIXES) and not path.is_dir())
