"""Configurations are asked what they can, not which class they are; where a class is asked after, it is said why."""

import ast
from collections import Counter
from pathlib import Path

import posecore
from posecore.codecs.codec import Codec
from posecore.methods.strategies import _Strategy
from posecore.models.backbone import Backbone, BackboneModule
from posecore.models.head import Head
from posecore.workflows.multidataset_worker import MultiDatasetWorker  # noqa: F401, makes every built-in class known

ROOT = Path(posecore.__file__).parent

LAYOUT = "writes or reads one published layout of weights, where the class is the question"
PAIRS = "takes two classes, heatmaps or SimCC on either side"
OWN = "a loss, an embedding or a graph that exists for one form of outputs, of which it uses more than the protocol has"
INSIDE = "reaches into the parts of one network: leaves patches out, adds tokens to them, or runs its graph elsewhere"
ASKED = {
    "evaluation/scenes.py": (1, OWN),
    "methods/associative_loss.py": (3, OWN),
    "methods/belief.py": (14, PAIRS),
    "methods/distillation.py": (1, PAIRS),
    "methods/knowledge_token.py": (1, INSIDE),
    "methods/masked_autoencoder.py": (8, INSIDE),
    "methods/likelihood.py": (1, OWN),
    "methods/prototypes.py": (1, OWN),
    "methods/set_loss.py": (4, OWN),
    "methods/simcc_loss.py": (2, OWN),
    "models/export/backends.py": (1, INSIDE),
    "models/export/graphs.py": (5, OWN),
    "models/weights/huggingface_sapiens2.py": (3, LAYOUT),
    "models/weights/huggingface_vitpose.py": (1, LAYOUT),
    "models/weights/mae.py": (1, LAYOUT),
    "models/weights/mmpose_vitpose.py": (1, LAYOUT),
    "models/weights/sapiens.py": (2, LAYOUT),
    "models/weights/sapiens2.py": (1, LAYOUT),
    "models/weights/vitpose.py": (1, LAYOUT),
}
"""By file, how often the class of a backbone, head, codec or strategy is asked after, and why."""


def subclasses(kind: type) -> set[str]:
    return {name for each in kind.__subclasses__() for name in {each.__name__, *subclasses(each)}}


def classes_asked(tree: ast.AST) -> list[str]:
    """Names in ``isinstance`` and ``case Class()``."""
    found = []
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("isinstance", "issubclass")
        ):
            found += [each.id for each in ast.walk(node.args[1]) if isinstance(each, ast.Name)]
        if isinstance(node, ast.MatchClass):
            found += [each.id for each in ast.walk(node.cls) if isinstance(each, ast.Name)]
    return found


def test_classes_of_configurations_are_asked_after_where_that_is_the_question() -> None:
    kinds = {name for kind in (Backbone, BackboneModule, Head, Codec, _Strategy) for name in subclasses(kind)}
    assert {
        "VitConfig",
        "Vit",
        "OnnxGraphConfig",
        "HeatmapCodec",
        "SimccCodec",
        "ClassicHeadConfig",
        "LoraConfig",
    } <= kinds
    asked = Counter(
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        for name in classes_asked(ast.parse(path.read_text()))
        if name in kinds
    )
    assert dict(asked) == {file: number for file, (number, _) in ASKED.items()}
