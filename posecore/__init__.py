"""Adapt foundation pose models to new bodies, from many datasets with many skeletons.

What is offered is in :mod:`posecore.api`, which is imported when something of it is asked for.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posecore.api import *  # noqa: F403  # this file is part of every step's code, so names are not listed here

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name.startswith("_") or find_spec(f"posecore.{name}") is not None:  # a module, which Python looks for next
        raise AttributeError(f"module posecore has no attribute {name!r}")
    api = import_module("posecore.api")
    if name not in api.__all__:
        raise AttributeError(f"module posecore has no attribute {name!r}; it offers {', '.join(api.__all__)}.")
    return getattr(api, name)


def __dir__() -> list[str]:
    return [*globals(), *import_module("posecore.api").__all__]
