"""MLflow runs, steps, dataset lineage, registry, promotion and serving.

MLflow's usage reporting is off unless the environment asks for it: what a lab trains on is not for a third party, and
a machine without a network should not wait for one. It must be decided before mlflow is first imported, hence here.
"""

import os

from posecore.extras import refuse_missing

refuse_missing("mlflow", "the lineage of models")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
