"""Ray Train's process group, made over the network interface that :mod:`posecore.cluster.network` chooses."""

from dataclasses import dataclass

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from posecore.cluster.network import choose_interface


class _Backend(_TorchBackend):
    def on_start(self, worker_group: object, backend_config: "GroupConfig") -> None:
        worker_group.execute(choose_interface, backend_config.interface)  # type: ignore[attr-defined]
        super().on_start(worker_group, backend_config)


@dataclass
class GroupConfig(TorchConfig):
    """Ray's settings of the process group, and the interface it is made over; None for that of each node's address."""

    interface: str | None = None

    @property
    def backend_cls(self) -> type[_Backend]:
        """Ray asks for it."""
        return _Backend
