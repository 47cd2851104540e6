"""Low-rank updates of a trained transformer (LoRA, DoRA) through ``peft``, in that library's own files.

LoRA (arXiv 2106.09685) adds ``(alpha / rank) · B A`` to a weight W, with B zero at first; DoRA (arXiv 2402.09353) also
learns the length of every row of the sum. Both can be added into W afterwards, so that the adapted model is an ordinary
one and costs nothing extra to run.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from posecore.errors import ConfigError
from posecore.extras import refuse_missing
from posecore.models.layers import block_index
from posecore.storage import AnyPath, write_atomically

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
"""Name that ``peft`` gives the weights; ``adapter_config.json`` lies beside it."""
_LOADED_AS = "base_model.model."  # where ``peft`` puts the model it wraps


def add_low_rank(model: nn.Module, rank: int, alpha: float, dropout: float, dora: bool) -> None:
    """Puts a low-rank update beside every linear layer of the backbone's blocks and freezes all other weights.

    Experts have none: each is small already, and belongs to one dataset.

    Args:
        model: its backbone's parameters are named ``…backbone.*``; computes as before until the updates have learned.
        rank: of every update.
        alpha: the update is scaled by ``alpha / rank``.
        dropout: rate at which the update's inputs are dropped in training.
        dora: whether the lengths of the rows are learned, too.

    Raises:
        ConfigError: the backbone has no blocks with linear layers.
    """
    refuse_missing("peft", "a low-rank update")
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds

    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and block_index(f"{name}.") >= 0 and _is_shared(name)
    ]
    if not layers:
        raise ConfigError(
            "strategy: lora and dora change the linear layers of a transformer's blocks, and this backbone has none; "
            "take full, frozen-backbone, bitfit or two-stage."
        )
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, use_dora=dora, target_modules=layers)
    on_meta = any(parameter.is_meta for parameter in model.parameters())
    inject_adapter_in_model(config, model, low_cpu_mem_usage=on_meta)  # that flag puts the updates there, too


def is_low_rank(name: str) -> bool:
    """Whether a parameter belongs to an update."""
    return ".lora_" in name


def save_adapter(model: nn.Module, folder: AnyPath, learned_modules: Iterable[str], base: str) -> tuple[AnyPath, ...]:
    """Writes the updates, and modules that were trained whole, so that plain ``peft`` loads them.

    ``peft.PeftModel.from_pretrained(model, folder)`` puts them into a model of the same card that holds the parent's
    weights.

    Args:
        model: with updates that are not merged.
        folder: is created; gets ``adapter_config.json`` and ``adapter_model.safetensors``.
        learned_modules: names of the modules that were trained whole, such as ``heads.infants``.
        base: what the adapter belongs to, for people who read the file.

    Returns:
        The two files.
    """
    from peft import get_peft_model_state_dict

    modules = sorted(learned_modules)
    tensors = dict(get_peft_model_state_dict(model))
    for name in modules:
        tensors |= {f"{name}.{rest}": tensor for rest, tensor in model.get_submodule(name).state_dict().items()}
    on_cpu = {f"{_LOADED_AS}{name}": tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    config: Any = model.peft_config["default"]  # type: ignore[index]
    config.modules_to_save, config.base_model_name_or_path, config.inference_mode = modules or None, base, True
    with tempfile.TemporaryDirectory() as scratch:
        config.save_pretrained(scratch)
        said = (Path(scratch) / CONFIG_FILE).read_bytes()
    for name, data in ((CONFIG_FILE, said), (WEIGHTS_FILE, save(on_cpu, metadata={"format": "pt"}))):
        write_atomically(folder / name, data)
    return folder / CONFIG_FILE, folder / WEIGHTS_FILE


def _is_shared(name: str) -> bool:
    return ".experts." not in name and ".adapter." not in name
