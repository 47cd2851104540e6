"""Writes ``requirements.lock``: whatever posecore[dev] needs, at the versions that are installed."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
OWN = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HEAD = "# Every package of `make`, as the tests were last run with it; made by `make lock`. The metadata allow more.\n"


def needed(name: str, extras: frozenset[str]) -> dict[str, str]:
    """Each distribution that one needs with some of its extras, and its version."""
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(name, extras)]
    while waiting:
        wanted = waiting.pop()
        if wanted in seen:
            continue
        seen.add(wanted)
        if wanted[0] == "posecore":
            required = OWN["dependencies"] + [
                text for extra in wanted[1] for text in OWN["optional-dependencies"][extra]
            ]
        else:
            try:
                installed = distribution(wanted[0])
            except PackageNotFoundError:
                continue  # of another platform or Python
            found[re.sub(r"[-_.]+", "-", wanted[0]).lower()] = installed.version.split("+")[0]
            required = installed.requires or []
        for requirement in map(Requirement, required):
            asked = [""] if not wanted[1] else list(wanted[1])
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in asked):
                waiting.append((requirement.name, frozenset(requirement.extras)))
    return found


if __name__ == "__main__":
    versions = needed("posecore", frozenset({"dev"}))
    LOCK.write_text(HEAD + "".join(f"{name}=={version}\n" for name, version in sorted(versions.items())))
    print(f"{LOCK.name}: {len(versions)} packages")
