"""Sizes beyond which a description is no pose model but a mistake, or a file that asks for all memory.

The largest published models have a width of 2432 (Sapiens2-5B), 56 blocks and 308 points. A description within the
bounds can be built on PyTorch's ``meta`` device in seconds and without memory, and then be compared with its weights.
"""

MAX_WIDTH = 16_384
"""Channels of a layer."""
MAX_DEPTH = 128
"""Blocks of a backbone."""
MAX_RATIO = 16
"""Of widths within a block, or of a network's widths and depths to those it was published with."""
MAX_TOKENS = 1024
"""Learned tokens beside an image's own, or prototypes of a point."""
MAX_PATCH_PX = 256
MAX_INPUT_PX = 8192
"""Side of a crop."""
MAX_LAYERS = 8
"""Of a head, of one kind."""
MAX_HEADS = 256
"""Datasets of one model."""
