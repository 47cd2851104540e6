"""Every error this library raises on purpose, in one tree.

::

    PoseCoreError
    ├── ConfigError         a YAML file, an override or a combination of settings is wrong
    │   └── UsageError        an option of a command is missing, malformed, or contradicts another
    ├── DatasetError        a dataset definition, a download or an annotation file is wrong
    ├── IngestError         raw data could not be turned into shards
    │   └── ImageHeaderError  an image file is empty, cut, or neither JPEG nor PNG
    ├── IntegrityError      stored bytes (shard, index, checkpoint) are not what was written
    ├── StorageError        a remote store does not answer, or there is no room for what it holds
    ├── LeakageError        train and eval data share images, subjects or videos
    ├── CheckpointError     a checkpoint does not fit the model, is incomplete, or not finite
    ├── DivergenceError     a loss, a gradient or a weight in training is not finite
    ├── PreflightError      the machine or the services cannot run the job; nothing was started
    ├── EvaluationError     predictions and ground truth do not fit together
    ├── PredictionError     a photo, a video, a box or a detector cannot be used
    ├── LineageError        tracking server, registry or promotion gate said no
    └── QuestionError       what was asked about is nothing that is recorded

A message is one or two sentences: what is wrong, where (file, record, field), why, and what to do.
Errors a user can cause also derive from :class:`ValueError`, so that callers need not import this module.
"""

import traceback


class PoseCoreError(Exception):
    """Root of all deliberate errors."""


class ConfigError(PoseCoreError, ValueError):
    """A configuration is wrong; the message names the field and what is allowed."""


class UsageError(ConfigError):
    """A command was called in a way that no file and no machine could make right; ends with status 2."""


class DatasetError(PoseCoreError, ValueError):
    """A dataset definition, download or annotation file is wrong."""


class IngestError(PoseCoreError, ValueError):
    """Raw data could not be turned into shards."""


class ImageHeaderError(IngestError):
    """An image file's first bytes do not state a size: empty, cut, or neither JPEG nor PNG."""


class IntegrityError(PoseCoreError, ValueError):
    """Stored bytes are not what was written."""


class StorageError(PoseCoreError, OSError):
    """A remote store did not answer, however often it was asked, or the local disk has no room for what it holds."""


class LeakageError(PoseCoreError, ValueError):
    """Train and eval data share images, subjects or videos."""


class CheckpointError(PoseCoreError, ValueError):
    """A checkpoint does not fit the model, is incomplete, or holds numbers that are not finite."""


class DivergenceError(PoseCoreError, ArithmeticError):
    """A loss, a gradient or a weight in training is not finite; on every rank alike, and again if tried again."""


class PreflightError(PoseCoreError, RuntimeError):
    """The machine or the services cannot run the job; nothing was started."""


class EvaluationError(PoseCoreError, ValueError):
    """Predictions and ground truth do not fit together."""


class PredictionError(PoseCoreError, ValueError):
    """A photo, a video, a box or a detector cannot be used."""


class LineageError(PoseCoreError, RuntimeError):
    """Tracking server, registry or promotion gate said no."""


class QuestionError(PoseCoreError, ValueError):
    """A question about lineage names something that was never recorded; the answer is not "none"."""


def status_of(error: BaseException) -> int:
    """The exit status of a command that an error ended."""
    return 2 if isinstance(error, UsageError | QuestionError) else 1


def failing_line(error: BaseException) -> str:
    """Where somebody's code failed, as `` in FILE, line N``: the innermost line that is not of an installed package."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" in {error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename and not frame.filename.startswith("<")]
    return "".join(f" in {frame.filename}, line {frame.lineno}" for frame in (own or frames)[-1:])


def said(error: BaseException) -> str:
    """An error's kind and words, without the end of a sentence."""
    return f"{type(error).__name__}: {error}".rstrip(".: ")
