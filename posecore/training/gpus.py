"""What the usual accelerators hold and how fast they multiply, for planning and for the utilisation of a running job.

Memory is what PyTorch can allocate on an empty device, in GiB, a little under the advertised size. Rates are the
makers' dense peaks (no structured sparsity), in FLOP/s, with 2 FLOPs per multiply-accumulate; float32 is the rate
without TF32, which PyTorch leaves off for matrix products. Source: NVIDIA's data sheets of each product (SXM variants
where there are several; GeForce: bfloat16 with float32 accumulation).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from posecore.errors import ConfigError
from posecore.nearest import choices

GIB = 1 << 30


@dataclass(frozen=True)
class Gpu:
    """One accelerator.

    Attributes:
        memory_bytes: usable by tensors and libraries together.
        bf16_flops: dense peak in bfloat16, None where the hardware has no bfloat16.
        fp32_flops: peak in float32.
        device_name: words of ``torch.cuda.get_device_name``.
        fp16_flops: dense peak in float16, None where it is that in bfloat16.
    """

    memory_bytes: int
    bf16_flops: float | None
    fp32_flops: float
    device_name: str
    fp16_flops: float | None = None

    def peak_flops(self, precision: str) -> float:
        """Dense peak in ``fp32``, ``bf16`` or ``fp16``.

        Raises:
            ConfigError: the hardware has no bfloat16.
        """
        if precision == "fp32":
            return self.fp32_flops
        if precision == "fp16" and self.fp16_flops is not None:
            return self.fp16_flops
        if self.bf16_flops is None:
            raise ConfigError(f"{self.device_name} has no bfloat16; use precision fp32 or another GPU.")
        return self.bf16_flops


GPUS: Mapping[str, Gpu] = {
    "b200": Gpu(178 * GIB, 2250e12, 75e12, "B200"),
    "h200": Gpu(139 * GIB, 989e12, 67e12, "H200"),
    "h100": Gpu(79 * GIB, 989e12, 67e12, "H100"),
    "a100-80": Gpu(79 * GIB, 312e12, 19.5e12, "A100-SXM4-80GB"),
    "a100-40": Gpu(39 * GIB, 312e12, 19.5e12, "A100-SXM4-40GB"),
    "l40s": Gpu(44 * GIB, 362e12, 91.6e12, "L40S"),
    "l4": Gpu(22 * GIB, 121e12, 30.3e12, "L4"),
    "a10": Gpu(22 * GIB, 125e12, 31.2e12, "A10"),
    "v100": Gpu(31 * GIB, None, 15.7e12, "V100-SXM2-32GB", 125e12),
    "rtx4090": Gpu(23 * GIB, 165e12, 82.6e12, "RTX 4090"),
    "rtx3090": Gpu(23 * GIB, 71e12, 35.6e12, "RTX 3090"),
}


def find_gpu(name: str) -> Gpu:
    """An accelerator by its short name.

    Raises:
        ConfigError: it is not in the table.
    """
    if name not in GPUS:
        raise ConfigError(f"no GPU is called {name!r}.{choices(name, GPUS)}")
    return GPUS[name]


def present_gpu(device: torch.device) -> Gpu | None:
    """The table's entry for the GPU of this machine, or None if it is not in the table."""
    words = set(torch.cuda.get_device_name(device).split())
    matching = (gpu for gpu in GPUS.values() if set(gpu.device_name.split()) <= words)
    return None if "Laptop" in words else next(matching, None)
