import pytest
import torch

from posecore.errors import CheckpointError
from posecore.models.catalog import CATALOG, find, published_card
from posecore.models.cost import build_parts, count_parameters, model_cost
from posecore.models.weights.layouts import LAYOUTS


def test_every_row_is_whole() -> None:
    for name, model in CATALOG.items():
        assert model.name == name
        assert model.layout in LAYOUTS, name
        assert model.homepage.startswith("https://github.com/")
        card = model.card()
        assert card.licenses == {name: model.license_id}
        assert list(card.skeletons) == list(card.conventions) == list(model.heads)
        assert model.input_size == card.architecture.input_size, name
        assert model.whole_scenes == card.architecture.whole_scenes, name
        assert model.points == tuple(skeleton.num_keypoints for skeleton in card.skeletons.values())


def test_parameters_are_exact() -> None:
    one_of_each = {model.preset: name for name, model in CATALOG.items()}
    for name in one_of_each.values():
        model = CATALOG[name]
        card = model.card()
        points = {dataset: skeleton.num_keypoints for dataset, skeleton in card.skeletons.items()}
        with torch.device("meta"):
            backbone, heads = build_parts(card.architecture, points)
        assert model.parameters == count_parameters(backbone) + sum(map(count_parameters, heads.values())), name


@pytest.mark.parametrize("name", ["vitpose-small", "mae-base"])
def test_arithmetic_is_as_counted(name: str) -> None:
    card = published_card(name)
    points = {dataset: skeleton.num_keypoints for dataset, skeleton in card.skeletons.items()}
    assert round(model_cost(card.architecture, points).macs) == find(name).macs


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("vitpose-small", 21.66 + 2.63),
        ("vitpose-base", 85.79 + 4.20),
        ("vitpose-large-simple", 303.30 + 0.157),
        ("vitpose-huge", 630.91 + 6.30),
        ("vitpose-plus-small", 30.52 + 15.79),
        ("vitpose-plus-huge", 893.11 + 37.81),
        ("sapiens-0.3b-308", 306.2 + 23.4),
        ("sapiens-2b-wholebody", 2131.9 + 34.4),
        ("sapiens2-0.1b-pretrain", 113.99),
        ("sapiens2-5b-pretrain", 5066.90),
        ("sapiens2-1b-4k-pretrain", 1606.59),
        ("rtmpose-m-coco-256x192", 13.59),
    ],
)
def test_sizes_are_the_published_ones(name: str, millions: float) -> None:
    assert find(name).parameters / 1e6 == pytest.approx(millions, abs=0.15)


def test_terms_ride_along() -> None:
    for name, model in CATALOG.items():
        if name.startswith("sapiens-"):
            assert (model.license.id, model.license.commercial_use) == ("CC-BY-NC-4.0", False)
        if name.startswith("sapiens2-"):
            assert all(word in model.license.note for word in ("biometric", "health", "surveillance"))
        if "wholebody" in name and model.layout == "rtmpose":
            assert "non-commercial" in model.license.note
    assert find("mae-base").license.commercial_use is False


def test_unknown_names_are_answered_with_the_closest() -> None:
    with pytest.raises(CheckpointError, match="did you mean sapiens-1b-coco"):
        find("sapiens-1b-cocoo")
