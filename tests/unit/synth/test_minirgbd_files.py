"""Synthetic infants with depth, read back by the reader of the real ones."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from posecore.cli import main
from posecore.datasets.check import check_split
from posecore.datasets.discovery import load_dataset, read_split
from posecore.errors import DatasetError
from posecore.schema import Record
from posecore.synth.minirgbd_files import write_minirgbd


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_minirgbd(tmp_path_factory.mktemp("minirgbd"), 10, 2, seed=1)


def records(root: Path, split: str) -> list[Record]:
    items = list(read_split(load_dataset("minirgbd"), split, root))
    assert all(isinstance(item, Record) for item in items)
    return [item for item in items if isinstance(item, Record)]


def test_depth_at_a_joint_is_that_of_the_body_over_it(root: Path) -> None:
    """The surface lies in front of a joint by no more than a limb's thickness, unless something else does."""
    near = []
    for record in records(root, "train"):
        assert record.depth is not None
        depth = cv2.imread(str(root / record.depth.image), cv2.IMREAD_UNCHANGED)
        assert (depth.dtype, depth.shape) == (np.uint16, (record.height, record.width))
        metres = depth * record.depth.metres_per_unit
        joints = record.image.replace("rgb/syn_", "joints_2Ddep/syn_joints_2Ddep_").replace(".png", ".txt")
        lines = (root / joints).read_text().splitlines()
        for line, (x, y, flag) in zip(lines, record.instances[0].keypoints, strict=True):
            if flag == 2:
                near.append(float(line.split()[2]) / 1000 - metres[round(float(y)), round(float(x))])
    assert len(near) > 60
    assert np.median(near) == pytest.approx(0.03, abs=0.03)
    assert np.mean(np.abs(near) < 0.12) > 0.8


def test_pictures_are_found_and_sequences_are_infants(root: Path) -> None:
    definition = load_dataset("minirgbd")
    for split, sequences in (("train", {f"{number:02d}" for number in range(1, 11)}), ("test", {"11", "12"})):
        assert not check_split(definition, split, root).has_errors
        found = records(root, split)
        assert {record.instances[0].subject_id for record in found} == sequences


def test_equal_settings_give_equal_bytes_and_a_full_folder_is_refused(root: Path, tmp_path: Path) -> None:
    command = ["synth", "--dataset", "minirgbd", "--num-train", "10", "--num-val", "2", "--seed", "1"]
    assert main([*command, "--out", str(tmp_path / "again")]) == 0
    files = [path.relative_to(root) for path in sorted(root.rglob("*")) if path.is_file()]
    assert len(files) == 3 * 12
    assert all((root / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in files)
    with pytest.raises(DatasetError, match="is not empty; name a new folder"):
        write_minirgbd(root, 10, 2)
    with pytest.raises(DatasetError, match=r"num_train 9, .* needs a frame"):
        write_minirgbd(tmp_path / "new", 9, 2)
