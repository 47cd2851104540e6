"""A new SQLite tracking store, whole or absent.

MLflow makes its tables one migration after another, for seconds. Where that is interrupted, the half-made file is
refused by every later start ("table … already exists").
"""

import os
from pathlib import Path

from mlflow import MlflowClient

from posecore.asides import aside_file


def create_store(path: Path) -> None:
    """Makes the tables in a file beside, which gets its name when they are all there; another driver may be faster."""
    with aside_file(path.parent, ".db") as aside:
        uri = f"sqlite:///{aside}"
        MlflowClient(tracking_uri=uri, registry_uri=uri).search_experiments(max_results=1)
        give_name(aside, path)


def give_name(aside: Path, path: Path) -> None:
    """Gives a whole file its name, unless another has it."""
    try:
        os.link(aside, path)  # unlike a rename it takes nobody's place
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        if not path.exists():
            aside.rename(path)
