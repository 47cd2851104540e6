"""Named augmentations, to be used as ``augment: infant`` or, with changes, ``augment: {preset: infant, …}``.

``published`` is what :class:`~posecore.loading.augment.AugmentConfig` has by default: the augmentation of ViTPose, for
people who mostly stand.

``mmpose`` is how crops of RTMPose, DWPose and Sapiens are chosen, but for sizes, turns and appearance, in which these
differ: mmpose 1's half bodies and truncated normal distributions.

``infant`` is for bodies that lie, in any direction, under covers, before any camera:

=================== ===== =============================================================================================
full-circle turns   0.75  In SyRIP the torso is more than 45° from upright in 54 % of the images and more than 90° in
                          20 %; in COCO in 4 % and 0 %. A share p of uniform turns puts 0.75·p of upright bodies beyond
                          45°, so 0.72 is what adults in the mixture need to look like infants.
blanket             0.5   The chest of infants in intensive care is covered half of the time, which costs 0.15 OKS
                          (Grafton et al., npj Digit. Med. 8:539, 2025).
blanket's reach     0.2 – From the shins to the chest. The head is a quarter of an infant's length, so 0.7 ends below
                    0.7   the shoulders.
scale               0.35  As FiDIP was trained (ostadabbas/Infant-Pose-Estimation).
infrared            0.2   Night cameras in wards and homes are near-infrared. No published share: judgement.
grey                0.1   Cameras that switch to black and white at dusk. No published share: judgement.
=================== ===== =============================================================================================
"""

from collections.abc import Mapping

AUGMENT_PRESETS: Mapping[str, dict[str, float | str]] = {
    "published": {},
    "mmpose": {
        "half_body_rule": "mmpose",
        "scale_distribution": "truncated",
        "rotation_degrees": 80.0,
        "rotation_distribution": "truncated",
        "center_jitter": "per_sample",
        "center_jitter_distribution": "truncated",
        "center_jitter_extent": 0.16,
    },
    "infant": {
        "scale_factor": 0.35,
        "rotation_probability": 0.75,
        "rotation_degrees": 180.0,
        "rotation_distribution": "uniform",
        "blanket_probability": 0.5,
        "blanket_least_cover": 0.2,
        "blanket_most_cover": 0.7,
        "infrared_probability": 0.2,
        "grey_probability": 0.1,
    },
}
"""Fields of an :class:`~posecore.loading.augment.AugmentConfig` by preset."""
