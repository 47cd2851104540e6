"""Masked autoencoding: hide three quarters of the patches, encode the rest, predict the hidden pixels.

Source: arXiv 2111.06377 (MAE) and its recipe in Sapiens (arXiv 2408.12569; facebookresearch/sapiens @ 3e829ac,
``pretrain/mmpretrain/models/selfsup/mae.py``). A test holds encoder, decoder and loss to those of ``transformers``.

The patch convolution has **no padding** here, although fine-tuning pads by 2 as ViTPose and Sapiens were published: a
padded patch covers two pixel rows and columns of its neighbours, so a visible patch would give away the edges of
hidden ones. The weights of both are of one shape; fine-tuning learns the shift of two pixels, as it did there.

A Sapiens2 backbone has class and storage tokens and rotary positions of its own. Its published pre-training is this
loss and two more, a contrast of class tokens between crops and one that spreads them (arXiv 2604.21681, section 3),
whose code has not been released; here it learns from hidden patches alone, and the storage tokens, which no loss reads,
through attention only.

Suffix legend: B images, C H W channels and pixels, T patches, V visible tokens (class token first), D encoder width,
P = patch_size²·3 values of a patch, rows then columns then channels.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from posecore.config import Config
from posecore.errors import ConfigError
from posecore.methods.batch import DeviceBatch
from posecore.methods.crop_draws import random_orders
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.sapiens2 import Sapiens2, Sapiens2Config
from posecore.models.backbones.vit import Vit, VitConfig
from posecore.models.mae_decoder import MaeDecoder, MaeDecoderConfig, initialise_as_mae, sincos_positions
from posecore.models.pose_model import PoseModel, build_model

_VARIANCE_EPS = 1e-6


class MaskedAutoencoderConfig(Config):
    """What is hidden and how it is predicted.

    Attributes:
        masking_ratio: share of the patches that is hidden; of T patches, T·(1 - ratio) rounded down stay visible.
        normalise_patches: predict each patch with its own mean and spread taken out, which the paper found better.
        decoder: the decoder, thrown away after pre-training.
    """

    masking_ratio: float = Field(default=0.75, gt=0, lt=1)
    normalise_patches: bool = True
    decoder: MaeDecoderConfig = MaeDecoderConfig()


class MaskedAutoencoder(nn.Module):
    """A backbone that learns from images alone.

    Args:
        model: its backbone is trained; see :func:`pretraining_model`. Its position embedding stays as it is.
        config: what is hidden and how it is predicted.

    Raises:
        ConfigError: the input has too few patches for the masking ratio.
    """

    def __init__(self, model: PoseModel, config: MaskedAutoencoderConfig | None = None) -> None:
        super().__init__()
        self.model = model
        self.config = config or MaskedAutoencoderConfig()
        architecture = model.config
        self.patch_size = architecture.backbone.stride
        rows, columns = architecture.feature_size
        self.num_patches = rows * columns
        # The small term keeps 10·(1 - 0.9), which is just below 1 in floating point, at 1.
        self.num_visible = int(self.num_patches * (1 - self.config.masking_ratio) + 1e-9)
        if not 0 < self.num_visible < self.num_patches:
            raise ConfigError(
                f"method.masking_ratio {self.config.masking_ratio} leaves {self.num_visible} of the {self.num_patches} "
                f"patches of a {architecture.input_size[0]}x{architecture.input_size[1]} input visible; change one."
            )
        width = self.backbone.num_features
        backbone = self.backbone
        self.decoder = MaeDecoder(self.config.decoder, width, architecture.feature_size, 3 * self.patch_size**2)
        if isinstance(backbone, Vit):
            backbone.pos_embed.requires_grad_(False)
            # One-dimensional, so that weight decay leaves it alone, as in Sapiens.
            self.class_token = nn.Parameter(torch.empty(width))
            nn.init.normal_(self.class_token, std=0.02)

    @property
    def backbone(self) -> Vit | Sapiens2:
        """What is kept after pre-training."""
        backbone = self.model.backbone
        assert isinstance(backbone, Vit | Sapiens2)
        return backbone

    def forward(self, batch: DeviceBatch) -> dict[str, Tensor]:
        """The loss terms; a method's forward is :meth:`losses`, so that sharding hooks see every call."""
        return self.losses(batch)

    def losses(self, batch: DeviceBatch) -> dict[str, Tensor]:
        """Mean squared error of the hidden patches: each dataset's share of the batch's mean, as ``loss/<dataset>``.

        Args:
            batch: the micro-batch; what is hidden of a crop depends on its seed and nothing else.
        """
        order_BT = random_orders(torch.cat([group.seeds for group in batch.groups]), self.num_patches)
        error_B = self.errors(batch.images, order_BT)
        return {f"loss/{group.dataset}": error_B[group.start : group.stop].sum() / len(batch) for group in batch.groups}

    def errors(self, x_BCHW: Tensor, order_BT: Tensor) -> Tensor:
        """(B,) mean squared error of each image's hidden patches.

        Args:
            x_BCHW: normalised RGB.
            order_BT: permutation of the patches; the first :attr:`num_visible` are visible.
        """
        target_BTP = self._targets(patches_of(x_BCHW, self.patch_size))
        error_BT = (self.predict(x_BCHW, order_BT).float() - target_BTP).square().mean(dim=2)
        return error_BT.gather(1, order_BT[:, self.num_visible :]).mean(dim=1)

    def predict(self, x_BCHW: Tensor, order_BT: Tensor) -> Tensor:
        """(B, T, P) prediction of every patch from the visible ones; arguments as of :meth:`errors`."""
        return self.decoder(self.encode(x_BCHW, order_BT[:, : self.num_visible]), order_BT)

    def encode(self, x_BCHW: Tensor, visible_BT: Tensor) -> Tensor:
        """Encodes some patches of each image: a quarter of the patches costs less than a quarter of the work.

        Args:
            x_BCHW: normalised RGB.
            visible_BT: int64 indices of the patches to encode, as many for every image.

        Returns:
            (B, V, D): class token, then the patches in the order given.
        """
        backbone = self.backbone
        x_BTD = backbone.patch_embed(x_BCHW).flatten(2).transpose(1, 2)
        if isinstance(backbone, Sapiens2):
            sin_TE, cos_TE = backbone.rotation(self.model.config.feature_size, x_BCHW.device)
            by = sin_TE[visible_BT][:, None], cos_TE[visible_BT][:, None]
            encoded = backbone.encode(_chosen(x_BTD, visible_BT), by)
            return torch.cat([encoded[:, :1], encoded[:, 1 + backbone.config.num_storage_tokens :]], dim=1)
        x_BTD = _chosen(backbone.add_position(x_BTD), visible_BT)
        class_B1D = self.class_token.to(x_BTD.dtype).expand(len(x_BTD), 1, -1)  # its position is all zeros
        return backbone.encode(torch.cat([class_B1D, x_BTD], dim=1))

    @torch.no_grad()
    def reconstruct(self, x_BCHW: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """What a person wants to see.

        Args:
            x_BCHW: normalised RGB.
            seeds: (B,) int64, decide what is hidden.

        Returns:
            Two (B, 3, H, W) images, normalised RGB: with zeros in place of the hidden patches, and with predictions in
            their place. Where patches are predicted without mean and spread, they get those of the true patch.
        """
        order_BT = random_orders(seeds, self.num_patches)
        everything_BT = torch.ones_like(order_BT, dtype=torch.bool)
        hidden_BT1 = everything_BT.scatter(1, order_BT[:, : self.num_visible], False)[:, :, None]
        patches_BTP = patches_of(x_BCHW, self.patch_size)
        predicted_BTP = self.predict(x_BCHW, order_BT).float()
        if self.config.normalise_patches:
            mean, spread = _statistics(patches_BTP)
            predicted_BTP = predicted_BTP * spread + mean
        size = self.model.config.feature_size
        masked = torch.where(hidden_BT1, 0.0, patches_BTP)
        return image_of(masked, size), image_of(torch.where(hidden_BT1, predicted_BTP, patches_BTP), size)

    def _targets(self, patches_BTP: Tensor) -> Tensor:
        if not self.config.normalise_patches:
            return patches_BTP
        mean, spread = _statistics(patches_BTP)
        return (patches_BTP - mean) / spread


def pretraining_model(config: ModelConfig) -> PoseModel:
    """A backbone to pre-train, without heads, initialised as masked autoencoders are.

    The patch convolution loses its padding (see the module's description) and stochastic depth is switched off, as in
    every published masked autoencoder; the card of the model says so.

    Args:
        config: backbone and input size; its head is what fine-tuning would add and is not built.

    Raises:
        ConfigError: the backbone cannot encode a part of its patches.
    """
    backbone = config.backbone
    if isinstance(backbone, Sapiens2Config) and not backbone.tokenizer_depth:
        model = build_model(config.model_copy(update={"shared_heads": {}}), skeletons={})
        initialise_as_mae(model.backbone)
        return model
    if not isinstance(backbone, VitConfig):
        why = "pools patches before it encodes them" if isinstance(backbone, Sapiens2Config) else "cannot leave any out"
        raise ConfigError(
            f"model.backbone: masked autoencoding needs a vision transformer that encodes some patches without the "
            f"others (ViTPose, Sapiens, Sapiens2); {backbone.kind} {why}."
        )
    if backbone.expert_share:
        raise ConfigError(
            "model.backbone: images without labels belong to no expert; pre-train the same backbone with expert_share "
            "0 (vitpose-base for vitpose-plus-base), from which fine-tuning starts every expert."
        )
    if backbone.knowledge_tokens:
        raise ConfigError(
            "model.backbone: knowledge tokens are learned on a trained teacher (docs/distillation.md); pre-train the "
            "same backbone with knowledge_tokens 0."
        )
    plain = backbone.model_copy(update={"patch_padding": 0, "drop_path": 0.0, "window": 0})
    model = build_model(config.model_copy(update={"backbone": plain, "shared_heads": {}}), skeletons={})
    vit = model.backbone
    assert isinstance(vit, Vit)
    initialise_as_mae(vit)
    with torch.no_grad():
        positions = sincos_positions(config.feature_size, backbone.embed_dim)
        vit.pos_embed.copy_(positions[:, -vit.pos_embed.shape[1] :])  # Sapiens has no slot for the class token
    return model


def _chosen(x_BTD: Tensor, visible_BT: Tensor) -> Tensor:
    return x_BTD.gather(1, visible_BT[:, :, None].expand(-1, -1, x_BTD.shape[2]))


def patches_of(x_BCHW: Tensor, patch_size: int) -> Tensor:
    """(B, 3, H, W) to (B, T, P): patches row by row, each rows × columns × channels."""
    x = x_BCHW.unfold(2, patch_size, patch_size).unfold(3, patch_size, patch_size)  # B C h w p p
    return x.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


def image_of(patches_BTP: Tensor, feature_size: tuple[int, int]) -> Tensor:
    """The inverse of :func:`patches_of` for a (height, width) grid of patches."""
    patch_size = int((patches_BTP.shape[2] // 3) ** 0.5)
    x = patches_BTP.unflatten(2, (patch_size, patch_size, 3)).unflatten(1, feature_size)  # B h w p p C
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def _statistics(patches_BTP: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread of each patch; the variance is unbiased, as published."""
    mean = patches_BTP.mean(dim=2, keepdim=True)
    return mean, (patches_BTP.var(dim=2, keepdim=True) + _VARIANCE_EPS).sqrt()
