"""How a run of posecore is compared with the same training restated: every weight, statistic and moving average."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from posecore.schema import CropBatch
from posecore.training.loop import TrainingConfig
from tests.parity.recipes.restated import Published, Trainer, in_steps
from tests.parity.recipes.toy import STEPS, batches, begin_step, compare, training_of
from tests.support.checkpoints import State

Loss: TypeAlias = Callable[[nn.Module, CropBatch, int], Tensor]
"""What a network loses on the crops of a 0-based step."""

OF_NORM, OF_PATH = 1e-5, 0.01
"""How far two tensors may be apart: of the norm of one, and of the way that training has moved it.

The second would notice a rate that is a hundredth too high; it is no smaller because a weight near 1 moves by 1e-5 in
these steps, and float32 rounds it by 6e-8 in each.
"""


def check(
    state: State,
    trainer: Trainer,
    start: Mapping[str, Tensor],
    idle: Callable[[str, Tensor], Tensor],
    most_of_path: float = OF_PATH,
) -> None:
    """Every weight, every running statistic, and both of the moving average.

    Args:
        state: of the run that is judged.
        trainer: of the restated one.
        start: both started from.
        idle: leaves of a tensor what has a gradient that is more than rounding.
        most_of_path: more where training moves hardly anything.
    """
    assert state.weights.keys() >= trainer.weights.keys()
    pairs = {"weights": (state.weights, trainer.weights), "statistics": (state.buffers, trainer.statistics)}
    if trainer.published.averages:
        pairs["average"] = (state.average, trainer.average)
    for kind, (ours, theirs) in pairs.items():
        for name in theirs:
            ours_, theirs_, start_ = (idle(name, tensor[name]) for tensor in (ours, theirs, start))
            of_norm, of_path = compare(ours_, theirs_, start_)
            assert of_norm <= OF_NORM, (kind, name, of_norm)
            assert of_path <= most_of_path, (kind, name, of_path)
    felt = {name: weight for name, weight in trainer.weights.items() if idle(name, weight).numel()}
    still = [name for name, weight in felt.items() if torch.equal(weight.float(), start[name])]
    assert [name for name in still if ".experts." not in name] == [], "all learn, but experts without crops"


def restated_run(
    network: nn.Module, published: Published, loss: Loss, points: Mapping[str, int], size: tuple[int, int], batch: int
) -> Trainer:
    """Twenty steps of the restated training on the crops that the real one sees."""
    trainer = Trainer(network, published, STEPS)
    make_steps(trainer, network, loss, batches(points, size, batch))
    return trainer


def make_steps(trainer: Trainer, network: nn.Module, loss: Loss, crops: Iterable[CropBatch]) -> None:
    """All steps of a trainer."""
    network.train()
    for step, batch in zip(range(trainer.steps), crops, strict=False):
        begin_step(step)
        trainer.update(loss(network, batch, step))


def everything(name: str, tensor: Tensor) -> Tensor:
    """Leaves out nothing."""
    return tensor


def without_key_biases(name: str, tensor: Tensor) -> Tensor:
    """A softmax does not feel a constant that is added to every key, so their biases have no gradient."""
    if name.endswith("attn.qkv.bias"):
        query, _, value = tensor.chunk(3)
        return torch.cat([query, value])
    return tensor


def without_biases_before_norms(name: str, tensor: Tensor) -> Tensor:
    """InstanceNorm takes out what a convolution adds to a whole map."""
    return tensor[:0] if ".conv_layers." in name and name.endswith(".bias") else without_key_biases(name, tensor)


# -- short runs of methods that have no published recipe ---------------------------------------------------------------

SHORT = 8
"""Steps of these."""


def short_training(batch_size: int, slow: bool = False) -> tuple[TrainingConfig, Published]:
    """Settings of the loop for a few steps, and the same settings restated.

    Args:
        batch_size: crops per step.
        slow: as RTMPose: one rate for all layers, of which a thousand steps of warm-up leave little.
    """
    lr, layer_decay, warmup, start = (4e-3, 1.0, 1000, 1e-5) if slow else (1e-3, 0.8, 3, 0.001)
    published = Published(
        lr=lr, weight_decay=0.1, layer_decay=layer_decay, clip_norm=1.0,
        warmup_steps=warmup, warmup_start=start, decay=in_steps(0.75),
    )  # fmt: skip
    fields = {
        "optimizer": {"lr": lr, "weight_decay": 0.1, "layer_decay": layer_decay, "clip_norm": 1.0},
        "schedule": {"kind": "multistep", "warmup_start": start, "milestones": [0.75]},
    }
    training = training_of(fields, batch_size, warmup).model_copy(update={"steps": SHORT, "log_every": SHORT})
    return training, published


def same_terms(
    ours: nn.Module,
    terms: Mapping[str, Tensor],
    theirs: nn.Module,
    restated: Mapping[str, Tensor],
    idle: Callable[[str, Tensor], Tensor],
) -> None:
    """Every term of a loss, and what each asks of every weight.

    Args:
        ours: the method that is judged.
        terms: its loss.
        theirs: the network of the restated one, with parameters of the same names.
        restated: its loss.
        idle: leaves of a gradient what is more than rounding.
    """
    assert terms.keys() == restated.keys()
    for name, term in terms.items():
        error = abs(term.item() - restated[name].item())
        assert error <= OF_NORM * abs(restated[name].item()), (name, term.item(), restated[name].item())
        gradients = [_gradients(network, loss[name]) for network, loss in ((ours, terms), (theirs, restated))]
        for parameter, wanted in gradients[1].items():
            of_norm, _ = compare(idle(parameter, gradients[0][parameter]), felt := idle(parameter, wanted), felt)
            assert of_norm <= OF_NORM, (name, parameter, of_norm)


def _gradients(network: nn.Module, term: Tensor) -> dict[str, Tensor]:
    learning = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    found = torch.autograd.grad(term, list(learning.values()), retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(learning[name]) if gradient is None else gradient
        for name, gradient in zip(learning, found, strict=True)
    }
