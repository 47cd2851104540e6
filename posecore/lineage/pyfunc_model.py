"""What MLflow stores as a model's code and runs when the model is loaded; the class itself comes with posecore.

"Models from code" needs a file that calls ``set_model``. Nothing of ours is pickled, so a stored model cannot run
code other than the installed library's.
"""

import mlflow

from posecore.lineage.serving import PoseService

mlflow.models.set_model(PoseService())
