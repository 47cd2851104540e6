"""What is hidden, what it costs not to see it, and that nothing but the images and their seeds decides."""

import numpy as np
import pytest
import torch

from posecore.errors import ConfigError
from posecore.methods.batch import to_device
from posecore.methods.crop_draws import random_orders, random_words
from posecore.methods.masked_autoencoder import (
    MaskedAutoencoder,
    MaskedAutoencoderConfig,
    image_of,
    patches_of,
    pretraining_model,
)
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.sapiens2 import Sapiens2Config
from posecore.models.backbones.vit import VitConfig
from posecore.models.mae_decoder import MaeDecoderConfig
from posecore.models.pose_model import build_model
from posecore.models.saving import load_model, save_model
from posecore.models.warm_start import warm_start
from posecore.skeletons.skeleton import Keypoint, Skeleton
from posecore.training.optimizer import OptimizerConfig, parameter_groups
from tests.support.tiny_training import tiny_batches

TINY_DECODER = MaeDecoderConfig(depth=1, width=16, num_heads=2)


def method(size: tuple[int, int] = (64, 48), ratio: float = 0.75, **backbone: object) -> MaskedAutoencoder:
    torch.manual_seed(0)
    vit = VitConfig(**{"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8, "drop_path": 0.3} | backbone)
    model = pretraining_model(ModelConfig(backbone=vit, input_size=size))
    return MaskedAutoencoder(model, MaskedAutoencoderConfig(masking_ratio=ratio, decoder=TINY_DECODER))


def images(count: int, size: tuple[int, int] = (64, 48)) -> torch.Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(4))


def test_words_are_those_of_splitmix64() -> None:
    def splitmix64(seed: int, count: int) -> list[int]:
        words, state, mask = [], seed, (1 << 64) - 1
        for _ in range(count):
            state = (state + 0x9E3779B97F4A7C15) & mask
            z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
            words.append(z ^ (z >> 31))
        return words

    # The first output for seed 0 is the one every implementation quotes.
    assert splitmix64(0, 1) == [0xE220A8397B1DCDAF]
    seeds = [0, 1, 2**63 + 12345, 2**64 - 1]
    expected = np.array([splitmix64(seed, 9) for seed in seeds], np.uint64)
    words = random_words(torch.from_numpy(np.array(seeds, np.uint64).view(np.int64)), 9)
    np.testing.assert_array_equal(words.numpy().view(np.uint64), expected)


def test_orders_are_permutations_and_every_patch_is_hidden_equally_often() -> None:
    orders = random_orders(torch.arange(4000), 12)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(12).expand(4000, -1))
    visible = torch.zeros(12).scatter_add(0, orders[:, :3].flatten(), torch.ones(12000))
    assert (visible / 4000 - 0.25).abs().max() < 0.03  # 4.4 standard deviations


@pytest.mark.parametrize(
    ("patches", "ratio", "visible"), [(48, 0.75, 12), (10, 0.9, 1), (6, 0.75, 1), (196, 0.75, 49), (48, 0.5, 24)]
)
def test_the_masking_ratio_is_exact(patches: int, ratio: float, visible: int) -> None:
    small = method(size=(8, 8 * patches), ratio=ratio)
    assert small.num_visible == visible
    pictures = images(3, (8, 8 * patches))
    masked, _ = small.eval().reconstruct(pictures, torch.arange(3))
    hidden = (patches_of(masked, 8) == 0).all(dim=2).sum(dim=1)
    assert hidden.tolist() == [patches - visible] * 3


def test_published_settings_are_the_defaults() -> None:
    config = MaskedAutoencoderConfig()
    assert (config.masking_ratio, config.normalise_patches) == (0.75, True)
    assert config.decoder == MaeDecoderConfig(depth=8, width=512, num_heads=16, mlp_ratio=4.0)


def test_a_ratio_that_leaves_nothing_to_see_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"masking_ratio 0.9 leaves 0 of the 6 patches of a 8x48 input"):
        method(size=(8, 48), ratio=0.9)


