"""Named backbones. Small to huge are ViTPose's; the others are ours, for tests, laptops and demonstrations.

Note that ``vit-small`` is not DeiT-S: it has 12 attention heads of 32 channels
(ViTAE-Transformer/ViTPose @ c050ed2, ``ViTPose_small_coco_256x192.py``). The layer-wise learning-rate decay published
with small, base, large and huge is 0.8, 0.75, 0.8 and 0.85.
"""

from posecore.models.vit import VitConfig

BACKBONES: dict[str, VitConfig] = {
    "vit-nano": VitConfig(embed_dim=64, depth=2, num_heads=2),
    "vit-micro": VitConfig(embed_dim=128, depth=4, num_heads=4),
    "vit-tiny": VitConfig(embed_dim=192, depth=12, num_heads=12, drop_path=0.1),
    "vit-small": VitConfig(embed_dim=384, depth=12, num_heads=12, drop_path=0.1),
    "vit-base": VitConfig(embed_dim=768, depth=12, num_heads=12, drop_path=0.3),
    "vit-large": VitConfig(embed_dim=1024, depth=24, num_heads=16, drop_path=0.5),
    "vit-huge": VitConfig(embed_dim=1280, depth=32, num_heads=16, drop_path=0.55),
}
