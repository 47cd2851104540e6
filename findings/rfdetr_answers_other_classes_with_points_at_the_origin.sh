#!/usr/bin/env bash
# rfdetr 1.11.2: a keypoint model answers every query above the threshold, also those of classes that have no points. In
# supervision.KeyPoints such a body has all points at (0, 0) and `visible` false, a confidence of 0 each, a covariance of
# NaN, and a score and a box as any other. One guesses that every row of `xy` is a pose; whoever takes them for one has
# bodies at the corner of the picture. Where no body is left the field `covariance` is missing, not empty.
#
# Seen with random weights (one class of 17 points, and the background), threshold 0: of 100 bodies some have points and
# covariances, all the others are as above; threshold 1: nobody, and no covariance. Fails if that changes.
#
# torchvision's wheel of the package index is built for CUDA. Beside a torch for processors its import ends with "operator
# torchvision::nms does not exist"; none of its compiled operators is needed here, so their names are declared first.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torch==2.13.0' 'torchvision==0.28.0' 'rfdetr==1.11.2' 'supervision==0.31.2'
cat > "$work/ask.py" <<'PYTHON'
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

if torch.version.cuda is None:
    source = Path(find_spec("torchvision").origin).with_name("_meta_registrations.py").read_text()
    operators = torch.library.Library("torchvision", "DEF")
    for name in {a or b for a, b in re.findall(r'register_meta\("(\w+)"\)|"torchvision::(\w+)"', source)}:
        operators.define(f"{name}(Tensor given) -> Tensor")

from rfdetr import RFDETRKeypointPreview

torch.manual_seed(0)
model = RFDETRKeypointPreview(pretrain_weights=None, device="cpu", num_classes=1, resolution=96)
picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
found = model.predict(picture, threshold=0.0, include_source_image=False)
known = found.class_id == 0
covariances = found.data["covariance"]
print(f"{len(found)} bodies, {known.sum()} of the class with points")
print("score, first point, its confidence and covariance of one of each class:")
for rows in (known, ~known):
    row = int(np.flatnonzero(rows)[0])
    confidence = found.keypoint_confidence[row, 0]
    print(found.detection_confidence[row], found.xy[row, 0], confidence, covariances[row, 0].tolist())
others = found.xy[~known], found.keypoint_confidence[~known], found.visible[~known]
nobody = model.predict(picture, threshold=1.0, include_source_image=False)
print(f"nobody: {len(nobody)} bodies, fields {sorted(nobody.data)}")
held = [
    0 < known.sum() < len(found) == 100,
    not any(np.any(each) for each in others),
    bool(np.isnan(covariances[~known]).all() and np.isfinite(covariances[known]).all()),
    bool((found.keypoint_confidence[known] > 0).all() and found.visible[known].all()),
    len(nobody) == 0 and "covariance" not in nobody.data and nobody.xy.shape == (0, 17, 2),
]
print(held)
sys.exit(not all(held))
PYTHON
"$work/venv/bin/python" -W ignore "$work/ask.py" 2> "$work/log" || { tail -5 "$work/log"; exit 1; }
