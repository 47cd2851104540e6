"""Image stages on drawn and on real pictures: pixels against Pillow and OpenCV, annotations against pixels."""

import io
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask

from posecore.datasets.discovery import load_dataset, read_split
from posecore.errors import IngestError
from posecore.image_header import image_size
from posecore.ingest.purity import assert_stage_is_pure
from posecore.ingest.run import ingest
from posecore.schema import DepthImage, Record
from posecore.shards.store import open_store
from posecore.skeletons.skeleton import Keypoint, Skeleton
from posecore.stages.load import load_stages
from posecore.stages.orientation import exif_orientation
from posecore.stages.protocol import Picture
from tests.support.small_split import definition, instance, job, records

BODY = Skeleton(
    name="face",
    keypoints=(
        Keypoint(name="nose", union="nose"),
        Keypoint(name="left_eye", union="left_eye", flip="right_eye"),
        Keypoint(name="right_eye", union="right_eye", flip="left_eye"),
        Keypoint(name="left_hand", union="test_left", flip="right_hand"),
        Keypoint(name="right_hand", union="test_right", flip="left_hand"),
    ),
)
H, W = 37, 53
BOX = (9, 4, 21, 13)
POINTS = [[12, 6, 2], [10, 5, 2], [16, 5, 1], [29, 16, 2], [0, 0, 0]]


def stage(name, skeleton=BODY, **options):
    (loaded,) = load_stages(definition(stages=[{"stage": name, "options": options}], skeleton=skeleton))
    return loaded


def rle(mask):
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": packed["counts"].decode()}


def drawn(kind="png", pixels=None, depth=None) -> Picture:
    """A picture of noise with one body, whose mask is its box as a polygon, and one whose mask is an RLE."""
    if pixels is None:
        pixels = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)
    x, y, w, h = BOX
    mask = np.zeros(pixels.shape[:2], np.uint8)
    mask[y : y + h, x : x + w] = 1
    bodies = [
        instance(
            name,
            bbox_xywh=tuple(map(float, BOX)),
            keypoints=np.array(POINTS, np.float32),
            absent=(4,),
            center=(12.0, 6.0),
            scale=(21.0, 13.0),
            head_bbox_xyxy=(9.0, 4.0, 18.0, 8.0),
            segmentation=segmentation,
        )
        for name, segmentation in (
            ("a", [[float(v) for v in (x, y, x + w, y, x + w, y + h, x, y + h)]]),
            ("b", rle(mask)),
        )
    ]
    height, width = pixels.shape[:2]
    return Picture(
        data=cv2.imencode(f".{kind}", pixels)[1].tobytes(),
        depth=None if depth is None else cv2.imencode(".png", depth)[1].tobytes(),
        record=Record(
            dataset="tiny",
            split="train",
            source_id="1",
            image="1.png",
            width=width,
            height=height,
            instances=bodies,
            depth=None if depth is None else DepthImage(image="d.png", metres_per_unit=0.001),
        ),
    )


def pixels_of(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def with_exif(data: bytes, orientation: int) -> bytes:
    """The same picture, written by Pillow with an orientation."""
    image = Image.open(io.BytesIO(data))
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, image.format, exif=exif, **({"quality": 95} if image.format == "JPEG" else {}))
    return file.getvalue()


