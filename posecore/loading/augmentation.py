"""What every further change of a crop's pixels is."""

import numpy as np
from numpy.typing import NDArray

from posecore.config import Extension


class Augmentation(Extension):
    """The protocol of changes that a training crop goes through after it is cut, and that move no point."""

    def __call__(self, crop: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
        """The crop as it is shown; a pure function of both, for a resumed run shows what the first would have.

        Args:
            crop: (h, w, 3) uint8 RGB, contiguous; may be changed in place.
            random: of this sample and this change.
        """
        raise NotImplementedError(f"{type(self).__name__} has to change a crop")
