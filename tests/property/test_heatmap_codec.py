"""Encoding then decoding returns the point, wherever it lies inside the map."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from posecore.codecs.heatmap import HeatmapCodec


@given(st.floats(8, 39), st.floats(8, 55))
def test_udp_returns_the_point_to_a_fiftieth_of_a_heatmap_pixel(u, v):
    codec = HeatmapCodec(kind="udp")
    stride = torch.tensor([191 / 47, 255 / 63])
    maps, _ = codec.encode(torch.tensor([[[u, v]]]) * stride, torch.ones(1, 1))
    torch.testing.assert_close(codec.decode(maps)[0][0, 0], torch.tensor([u, v]), atol=0.02, rtol=0)


@given(st.floats(8, 39), st.floats(8, 55))
def test_msra_returns_the_rounded_point(u, v):
    codec = HeatmapCodec(kind="msra")
    maps, _ = codec.encode(torch.tensor([[[u, v]]]) * 4, torch.ones(1, 1))
    assert codec.decode(maps)[0][0, 0].tolist() == torch.trunc(torch.tensor([u, v]) + 0.5).tolist()