def shown(data: bytes) -> np.ndarray:
    """The pixels that Pillow shows, in OpenCV's order of channels."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))[..., ::-1]


def masks_of(record):
    for body in record.instances:
        segmentation = body.segmentation
        if isinstance(segmentation, list):
            segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, record.height, record.width))
        yield coco_mask.decode(segmentation)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orient_shows_what_pillow_and_opencv_show_and_annotations_go_along(orientation):
    depth = np.arange(H * W, dtype=np.uint16).reshape(H, W)
    given = drawn(depth=depth)
    given = replace(given, data=with_exif(given.data, orientation))
    assert exif_orientation(given.data) == orientation
    turned = stage("orient").work(given)
    if orientation == 1:
        assert turned is given
        return
    wanted = shown(given.data)
    np.testing.assert_array_equal(pixels_of(turned.data), wanted)
    jpeg = with_exif(drawn("jpg").data, orientation)
    assert exif_orientation(jpeg) == orientation
    by_opencv = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert by_opencv.shape == wanted.shape
    assert np.abs(by_opencv.astype(int) - pixels_of(stage("orient").work(replace(given, data=jpeg)).data)).mean() < 8
    assert exif_orientation(turned.data) == 1
    assert (turned.record.height, turned.record.width) == wanted.shape[:2]

    # Every pixel of the depth picture has a value of its own, so it says where each place went.
    moved_depth = pixels_of(turned.depth)
    body = turned.record.instances[0]
    mirrored = orientation in (2, 4, 5, 7)
    order = BODY.flip_indices if mirrored else np.arange(5)
    for before, after in zip(np.array(POINTS)[order], body.keypoints, strict=True):
        assert after[2] == before[2]
        if before[2]:
            x, y = after[:2].astype(int)
            assert moved_depth[y, x] == depth[before[1], before[0]]
        else:
            assert after.tolist() == [0, 0, 0]
    assert body.absent == ((3,) if mirrored else (4,))
    assert moved_depth[int(body.center[1]), int(body.center[0])] == depth[6, 12]
    assert body.scale == ((13.0, 21.0) if orientation > 4 else (21.0, 13.0))
    x, y, w, h = map(int, body.bbox_xywh)
    in_box = np.zeros(wanted.shape[:2], np.uint8)
    in_box[y : y + h, x : x + w] = 1
    assert set(moved_depth[in_box > 0].tolist()) == set(depth[4:17, 9:30].reshape(-1).tolist())
    left, top, right, bottom = map(int, body.head_bbox_xyxy)
    assert set(moved_depth[top:bottom, left:right].reshape(-1)) == set(depth[4:8, 9:18].reshape(-1))
    for mask in masks_of(turned.record):
        np.testing.assert_array_equal(mask, in_box)


def test_orient_leaves_annotations_of_the_shown_picture_alone():
    given = drawn()
    given = replace(given, data=with_exif(given.data, 6))
    turned = stage("orient", annotated="shown").work(given)
    assert turned.record.instances is given.record.instances
    assert (turned.record.height, turned.record.width) == (W, H)


def test_exif_that_is_cut_or_odd_says_nothing():
    whole = with_exif(drawn("jpg").data, 6)
    for place in range(2, whole.index(b"a maker") + 8):
        assert exif_orientation(whole[:place]) in (1, 6)
    assert exif_orientation(with_exif(drawn("jpg").data, 9)) == 1
    assert exif_orientation(with_exif(drawn("png").data, 0)) == 1
    assert exif_orientation(drawn("jpg").data) == exif_orientation(drawn("png").data) == 1


def test_a_mask_of_another_size_is_named():
    given = drawn()
    given.record.instances[1].segmentation = rle(np.ones((3, 4)))
    given = replace(given, data=with_exif(given.data, 3))
    with pytest.raises(IngestError, match=r"1\.png, instance b: the mask was made for 4x3 pixels.*53x37"):
        stage("orient").work(given)


@pytest.mark.parametrize("longer", [27, 106])
def test_resize_moves_points_with_what_they_lie_on(longer):
    canvas = np.zeros((H, W), np.float64)
    ys, xs = np.mgrid[:H, :W]
    canvas += 240 * np.exp(-((xs - 29) ** 2 + (ys - 16) ** 2) / (2 * 3.0**2))
    depth = np.zeros((H, W), np.uint16)
    depth[:, 20:] = 1000
    given = drawn(pixels=canvas.astype(np.uint8), depth=depth)
    resized = stage("resize", longer_side_px=longer, enlarge=True).work(given)
    pixels = pixels_of(resized.data).astype(np.float64)
    height, width = pixels.shape
    assert (resized.record.width, resized.record.height) == (width, height) == (longer, round(H * longer / W))
    ys, xs = np.mgrid[:height, :width]
    centroid = [(pixels * place).sum() / pixels.sum() for place in (xs, ys)]
    body = resized.record.instances[0]
    np.testing.assert_allclose(body.keypoints[3, :2], centroid, atol=0.05)
    assert body.keypoints[4].tolist() == [0, 0, 0]
    np.testing.assert_allclose(body.bbox_xywh, np.array(BOX) * np.array([width / W, height / H] * 2))
    np.testing.assert_allclose(body.area, 600 * (width / W) * (height / H))
    x, y, w, h = body.bbox_xywh
    for mask in masks_of(resized.record):
        assert abs(int(mask.sum()) - w * h) <= w + h + 2
        rows, columns = np.nonzero(mask)
        np.testing.assert_allclose([columns.mean() + 0.5, rows.mean() + 0.5], [x + w / 2, y + h / 2], atol=0.6)
    assert set(pixels_of(resized.depth).reshape(-1).tolist()) == {0, 1000}
    assert stage("resize", longer_side_px=W).work(given) is given
    assert stage("resize", longer_side_px=2 * W).work(given) is given


def test_reencode_changes_the_format_and_nothing_else():
    given = drawn()
    jpeg = stage("reencode", quality=90).work(given)
    assert image_size(jpeg.data) == (H, W, "jpeg")
    assert jpeg.record is given.record
    as_given = np.asarray(Image.open(io.BytesIO(jpeg.data)))
    wanted = io.BytesIO()
    Image.fromarray(pixels_of(given.data)[..., ::-1]).save(wanted, "JPEG", quality=90, subsampling=0)
    assert np.abs(as_given.astype(int) - np.asarray(Image.open(wanted))).mean() < 4
    assert len(stage("reencode", quality=20).work(given).data) < len(jpeg.data)
    back = stage("reencode", format="png").work(jpeg)
    np.testing.assert_array_equal(pixels_of(back.data), pixels_of(jpeg.data))
    assert stage("reencode", format="png").work(given) is given
    see_through = drawn(pixels=np.full((H, W, 4), 90, np.uint8))
    assert pixels_of(stage("reencode").work(see_through).data).shape == (H, W, 3)
    assert stage("reencode").work(drawn(pixels=np.zeros((H, W), np.uint16))).reason == "not-8-bit"
    assert stage("reencode").work(replace(given, data=given.data[:40])).reason == "undecodable-image"


def test_ranges_are_scaled_the_same_for_all():
    thermal = np.array([[0, 1000, 1500], [2000, 3000, 65535]], np.uint16)
    given = drawn(pixels=thermal)
    scaled = pixels_of(stage("scale_range", low=1000, high=3000).work(given).data)
    assert scaled.dtype == np.uint8
    assert scaled.tolist() == [[0, 0, 64], [128, 255, 255]]
    eight = drawn()
    assert stage("scale_range", low=0, high=10).work(eight) is eight
    with pytest.raises(IngestError, match="scale_range: options: low: must be below high"):
        stage("scale_range", low=3, high=3)


def test_depth_gets_another_unit_and_what_is_far_becomes_unknown():
    depth = np.array([[0, 1, 499], [500, 2000, 65535]], np.uint16)
    given = drawn(pixels=np.zeros((2, 3), np.uint8), depth=depth)
    scaled = stage("scale_depth", metres_per_unit=0.0005, nearest_m=0.499, furthest_m=3.0).work(given)
    assert pixels_of(scaled.depth).tolist() == [[0, 0, 998], [1000, 4000, 0]]
    assert scaled.record.depth.metres_per_unit == 0.0005
    assert scaled.data is given.data
    assert pixels_of(stage("scale_depth", metres_per_unit=0.0001).work(given).depth).tolist() == [
        [0, 10, 4990],
        [5000, 20000, 0],
    ]
    without = drawn()
    assert stage("scale_depth").work(without) is without


def test_only_the_disc_of_a_face_is_blurred_and_nothing_of_it_is_left():
    given = drawn(pixels=np.random.default_rng(1).integers(0, 256, (200, 300, 3), np.uint8))
    for body in given.record.instances:
        body.keypoints[:, :2] *= 5
        body.head_bbox_xyxy = None
    given.record.instances.pop()
    blur = stage("blur_faces")
    x, y, diameter = blur.work.disc(given.record.instances[0])
    assert (x, y) == (65.0, 27.5)
    assert diameter == pytest.approx(2.5 * np.hypot(30, 5))
    before, after = pixels_of(given.data).astype(int), pixels_of(blur.work(given).data).astype(int)
    ys, xs = np.mgrid[:200, :300]
    inside = np.hypot(xs - x, ys - y) <= diameter / 2
    np.testing.assert_array_equal(after[~inside], before[~inside])
    assert (before[inside] != after[inside]).mean() > 0.95
    assert after[inside].std() < 0.15 * before[inside].std()
    assert np.abs(np.diff(after, axis=1))[inside[:, 1:] & inside[:, :-1]].mean() < 3  # noise: 85
    assert after[inside].mean() == pytest.approx(before[inside].mean(), abs=3)
    stronger = pixels_of(stage("blur_faces", strength=50).work(given).data)
    assert stronger[inside].std() < after[inside].std()


def test_where_no_face_is_known_the_picture_is_taken_out_unless_told():
    given = drawn()
    for body in given.record.instances:
        body.keypoints[:3] = 0
    assert stage("blur_faces").work(given).data != given.data  # by the head box
    given.record.instances[1].head_bbox_xyxy = None
    assert stage("blur_faces").work(given).reason == "face-not-placed"
    kept = stage("blur_faces", unplaced="keep").work(given)
    assert kept.data != given.data
    given.record.instances = [replace(body, is_crowd=True) for body in given.record.instances]
    assert stage("blur_faces").work(given).reason == "face-not-placed"
    given.record.instances = []
    assert stage("blur_faces").work(given) is given
    with pytest.raises(IngestError, match=r"blur_faces: options: points: nase is none of the skeleton's points: nose"):
        stage("blur_faces", points=["nase"])
    with pytest.raises(IngestError, match="skeleton is the dataset's"):
        load_stages(definition(stages=[{"stage": "blur_faces", "options": {"skeleton": "coco17"}}]))


def test_a_face_that_a_model_found_is_blurred_where_none_is_labelled():
    given = drawn(pixels=np.random.default_rng(1).integers(0, 256, (200, 300, 3), np.uint8))
    points = {"nose": [100.0, 50.0, 0.9], "left_eye": [106.0, 42.0, 0.4], "left_wrist": [20.0, 20.0, 0.9]}
    for body in given.record.instances:
        body.head_bbox_xyxy = None
        body.keypoints[:3] = 0
        body.extras = {"pseudo_label": {"model": "m", "skeleton": "coco17", "points": points}}
    assert stage("blur_faces").work(given).reason == "face-not-placed"
    assert stage("blur_faces", least_score=0.95).work(given).reason == "face-not-placed"
    assert stage("blur_faces", least_score=0.3).work.disc(given.record.instances[0]) == (103.0, 46.0, 25.0)
    blur = stage("blur_faces", least_score=0.5)
    assert blur.work.disc(given.record.instances[0])[:2] == (100.0, 50.0)
    after = pixels_of(blur.work(given).data)
    assert (after != pixels_of(given.data)).any(axis=2)[50, 100]
    given.record.instances[0].keypoints[0] = [12, 6, 2]
    assert blur.work.disc(given.record.instances[0])[:2] == (12.0, 6.0)


def test_pictures_are_cut_to_all_their_bodies():
    depth = np.arange(H * W, dtype=np.uint16).reshape(H, W)
    given = drawn(depth=depth)
    crowd = replace(given.record.instances[0], id="c", is_crowd=True, bbox_xywh=(40.0, 30.0, 5.0, 5.0))
    given.record.instances.append(crowd)
    cut, rejects = stage("crop_bodies", margin=1 / 21).work(given)
    assert [(reject.reason, reject.instance_id) for reject in rejects] == [("outside-crop", "c")]
    np.testing.assert_array_equal(pixels_of(cut.data), pixels_of(given.data)[3:18, 8:31])
    np.testing.assert_array_equal(pixels_of(cut.depth), depth[3:18, 8:31])
    assert [body.bbox_xywh for body in cut.record.instances] == [(1.0, 1.0, 21.0, 13.0)] * 2
    assert cut.record.instances[0].keypoints[0].tolist() == [4, 3, 2]
    for mask in masks_of(cut.record):
        assert mask[1:14, 1:22].all()
        assert mask.sum() == 21 * 13
    assert stage("crop_bodies", margin=9).work(given) is given
    given.record.instances = []
    assert stage("crop_bodies").work(given) is given


PICTURE_STAGES = [
    ("orient", {}),
    ("resize", {"longer_side_px": 200}),
    ("reencode", {"format": "png"}),
    ("blur_faces", {"unplaced": "keep"}),
    ("crop_bodies", {}),
    ("scale_range", {"low": 0, "high": 4095}),
    ("scale_depth", {"metres_per_unit": 0.002}),
]


@pytest.mark.parametrize(("name", "options"), PICTURE_STAGES)
def test_image_stages_are_pure_and_what_they_leave_can_be_ingested(tmp_path, name, options):
    source = [replace(drawn(depth=np.full((H, W), 900, np.uint16)).record, source_id=str(n)) for n in range(3)]
    pictures = [with_exif(drawn().data, 6)] * 3
    depths = [drawn(depth=np.full((H, W), 900, np.uint16)).depth] * 3
    assert_stage_is_pure(stage(name, **options), source, BODY, pictures, depths)
    plain = records(tmp_path / "raw", 3)
    entry = {"stage": name, "options": options}
    ingest(job(tmp_path / "raw", tmp_path / "out", stages=[entry]), plain)
    open_store(tmp_path / "out" / "tiny" / "train").verify()


@pytest.mark.samples
@pytest.mark.parametrize(("name", "options"), PICTURE_STAGES)
def test_image_stages_on_real_pictures(samples, name, options):
    coco = load_dataset("coco")
    real = [item for item in read_split(coco, "val", samples / "coco") if isinstance(item, Record) and item.instances]
    real = sorted(real, key=lambda record: (not any(body.is_crowd for body in record.instances), record.image))[:6]
    assert any(body.is_crowd for record in real for body in record.instances)
    stored = [(samples / "coco" / record.image).read_bytes() for record in real]
    pictures = [with_exif(data, 5 + number % 4) if name == "orient" else data for number, data in enumerate(stored)]
    loaded = stage(name, coco.skeleton, **options)
    assert_stage_is_pure(loaded, real, coco.skeleton, pictures)
    for record, data in zip(real, pictures, strict=True):
        answer = loaded.work(Picture(data=data, record=record))
        left = answer[0] if isinstance(answer, tuple) else answer
        pixels = pixels_of(left.data)
        assert (left.record.height, left.record.width) == pixels.shape[:2]
        for body in left.record.instances:
            labelled = body.keypoints[body.keypoints[:, 2] > 0]
            assert (labelled[:, :2] >= 0).all()
            assert (labelled[:, :2] < [left.record.width, left.record.height]).all()
        if name == "orient":
            assert np.abs(pixels.astype(int) - shown(data)).mean() < 4
        if name == "blur_faces" and left.data != data:
            again = pixels_of(stage("reencode").work(Picture(data=data, record=record)).data)
            discs = [disc for body in record.instances if (disc := loaded.work.disc(body))]
            ys, xs = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
            far = np.array([np.hypot(xs - x, ys - y) - size / 2 for x, y, size in discs]).min(axis=0)
            # A JPEG spreads what changes over blocks of 8 pixels.
            np.testing.assert_array_equal(pixels[far > 12], again[far > 12])
            assert (pixels != again).any(axis=2)[far < 0].mean() > 0.8
