"""Counter-based random streams: what is drawn for one image never depends on which images were drawn before it."""

import numpy as np

_STREAMS = (
    "adult scene",
    "adult",
    "infant scene",
    "infant",
    "quadruped scene",
    "quadruped",
    "detections",
    "crowd scene",
    "incubator scene",
)


def generator(stream: str, seed: int, index: int) -> np.random.Generator:
    """A generator keyed by (stream, seed, index); ``index`` is a picture's number, or a subject's."""
    counter = np.array([0, 0, 0, _STREAMS.index(stream)], np.uint64)
    return np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64), counter=counter))
