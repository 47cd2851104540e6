"""The picture of the synthetic bodies: labelled rows show the same scenes as the plain ones."""

import numpy as np

from posecore.viz.synthetic_sheet import synthetic_sheet


def test_each_kind_has_a_plain_row_and_the_same_row_with_labels() -> None:
    sheet = synthetic_sheet(seed=1, columns=2, cell_px=64)
    assert sheet.shape == (6 * 64, 2 * 64, 3)
    rows = sheet.reshape(3, 2, 64, 128, 3).astype(int)
    for plain, labelled in rows:
        changed = np.abs(plain - labelled).max(axis=-1) > 40
        assert 0.01 < changed.mean() < 0.6
