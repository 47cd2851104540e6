"""Our masked autoencoder and the one of transformers are the same function of weights, image and noise."""

import pytest
import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining
from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

from posecore.methods.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig, pretraining_model
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.mae_decoder import MaeDecoderConfig, sincos_positions

SIZE, PATCH, WIDTH, DECODER = 32, 8, 24, 16


@pytest.fixture(scope="module", params=[True, False], ids=["normalised", "plain"])
def theirs(request) -> ViTMAEForPreTraining:
    torch.manual_seed(0)
    config = ViTMAEConfig(
        hidden_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=4 * WIDTH,
        image_size=SIZE,
        patch_size=PATCH,
        layer_norm_eps=1e-6,
        decoder_num_attention_heads=2,
        decoder_hidden_size=DECODER,
        decoder_num_hidden_layers=2,
        decoder_intermediate_size=4 * DECODER,
        norm_pix_loss=request.param,
        initializer_range=0.3,
    )
    model = ViTMAEForPreTraining(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
        model.decoder.mask_token.normal_()
        # This release forgets to fill them in a fresh model.
        model.vit.embeddings.position_embeddings[:, 1:] = torch.randn(16, WIDTH)
        model.decoder.decoder_pos_embed[:, 1:] = torch.randn(16, DECODER)
    return model


@pytest.fixture(scope="module")
def ours(theirs: ViTMAEForPreTraining) -> MaskedAutoencoder:
    backbone = VitConfig(embed_dim=WIDTH, depth=3, num_heads=4, patch_size=PATCH)
    config = MaskedAutoencoderConfig(
        normalise_patches=theirs.config.norm_pix_loss,
        decoder=MaeDecoderConfig(depth=2, width=DECODER, num_heads=2),
    )
    method = MaskedAutoencoder(pretraining_model(ModelConfig(backbone=backbone, input_size=(SIZE, SIZE))), config)
    tensors = {}
    for name, tensor in theirs.state_dict().items():
        if name.endswith(("q_proj.weight", "q_proj.bias")):
            parts = [theirs.state_dict()[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            tensors[name.replace("q_proj", "qkv")] = torch.cat(parts)
        elif "k_proj" not in name and "v_proj" not in name:
            tensors[name] = tensor
    renamed = {_our_name(name): tensor for name, tensor in tensors.items()}
    for token in ("class_token", "decoder.mask_token"):
        renamed[token] = renamed[token].flatten()
    method.load_state_dict(renamed)
    return method.eval()


def _our_name(name: str) -> str:
    for theirs, ours in (
        ("vit.embeddings.cls_token", "class_token"),
        ("vit.embeddings.position_embeddings", "model.backbone.pos_embed"),
        ("vit.embeddings.patch_embeddings.projection", "model.backbone.patch_embed.proj"),
        ("vit.layernorm.", "model.backbone.last_norm."),
        ("vit.layers.", "model.backbone.blocks."),
        ("decoder.decoder_layers.", "decoder.blocks."),
        ("decoder.decoder_", "decoder."),
        ("decoder.pred.", "decoder.predict."),
        ("attention.o_proj", "attn.proj"),
        ("attention.", "attn."),
        ("layernorm_before", "norm1"),
        ("layernorm_after", "norm2"),
    ):
        name = name.replace(theirs, ours)
    return name


def _images() -> torch.Tensor:
    return torch.randn(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def test_encoder_decoder_and_loss_agree(theirs: ViTMAEForPreTraining, ours: MaskedAutoencoder) -> None:
    images = _images()
    noise = torch.rand(5, 16, generator=torch.Generator().manual_seed(2))
    order = noise.argsort(dim=1)
    with torch.no_grad():
        expected = theirs(images, noise=noise)
        encoded = theirs.vit(images, noise=noise).last_hidden_state
        torch.testing.assert_close(ours.encode(images, order[:, :4]), encoded, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.predict(images, order), expected.logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.errors(images, order).mean(), expected.loss, atol=1e-5, rtol=0)


def test_positions_are_theirs() -> None:
    rows_first = build_2d_sinusoidal_position_embedding(3, 5, WIDTH, cls_token=True)
    theirs = torch.cat([rows_first[:, WIDTH // 2 :], rows_first[:, : WIDTH // 2]], dim=1)
    torch.testing.assert_close(sincos_positions((3, 5), WIDTH)[0], theirs, atol=1e-6, rtol=0)
    assert not theirs[0].any()
