"""A tracking store that stops answering while a job runs: told from a refusal, and said in one sentence."""

from mlflow.exceptions import MlflowException
from requests.exceptions import ConnectionError as NoConnection
from requests.exceptions import RequestException, Timeout
from sqlalchemy.exc import OperationalError, SQLAlchemyError

_PASSES = ("TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED")
_NOT_ITS_FAULT = ("INTERNAL_ERROR", *_PASSES)
STORE_ERRORS = (MlflowException, SQLAlchemyError, RequestException)
"""What MLflow's client raises when the store refuses or does not answer."""


def may_pass(error: BaseException) -> bool:
    """Whether the same call may well succeed later: no answer, a busy database, a failing server; not a refusal."""
    if isinstance(error, MlflowException):
        return error.error_code in _NOT_ITS_FAULT
    return isinstance(error, (OperationalError, NoConnection, Timeout))


def is_busy(error: BaseException) -> bool:
    """Whether a store that does answer says itself that it will be able to later, so that it may be waited for.

    MLflow says so of every error of a database's operation, a full disk and a missing table among them.
    """
    code = error.error_code if isinstance(error, MlflowException) else ""
    if "OperationalError" in str(error) or isinstance(error, OperationalError):
        return "database is locked" in str(error)
    return code in _PASSES


def told(error: BaseException) -> str | None:
    """A store's error as one sentence; None for any other error."""
    if not isinstance(error, STORE_ERRORS):
        return None
    detail = " ".join(str(error).split())
    if len(detail) > 300:
        detail = detail[:300] + " …"
    if may_pass(error):
        return (
            f"the tracking store stopped answering ({detail}); what is finished stays: submit the same job again once "
            "the store answers."
        )
    return f"the tracking store refused ({detail})."


def system_error_behind(error: BaseException) -> OSError | None:
    """What the system said, where MLflow puts words of its own in its place: of a full disk, that a path is wrong."""
    behind = error.__cause__ or error.__context__
    while behind is not None and not isinstance(behind, OSError):
        behind = behind.__cause__ or behind.__context__
    return None if isinstance(behind, RequestException) else behind  # an OSError as well, of the network
