"""A certain teacher says what a label says, between any two codecs."""

import pytest
import torch
import torch.nn.functional as F

from posecore.codecs.associative import AssociativeCodec
from posecore.codecs.codec import Codec
from posecore.codecs.heatmap import HeatmapCodec
from posecore.codecs.simcc import SimccCodec
from posecore.methods.belief import believed, heatmap_to_simcc

SIMCC = SimccCodec(input_size=(256, 192))
UDP = HeatmapCodec()
MSRA = HeatmapCodec(kind="msra")
LARGE = HeatmapCodec(input_size=(384, 288), heatmap_size=(96, 72), heatmap_sigma=3.0)
POINTS = torch.tensor([[[91.3, 40.7], [20.0, 200.2], [150.9, 128.0]]])
SEEN = torch.ones(1, 3)


def _heatmaps(codec: HeatmapCodec) -> torch.Tensor:
    """Untruncated Gaussians at POINTS, which are in pixels of a 256x192 crop, as the codec of any input places them."""
    maps = []
    for x, y in POINTS[0].tolist():
        lines = []
        for axis, place in ((0, y), (1, x)):
            shorten = 1 if codec.kind == "udp" else 0
            own = place * (codec.input_size[axis] - 1) / (UDP.input_size[axis] - 1)  # corner pixels stay corner pixels
            center = own * (codec.heatmap_size[axis] - shorten) / (codec.input_size[axis] - shorten)
            grid = torch.arange(codec.heatmap_size[axis], dtype=torch.float64)
            lines.append(torch.exp(-((grid - center) ** 2) / (2 * codec.heatmap_sigma**2)))
        maps.append(lines[0][:, None] * lines[1])
    return torch.stack(maps)[None].float()


@pytest.mark.parametrize("teacher", [UDP, MSRA, LARGE], ids=["udp", "msra", "384x288"])
def test_a_certain_heatmap_becomes_the_label_itself_at_the_exact_place(teacher: HeatmapCodec) -> None:
    lines = heatmap_to_simcc(_heatmaps(teacher), teacher, SIMCC)
    x, y = SIMCC.split(lines)
    for line, axis, sigma in ((x, 0, SIMCC.sigmas[1]), (y, 1, SIMCC.sigmas[0])):
        bins = torch.arange(line.shape[-1])
        label = torch.exp(-((bins - 2 * POINTS[..., axis, None]) ** 2) / (2 * sigma**2))
        # Relative to the label's own peak, which lies between bins.
        torch.testing.assert_close(
            line / line.amax(-1, keepdim=True), label / label.amax(-1, keepdim=True), atol=0.01, rtol=0
        )
    assert (lines.amax(-1) > 0.97).all()


def test_targets_drawn_by_the_teachers_own_codec_teach_labels() -> None:
    """With the 3-sigma cut that every training target has."""
    drawn, _ = UDP.encode(POINTS, SEEN)
    labels, _ = SIMCC.encode(POINTS, SEEN)
    lines = believed(drawn, UDP, SIMCC)
    decoded, scores = SIMCC.decode(lines)
    torch.testing.assert_close(decoded, 2 * POINTS, atol=0.6, rtol=0)
    assert (scores > 0.97).all()
    taught, wanted = (F.softmax(10 * SIMCC.split(t)[0], -1) for t in (lines, labels))
    assert (taught - wanted).abs().sum(-1).max() < 0.35  # the label's centre is rounded to a bin, the teacher's is not


def test_without_narrowing_the_target_would_be_three_times_as_wide() -> None:
    drawn, _ = UDP.encode(POINTS, SEEN)
    marginal = drawn.sum(2)[0, 0]
    wide = (marginal > 0.5 * marginal.max()).sum() * 8  # bins per heatmap pixel
    narrow = (SIMCC.split(believed(drawn, UDP, SIMCC))[0][0, 0] > 0.5).sum()
    assert 2.5 < wide / narrow < 4


