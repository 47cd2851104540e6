import cv2
import pytest

from posecore.loading.decoders import KEY, decoder_difference, decoders
from posecore.models.architecture import ModelConfig
from posecore.models.heads.classic import SimpleHeadConfig
from posecore.models.pose_model import build_model
from posecore.prediction.predictor import Predictor
from posecore.skeletons.library import load_skeleton

OTHER = "4.12.0" if cv2.__version__.startswith("5") else "5.0.0"


@pytest.mark.parametrize(
    ("taught", "said"),
    [
        (None, None),
        (decoders(), None),
        ({**decoders(), "opencv": OTHER}, "by at most 4 of 255"),
        ({**decoders(), "jpeg": "turbojpeg 1.0"}, "decoded by turbojpeg 1.0"),
        ({**decoders(), "jpeg": "simplejpeg 0.1"}, None),
        ({**decoders(), "opencv": f"{cv2.__version__.partition('.')[0]}.99.1"}, None),
    ],
)
def test_other_pixels_are_said(taught: dict[str, str] | None, said: str | None) -> None:
    found = decoder_difference({} if taught is None else {KEY: taught})
    assert found is None if said is None else said in str(found)


def test_a_model_of_the_other_side_warns_where_it_predicts() -> None:
    config = ModelConfig(backbone="vit-nano", head=SimpleHeadConfig(), input_size=(64, 48))
    model = build_model(config, {"coco": load_skeleton("coco17")}, {})
    model.card = model.card.model_copy(update={"lineage": {KEY: {**decoders(), "opencv": OTHER}}})
    with pytest.warns(UserWarning, match=f"trained with OpenCV {OTHER}"):
        Predictor(model)
