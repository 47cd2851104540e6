from pathlib import Path

from posecore.datasets.discovery import dataset_folders, load_dataset

OVERVIEW = Path(__file__).resolve().parents[3] / "docs" / "datasets.md"


def test_every_dataset_has_its_row_with_its_number_of_points() -> None:
    rows = [line for line in OVERVIEW.read_text().splitlines() if line.startswith("| [")]
    for name, folder in dataset_folders().items():
        (row,) = [row for row in rows if f"[{name}](../datasets/{folder.name})" in row]
        points = row.split("|")[2]
        assert name == "deeplabcut" or str(load_dataset(name).skeleton.num_keypoints) in points


def test_known_overlaps_are_in_the_table() -> None:
    table = OVERVIEW.read_text().partition("## Who shares images with whom")[2]
    pairs = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ") and "–" in line]
    for name in dataset_folders():
        for other in load_dataset(name).shares_images_with:
            assert any(name in pair and other in pair for pair in pairs), f"{name} and {other} are not in the table"
