"""Packages that not every use needs, by the extra of ``pip install 'posecore[…]'`` that brings them."""

import importlib
from importlib.util import find_spec
from types import ModuleType

from posecore.errors import ConfigError

EXTRAS = {
    "deepspeed": "train",
    "peft": "train",
    "ray": "cluster",
    "mlflow": "lineage",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
    "openvino": "openvino",
    "transformers": "detector",
    "pynwb": "nwb",
    "ndx_pose": "nwb",
}


def refuse_missing(package: str, what: str) -> None:
    """Returns if a package is installed; it is not imported.

    Raises:
        ConfigError: it is not; says what needs it and which extra has it.
    """
    if find_spec(package) is None:
        raise ConfigError(
            f"{what} needs the package {package}, which is not installed: pip install 'posecore[{EXTRAS[package]}]'."
        )


def needed(package: str, what: str) -> ModuleType:
    """A package of an extra, imported.

    Raises:
        ConfigError: it is not installed.
    """
    refuse_missing(package, what)
    return importlib.import_module(package)
