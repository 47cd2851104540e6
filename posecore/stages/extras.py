"""Keys of extras that stages write, that others may read, and that none may take away again."""

ANNOTATED_BOX = "annotated_bbox_xywh"
"""Of a body: the box it came with, where ``box_from_points`` made another."""

VIDEO = "video"
"""Of an image that was a frame of a video: ``frame``, its number from 0, ``time_s`` since the first, mean ``fps``."""

DETECTED = "detected"
"""Of an image: what ``detect`` found, by class; x, y, w, h in image pixels and a score of each box."""

PSEUDO_LABEL = "pseudo_label"
"""Of a body, or of an image that is one: what ``pseudo_label`` found: ``model``, ``skeleton``, and ``points``, by name
x, y in image pixels and a score."""

OF_STAGES = frozenset({ANNOTATED_BOX, VIDEO, DETECTED, PSEUDO_LABEL})
"""All of them."""
