"""One thing that is wrong with a download, in words."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning"]

MAX_EXAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, with how often and where.

    Attributes:
        severity: an ``error`` would be lost or do harm in ingestion; a ``warning`` deserves a look.
        code: kebab-case name of the problem.
        message: what is wrong, in words that follow the count.
        count: how many images or instances are affected.
        examples: up to :data:`MAX_EXAMPLES` places.
    """

    severity: Severity
    code: str
    message: str
    count: int = 1
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        many = f"{self.count} × " if self.examples else ""
        where = f" (for example {'; '.join(self.examples)})" if self.examples else ""
        return f"{self.severity}: {self.code}: {many}{self.message}{where}"
