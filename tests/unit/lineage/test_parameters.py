from posecore.lineage.store.parameters import flat_parameters
from posecore.training.loop import TrainingConfig


def test_named_entries_of_a_list_are_compared_with_their_namesakes() -> None:
    datasets = [{"name": "coco", "root": "a", "augment": None}, {"name": "mpii", "root": "b"}]
    assert flat_parameters({"datasets": datasets, "keep": []}) == {
        "datasets.coco.root": "a",
        "datasets.coco.augment": "null",
        "datasets.mpii.root": "b",
        "keep": "[]",
    }


def test_a_configuration_is_flat_and_has_no_password() -> None:
    flat = flat_parameters({"training": TrainingConfig(steps=3, global_batch=4), "uri": "http://me:secret@host/x"})
    assert flat["training.optimizer.lr"] == "0.0005"
    assert flat["training.engine.kind"] == "torch"
    assert flat_parameters({}) == {}
    assert flat["uri"] == "http://me:***@host/x"
