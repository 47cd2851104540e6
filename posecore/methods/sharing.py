"""One word chooses how a model shares what it knows across skeletons: ``heads``, ``experts``, ``prototypes``.

Each configuration says what it needs of the architecture and builds the method that trains it. For users:
``docs/many_skeletons.md``.
"""

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BeforeValidator, Field

from posecore.config import Config
from posecore.methods.heads import ExpertsConfig, HeadsConfig
from posecore.methods.prototypes import PrototypesConfig
from posecore.methods.supervised import SupervisedConfig
from posecore.nearest import did_you_mean

_Supervised = TypeVar("_Supervised", bound=SupervisedConfig)


def _resolve_name(value: Any) -> Any:
    if isinstance(value, Config):
        return value
    values = {"kind": value} if isinstance(value, str) else value
    kind = values.get("kind") if isinstance(values, Mapping) else value
    if kind not in _KINDS:
        raise ValueError(
            f"{'nothing' if kind is None else repr(kind)} is none of {', '.join(_KINDS)}; give one of these words, or "
            f"{{kind: word, field: other value}}.{did_you_mean(kind, _KINDS)}"
        )
    return values


_KINDS = ("heads", "experts", "prototypes")

MethodConfig: TypeAlias = Annotated[
    HeadsConfig | ExpertsConfig | PrototypesConfig, Field(discriminator="kind"), BeforeValidator(_resolve_name)
]
"""Every method of supervised training there is: its name, or ``{kind: name, field: other value}``."""


def pinned(method: _Supervised) -> _Supervised:
    """The method with the digests of the files it reads, so that a changed file is a changed run.

    Raises:
        ConfigError: the prior's file is missing.
    """
    if method.prior is None:
        return method
    return method.model_copy(update={"prior": method.prior.pinned()})
