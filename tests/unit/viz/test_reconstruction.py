import numpy as np

from posecore.viz.reconstruction import reconstruction_sheet


def test_one_row_per_crop_in_the_order_of_the_headings() -> None:
    rows = [tuple(np.full((64, 48, 3), 10 * row + column, np.uint8) for column in range(3)) for row in (1, 2)]
    sheet = reconstruction_sheet(rows)
    # 48 pixels are enlarged three times to reach 128, and every cell is followed by four white pixels.
    assert sheet.shape == (24 + 2 * (192 + 4), 3 * (144 + 4), 3)
    for row in (1, 2):
        for column in range(3):
            top, left = 24 + (row - 1) * 196, column * 148
            assert (sheet[top : top + 192, left : left + 144] == 10 * row + column).all()
            assert (sheet[top + 192 : top + 196, left : left + 148] == 255).all()
    headings = sheet[:24]
    assert all((headings[:, left : left + 148] < 128).any() for left in (0, 148, 296))


def test_large_crops_keep_their_pixels() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (160, 128, 3), np.uint8)
    sheet = reconstruction_sheet([(crop, crop, crop)])
    np.testing.assert_array_equal(sheet[24:184, 132:260], crop)
