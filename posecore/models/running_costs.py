"""What a saved model costs whoever runs it: parameters, arithmetic, room on the disk and time."""

from posecore.models.cost import model_cost
from posecore.models.latency import forward_seconds
from posecore.models.saving import WEIGHTS_FILE, load_model
from posecore.storage import AnyPath


def running_costs(folder: AnyPath) -> dict[str, float]:
    """``parameters``, ``gflops`` of a crop, ``megabytes`` and ``latency_ms`` of a crop by its first head.

    There are no ``gflops`` of a backbone whose operations are not counted.

    Args:
        folder: of the model.
    """
    model = load_model(folder)
    points = {name: skeleton.num_keypoints for name, skeleton in model.skeletons.items()}
    uncounted = model.config.backbone.uncounted_parameters
    if uncounted is not None:
        counted = {"parameters": float(uncounted)}
    else:
        cost = model_cost(model.config, points)
        counted = {"parameters": cost.parameters, "gflops": cost.flops / 1e9}
    return {
        **counted,
        "megabytes": (folder / WEIGHTS_FILE).stat().st_size / 1e6,
        "latency_ms": 1e3 * forward_seconds(model, next(iter(model.skeletons))),
    }
