"""The terms published weights come under, and what a user of them must know.

Each is stated by its publisher; ``note`` says where. A fine-tuned model inherits the terms of the weights it started
from, which is why they travel in the model card and the registry.
"""

from collections.abc import Mapping

from posecore.datasets.definition import LicenseDefinition

LICENSES: Mapping[str, LicenseDefinition] = {
    license.id: license
    for license in (
        LicenseDefinition(
            id="Apache-2.0",
            commercial_use=True,
            note="The publisher's repository is under Apache-2.0; the data the weights were trained on have terms of "
            "their own.",
        ),
        LicenseDefinition(
            id="Apache-2.0 (non-commercial data)",
            commercial_use=None,
            note="The repository is under Apache-2.0, but the weights were trained, among others, on annotations for "
            "non-commercial use: COCO-WholeBody's or MPII's, and in DWPose UBody's.",
        ),
        LicenseDefinition(
            id="CC-BY-NC-4.0",
            commercial_use=False,
            note="The publisher's LICENSE is Creative Commons Attribution-NonCommercial 4.0, code and weights alike.",
        ),
        LicenseDefinition(
            id="Sapiens2",
            commercial_use=None,
            note="Meta's own Sapiens2 License, not open source: no surveillance, no biometric processing, no inferring "
            "of health or other sensitive information without the rights and consents the law requires, no unlicensed "
            "medical or health practice, no re-identification; derivatives come under the same agreement, "
            "publications must acknowledge it, and Meta may audit use and demand deletion. Have it cleared before "
            "using it on patients or infants.",
        ),
    )
}
"""By id."""
