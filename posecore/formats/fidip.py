"""FiDIP fit JSON: one file per image with the 19 points of one infant, as used to fit body models.

No box, no image size, no name of the image but the file's own: ``<name>_keypoints.json`` belongs to ``<name>.jpg``.
"""

from collections.abc import Iterator

from posecore.errors import DatasetError
from posecore.formats.coco_points import coco_flags, flat_keypoints
from posecore.formats.files import read_json, relative_path, source_file
from posecore.formats.reader import Source
from posecore.formats.values import Refusal, area_of_box, box_around, mapping
from posecore.schema import Instance, Record, Reject

_SUFFIX = "_keypoints.json"
BOX_MARGIN = 0.1
"""The box is the points' extent plus this share of its longer side all around: crown, hands and feet lie outside."""


class FidipReader:
    """Reads a folder of ``*_keypoints.json``."""

    def read(self, source: Source) -> Iterator[Record | Reject]:
        """See :class:`~posecore.formats.reader.Reader`."""
        names = sorted(path.name for path in source_file(source, source.annotations).glob(f"*{_SUFFIX}"))
        if not names:
            raise DatasetError(f"{source.dataset} {source.split}: {source.annotations} holds no *{_SUFFIX}.")
        images = {path.stem: path.name for path in sorted(source_file(source, source.images).iterdir())}
        for name in names:
            stem = name.removesuffix(_SUFFIX)
            where = relative_path(source.annotations, name)
            try:
                yield self._record(source, stem, where, images.get(stem, f"{stem}.jpg"))
            except Refusal as refusal:
                yield refusal.reject(source, where, stem)

    def _record(self, source: Source, stem: str, where: str, image: str) -> Record:
        content = mapping(read_json(source, where), "the file")
        points = coco_flags(flat_keypoints(content, "annotations", source.skeleton.num_keypoints))
        bbox = box_around(points, BOX_MARGIN)
        instance = Instance(
            id=stem,
            bbox_xywh=bbox,
            keypoints=points,
            area=area_of_box(source.area_rule, bbox[2], bbox[3]),
            area_rule=source.area_rule,
        )
        return Record(
            dataset=source.dataset,
            split=source.split,
            source_id=stem,
            image=relative_path(source.images, image),
            width=0,
            height=0,
            instances=[instance],
            license=source.license,
        )