def test_loss_against_numpy() -> None:
    ours = method().eval()
    pictures = images(3)
    order = random_orders(torch.tensor([5, 6, 7]), 48)
    with torch.no_grad():
        predicted = ours.predict(pictures, order).double().numpy()
        errors = ours.errors(pictures, order)
    for image in range(3):
        total = 0.0
        for patch in order[image, 12:].tolist():
            row, column = divmod(patch, 6)
            window = pictures[image, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].double().numpy()
            values = [window[c, y, x] for y in range(8) for x in range(8) for c in range(3)]
            normed = (np.array(values) - np.mean(values)) / np.sqrt(np.var(values, ddof=1) + 1e-6)
            total += np.mean((predicted[image, patch] - normed) ** 2)
        assert errors[image].item() == pytest.approx(total / 36, rel=1e-5)


def test_patches_and_images_are_inverse() -> None:
    pictures = images(2)
    assert torch.equal(image_of(patches_of(pictures, 8), (8, 6)), pictures)


def test_seeing_all_patches_in_any_order_is_the_full_encoder() -> None:
    ours = method().eval()
    pictures = images(2)
    backbone = ours.model.backbone
    order = random_orders(torch.tensor([1, 2]), 48)
    with torch.no_grad():
        encoded = ours.encode(pictures, order)
        tokens = backbone.patch_embed(pictures).flatten(2).transpose(1, 2) + backbone.pos_embed[:, 1:]
        whole = backbone.encode(torch.cat([ours.class_token.expand(2, 1, -1), tokens], dim=1))
    torch.testing.assert_close(encoded[:, 0], whole[:, 0], atol=1e-5, rtol=0)
    for image in range(2):
        torch.testing.assert_close(encoded[image, 1:], whole[image, 1:][order[image]], atol=1e-5, rtol=0)


def test_hidden_pixels_change_neither_encoding_nor_prediction() -> None:
    ours = method().eval()
    pictures = images(2)
    order = random_orders(torch.tensor([1, 2]), 48)
    changed = patches_of(pictures, 8).scatter(1, order[:, 12:, None].expand(-1, -1, 192), 9.0)
    with torch.no_grad():
        assert torch.equal(ours.predict(pictures, order), ours.predict(image_of(changed, (8, 6)), order))


def test_dataset_terms_add_up_to_the_mean_whatever_the_batch_is_cut_into() -> None:
    ours = method().eval()
    batch = to_device(next(tiny_batches(1, rank=0, world_size=1)), torch.device("cpu"))
    ranks = [to_device(next(tiny_batches(1, rank=rank, world_size=2)), torch.device("cpu")) for rank in (0, 1)]
    with torch.no_grad():
        losses = ours(batch)
        halves = [ours(half) for half in ranks]
    assert set(losses) == {"loss/people", "loss/dogs"}
    for name, loss in losses.items():
        mean = (halves[0][name] + halves[1][name]) / 2
        assert loss.item() == pytest.approx(mean.item(), rel=1e-5)


def test_positions_are_frozen_and_tokens_are_not_decayed() -> None:
    ours = method()
    trained = {name for name, parameter in ours.named_parameters() if parameter.requires_grad}
    assert "model.backbone.pos_embed" not in trained
    names = {id(parameter): name for name, parameter in ours.named_parameters()}
    decayed = {
        names[id(parameter)]
        for group in parameter_groups(ours, OptimizerConfig(layer_decay=1.0))
        for parameter in group["params"]
        if group["weight_decay"]
    }
    assert "decoder.predict.weight" in decayed
    assert not decayed & {"class_token", "decoder.mask_token"}
    assert not any(name.endswith("bias") or "norm" in name for name in decayed)


