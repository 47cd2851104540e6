"""Which landmarks each annotation format lists, in its own order.

Written out here and not taken from the skeleton files, so that reading a synthetic dataset back checks those files.
"""

_SIDED = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
COCO_17 = ("nose", *(f"{side}_{name}" for name in _SIDED for side in ("left", "right")))

_FOOT_POINTS = ("big_toe", "small_toe", "heel")
_FINGERS = ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")

FOOT_6 = tuple(f"{side}_{name}" for side in ("left", "right") for name in _FOOT_POINTS)
FACE_68 = tuple(f"face-{index}" for index in range(68))


def hand_21(side: str) -> tuple[str, ...]:
    """Root, then thumb to little finger, each from its base (1) to its tip (4)."""
    return (f"{side}_hand_root", *(f"{side}_{finger}{joint}" for finger in _FINGERS for joint in (1, 2, 3, 4)))


WHOLEBODY_133 = (*COCO_17, *FOOT_6, *FACE_68, *hand_21("left"), *hand_21("right"))

MPII_16 = (
    "right_ankle",
    "right_knee",
    "right_hip",
    "left_hip",
    "left_knee",
    "left_ankle",
    "pelvis",
    "thorax",
    "upper_neck",
    "head_top",
    "right_wrist",
    "right_elbow",
    "right_shoulder",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
)

AP10K_17 = (
    "left_eye",
    "right_eye",
    "nose",
    "neck",
    "root_of_tail",
    "left_shoulder",
    "left_elbow",
    "left_front_paw",
    "right_shoulder",
    "right_elbow",
    "right_front_paw",
    "left_hip",
    "left_knee",
    "left_back_paw",
    "right_hip",
    "right_knee",
    "right_back_paw",
)

CROWDPOSE_14 = (
    *(
        f"{side}_{name}"
        for name in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
        for side in ("left", "right")
    ),
    "head_top",
    "upper_neck",
)
