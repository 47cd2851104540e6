"""Galleries: self-contained, escaped, and readable as one sheet."""

import base64
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from posecore.viz.encoded import contact_sheet, encode_png
from posecore.viz.gallery import write_gallery


def test_a_gallery_embeds_its_pictures_escapes_captions_and_refers_to_nothing_outside(tmp_path: Path) -> None:
    red = np.zeros((20, 30, 3), np.uint8)
    red[..., 0] = 255
    png = encode_png(red)
    page = write_gallery([(red, "<script>alert(1)</script>"), (png, 'a "b" & c')], tmp_path / "new", "T <1>")
    text = page.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert 'alt="a &#34;b&#34; &amp; c"' in text
    assert "<title>T &lt;1&gt;</title>" in text
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", text)
    sources = re.findall(r'src="data:(image/\w+);base64,([^"]+)"', text)
    assert [kind for kind, _ in sources] == ["image/jpeg", "image/png"]
    assert base64.b64decode(sources[1][1]) == png
    sheet = cv2.imread(str(page.with_name("contact_sheet.png")), cv2.IMREAD_COLOR_RGB)
    assert sheet is not None
    assert tuple(sheet[128, 128]) == (255, 0, 0)


def test_an_empty_gallery_is_a_page_without_a_sheet(tmp_path: Path) -> None:
    page = write_gallery([], tmp_path, "none")
    assert "0 pictures" in page.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_other_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'x' does not decode"):
        write_gallery([(b"GIF89a", "x")], tmp_path, "t")
    assert list(tmp_path.iterdir()) == []


def test_a_contact_sheet_keeps_proportions_and_fills_rows() -> None:
    wide = np.full((10, 40, 3), 7, np.uint8)
    sheet = contact_sheet([wide] * 5, columns=3, cell_px=44)
    assert sheet.shape == (88, 132, 3)
    dark = (sheet[:44, :44] == 7).all(axis=2)
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    assert (len(rows), len(columns)) == (10, 40)
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])