@pytest.mark.parametrize("normalised", [True, False])
def test_a_perfect_prediction_restores_the_image(normalised: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = method()
    ours.config = ours.config.model_copy(update={"normalise_patches": normalised})
    pictures = images(4)
    patches = patches_of(pictures, 8)
    if normalised:
        patches = (patches - patches.mean(2, keepdim=True)) / (patches.var(2, keepdim=True) + 1e-6).sqrt()
    monkeypatch.setattr(ours, "predict", lambda *_: patches)
    masked, restored = ours.reconstruct(pictures, torch.arange(4))
    torch.testing.assert_close(restored, pictures, atol=1e-5, rtol=0)
    visible = masked != 0
    assert visible.float().mean().item() == pytest.approx(0.25, abs=1e-6)
    assert torch.equal(masked[visible], pictures[visible])
    assert torch.equal(restored[visible], pictures[visible])


def test_the_export_is_the_encoder_that_was_trained(tmp_path) -> None:
    ours = method().eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    save_model(ours.model, tmp_path)
    loaded = load_model(tmp_path)
    backbone = loaded.config.backbone
    assert (backbone.patch_padding, backbone.drop_path) == (0, 0.0)
    assert loaded.backbone.pos_embed.shape == (1, 1 + 48, 32)
    assert torch.equal(loaded.backbone(images(2)), ours.model.backbone(images(2)))


def test_sapiens_has_no_slot_for_the_class_token() -> None:
    plain, slotted = method(position="plain"), method()
    assert plain.model.backbone.pos_embed.shape[1] == 48
    assert torch.equal(plain.model.backbone.pos_embed, slotted.model.backbone.pos_embed[:, 1:])
    plain.errors(images(2), random_orders(torch.arange(2), 48)).sum().backward()


def test_backbones_that_cannot_hide_patches_are_refused() -> None:
    with pytest.raises(ConfigError, match="belong to no expert; pre-train the same backbone with expert_share 0"):
        method(expert_share=0.25)
    with pytest.raises(ConfigError, match="pre-train the same backbone with knowledge_tokens 0"):
        method(knowledge_tokens=1)
    pooling = sapiens2_config(tokenizer_depth=1)
    with pytest.raises(ConfigError, match=r"some patches without the others .*; sapiens2 pools patches before"):
        pretraining_model(ModelConfig(backbone=pooling, input_size=(256, 192)))
    with pytest.raises(ConfigError, match="; cspnext cannot leave any out"):
        pretraining_model(ModelConfig.model_validate({"backbone": "rtmpose-t"}))


def sapiens2_config(**changes: object) -> Sapiens2Config:
    values = {"embed_dim": 32, "depth": 2, "num_heads": 2, "num_full_blocks": 1, "patch_size": 8}
    return Sapiens2Config.model_validate(values | {"rope_dtype": "float32"} | changes)


def sapiens2() -> MaskedAutoencoder:
    torch.manual_seed(0)
    model = pretraining_model(ModelConfig(backbone=sapiens2_config(), input_size=(64, 48)))
    ours = MaskedAutoencoder(model, MaskedAutoencoderConfig(decoder=TINY_DECODER))
    with torch.no_grad():
        for block in model.backbone.blocks:
            block.attn.gamma.weight.fill_(1.0)  # as it is after training: a fresh one hardly attends
    return ours


def test_sapiens2_sees_all_patches_in_any_order_as_its_full_encoder_does() -> None:
    ours = sapiens2().eval()
    pictures = images(2)
    order = random_orders(torch.tensor([1, 2]), 48)
    with torch.no_grad():
        encoded = ours.encode(pictures, order)
        whole = ours.model.backbone(pictures).flatten(2).transpose(1, 2)
    assert encoded.shape == (2, 1 + 48, 32)
    for image in range(2):
        torch.testing.assert_close(encoded[image, 1:], whole[image][order[image]], atol=1e-5, rtol=0)


def test_sapiens2_learns_from_what_is_hidden_without_seeing_it_and_starts_fine_tuning() -> None:
    ours = sapiens2()
    pictures = images(2)
    order = random_orders(torch.tensor([1, 2]), 48)
    changed = patches_of(pictures, 8).scatter(1, order[:, 12:, None].expand(-1, -1, 192), 9.0)
    with torch.no_grad():
        assert torch.equal(ours.predict(pictures, order), ours.predict(image_of(changed, (8, 6)), order))
    ours.errors(pictures, order).sum().backward()
    missing = [name for name, parameter in ours.named_parameters() if parameter.grad is None]
    assert not missing
    assert ours.model.backbone.cls_token.grad.any()
    assert ours.model.backbone.storage_tokens.grad.any()
    skeleton = Skeleton(name="dot", keypoints=(Keypoint(name="dot", union="dot"),))
    config = ModelConfig(backbone=sapiens2_config(), input_size=(96, 64))
    fine = build_model(config, {"dots": skeleton}).eval()
    warm_start(fine, ours.model)
    assert torch.equal(fine.backbone(images(1, (96, 64))), ours.model.eval().backbone(images(1, (96, 64))))
