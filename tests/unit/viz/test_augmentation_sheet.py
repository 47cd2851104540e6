from pathlib import Path

import cv2
import numpy as np
import pytest

from posecore.cli import main
from posecore.loading.augment import AugmentConfig
from posecore.loading.loader import Loader, LoadingConfig
from posecore.loading.mixture import MixtureConfig, MixtureEntry
from posecore.shards.store import ShardStore
from posecore.viz.augmentation_sheet import write_augmentation_sheet
from posecore.viz.overlay import draw_instances
from tests.support.tiny_store import write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ShardStore:
    return write_store(tmp_path_factory.mktemp("store"), "people", [2, 3])


def test_the_sheet_shows_the_crops_that_a_run_trains_on(
    store: ShardStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []

    def remember(image, *arguments, **settings):  # type: ignore[no-untyped-def]
        shown.append(image.copy())
        return draw_instances(image, *arguments, **settings)

    monkeypatch.setattr("posecore.viz.augmentation_sheet.draw_instances", remember)
    augment = AugmentConfig.model_validate("infant")
    write_augmentation_sheet(store, augment, (64, 64), tmp_path, num_instances=5, num_passes=1, seed=4)
    config = LoadingConfig(mixture=MixtureConfig(entries=(MixtureEntry(name="people"),)), augment=augment)
    iterator = iter(Loader({"people": store}, config, input_size=(64, 64), seed=4, global_batch=5))
    batch = next(iterator)
    iterator.close()
    (group,) = batch.groups
    trained = batch.images[np.argsort(group.rows)]
    np.testing.assert_array_equal(shown[1::2], trained)
    assert all((plain != changed).any() for plain, changed in zip(shown[::2], trained, strict=True))


def test_the_command_writes_a_row_per_instance(
    store: ShardStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["datasets", "augmentations", str(store.location), "--augment", "infant", "--set", "flip_probability=0"]
    assert main([*command, "--input", "48x64", "--num", "3", "--passes", "4", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "index.html")
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("<figure>") == 3 * (1 + 4)
    assert "instance 4, pass 3, turned by" in page
    sheet = cv2.imread(str(tmp_path / "out" / "contact_sheet.png"))
    assert sheet.shape == (3 * 256, 5 * 256, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--augment", "infants"], "no augmentation is called 'infants'"),
        (["--set", "flip=1"], "flip: Extra inputs"),
        (["--input", "48"], "--input 48: give height x width"),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(
    store: ShardStore, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["datasets", "augmentations", str(store.location), "--out", str(tmp_path), *options]) == 2
    assert message in capsys.readouterr().err
