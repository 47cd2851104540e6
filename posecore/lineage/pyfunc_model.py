"""What MLflow runs when a stored model is loaded: the class itself comes from the library.

"Models from code" needs a file that calls ``set_model``. Nothing is pickled. Where the library is not installed, it is
taken from the archive beside this file, which was written when the model was registered.
"""

import atexit
import importlib.util
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import mlflow

if importlib.util.find_spec("posecore") is None:
    _folder = tempfile.mkdtemp(prefix="posecore-")
    atexit.register(shutil.rmtree, _folder, ignore_errors=True)
    with zipfile.ZipFile(Path(__file__).with_name("posecore.zip")) as _archive:
        _archive.extractall(_folder, [name for name in _archive.namelist() if name.startswith("posecore/")])
    sys.path.append(_folder)

from posecore.lineage.serving import PoseService

mlflow.models.set_model(PoseService())
