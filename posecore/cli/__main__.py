"""``python -m posecore.cli`` is ``posecore``."""

import sys

from posecore.cli import main

sys.exit(main())