def test_two_places_stay_two_and_doubt_flattens() -> None:
    maps = _heatmaps(UDP)
    two = 0.5 * (maps[:, :1] + maps[:, 1:2])
    x, _ = SIMCC.split(believed(two, UDP, SIMCC))
    for point in POINTS[0, :2]:
        around = x[0, 0, round(2 * point[0].item()) - 1 : round(2 * point[0].item()) + 2]
        assert around.max() == pytest.approx(0.5, abs=0.03)
    sure, unsure = (F.softmax(10 * SIMCC.split(believed(c * maps, UDP, SIMCC))[0], -1).amax() for c in (1.0, 0.4))
    assert unsure < sure / 2


def test_a_heatmap_without_a_positive_value_teaches_nothing_in_particular() -> None:
    lines = believed(torch.full((1, 2, 64, 48), -0.1), UDP, SIMCC)
    assert (lines == 0).all()


@pytest.mark.parametrize("codec", [UDP, SIMCC], ids=["heatmap", "simcc"])
def test_the_same_codec_is_believed_as_it_is(codec: Codec) -> None:
    outputs = torch.randn(1, 3, *((64, 48) if isinstance(codec, HeatmapCodec) else (896,)))
    assert believed(outputs, codec, codec) is outputs


def test_simcc_becomes_the_heatmap_of_its_point() -> None:
    logits, _ = SIMCC.encode(POINTS, SEEN)
    maps = believed(3 * logits, SIMCC, MSRA)
    points, scores = MSRA.decode(maps)
    torch.testing.assert_close(4 * points, POINTS, atol=2.0, rtol=0)
    assert (scores > 0.8).all()


def test_other_sizes_of_the_same_family_keep_the_place() -> None:
    large = SimccCodec(input_size=(384, 288))
    scale = torch.tensor([287 / 191, 383 / 255])
    lines = believed(large.encode(POINTS * scale, SEEN)[0], large, SIMCC)
    torch.testing.assert_close(SIMCC.decode(lines)[0], 2 * POINTS, atol=1.0, rtol=0)
    maps = believed(_heatmaps(LARGE), LARGE, UDP)
    stride = torch.tensor([191 / 47, 255 / 63])
    torch.testing.assert_close(UDP.decode(maps)[0] * stride, POINTS, atol=0.1, rtol=0)


def test_mixed_precision_does_not_blur_a_place() -> None:
    maps = _heatmaps(UDP)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        taught = believed(maps, UDP, SIMCC)
    assert torch.equal(taught, believed(maps, UDP, SIMCC))


def test_maps_of_whole_pictures_are_carried_to_those_of_a_smaller_picture() -> None:
    """Drawn by the teacher's codec for the picture enlarged, they are what the student's codec draws."""
    small = AssociativeCodec(input_size=(256, 192), heatmap_size=(64, 48), heatmap_sigma=2.0)
    large = AssociativeCodec(input_size=(512, 384), heatmap_size=(128, 96), heatmap_sigma=4.0)
    bodies, seen = POINTS[:, None], SEEN[:, None]
    enlarged = bodies * torch.tensor([383 / 191, 511 / 255])
    columns, rows = torch.arange(96.0).expand(1, 3, 128, 96), torch.arange(128.0)[:, None].expand(1, 3, 128, 96)
    coarse, fine = large.draw(enlarged, seen)
    for tags, step in ((columns, (0, 95 / 47)), (rows, (127 / 63, 0))):  # tags that say where they are
        outputs = torch.cat([coarse.flatten(2), tags.flatten(2), fine.flatten(2)], dim=2)
        carried = small.split(believed(outputs, large, small))
        for maps, drawn in zip((carried[0], carried[2]), small.draw(bodies, seen), strict=True):
            torch.testing.assert_close(maps, drawn, atol=0.02, rtol=0)
        wanted = step[0] * torch.arange(64.0)[:, None] + step[1] * torch.arange(48.0)
        torch.testing.assert_close(carried[1], wanted.expand(1, 3, 64, 48), atol=0.07, rtol=0)
        assert torch.equal(believed(outputs, large, large), outputs)
