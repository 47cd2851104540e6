"""What a job says, and with which status it ends, when something stops it."""

import errno
import re
import signal
import subprocess
import sys

import pytest
from botocore.exceptions import EndpointConnectionError
from mlflow.exceptions import MlflowException
from ray.exceptions import LocalRayletDiedError, RayTaskError
from ray.train import WorkerGroupError
from safetensors import SafetensorError

from posecore.cluster.endings import exit_status, one_sentence
from posecore.errors import CheckpointError

FULL = OSError(errno.ENOSPC, "No space left on device", "/run/model.safetensors")
NO_SPACE = r"no space is left on the disk.*submit the same job again"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (FULL, r"\(/run/model.safetensors\)"),
        (FULL, NO_SPACE),
        (SafetensorError("I/O error: No space left on device (os error 28)"), NO_SPACE),
        (MlflowException("(sqlite3.OperationalError) database or disk is full"), NO_SPACE),
        (RayTaskError("f", "Traceback (most recent call last):", FULL), NO_SPACE),
        (WorkerGroupError("2 workers", {0: FULL, 1: ValueError("broken pipe of the other")}), NO_SPACE),
        (WorkerGroupError("1 worker", {0: CheckpointError("of another model")}), "^of another model$"),
        (LocalRayletDiedError(), r"Ray gave up \(LocalRayletDiedError: .*\); what is finished stays"),
        (MlflowException("API request to http://x failed with exception y"), "stopped answering .*submit the same job"),
        (MlflowException("no such run", error_code=5), r"^the tracking store refused \(no such run\)\.$"),
        (
            EndpointConnectionError(endpoint_url="http://store:9000"),
            r"^a store does not do what it is asked \(.*store:9000",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "run.yaml"), "^run.yaml: there is no such file"),
    ],
)
def test_a_fault_from_outside_is_one_sentence(error: Exception, sentence: str) -> None:
    said = one_sentence(error)
    assert said is not None
    assert re.search(sentence, said)
    assert "\n" not in said


@pytest.mark.parametrize("error", [KeyError("x"), RayTaskError("f", "stack", KeyError("x"))])
def test_a_fault_of_the_program_keeps_its_stack(error: Exception) -> None:
    assert one_sentence(error) is None

    def job() -> None:
        raise error

    with pytest.raises(type(error)):
        exit_status(job)


JOB = """
import sys, time
from posecore.cluster.endings import exit_status

def job():
    try:
        print("begun", flush=True)
        while True:  # a signal that comes just before a long sleep would wait for its end
            time.sleep(0.05)
    finally:
        print("cleaned up", flush=True)

sys.exit(exit_status(job))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_job_with_one_line(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", JOB], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "begun\n"
        job.send_signal(number)
        output, errors = job.communicate(timeout=50)
    assert output == "cleaned up\n"
    assert errors == f"stopped by {number.name}: what is finished stays: submit the same job again to go on.\n"
    assert job.returncode == 128 + number
