from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import get_model
from transformers import Dinov2Config, Dinov2Model

from gor_head import GoRRegressor
from gor_head.encoders import (
    ENCODERS,
    PRETRAINED,
    ConvEncoder,
    FFNEncoder,
    ImageEncoder,
    TimmEncoder,
    TorchvisionEncoder,
    TransformersEncoder,
)
from gor_head.estimator.direct import DirectRegressor
from gor_head.frozen import features


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_ffn_of_numbers_and_categories_by_hand(depth: int) -> None:
    torch.manual_seed(0)
    encoder = FFNEncoder(numeric=2, categories=[3, 100], width=8, depth=depth).eval()
    numeric, categorical = torch.randn(4, 2), torch.tensor([[0, 7], [2, 99], [1, 0], [0, 0]])
    first, second = (embedding.weight for embedding in encoder.embeddings)
    assert first.shape == (3, 3) and second.shape == (100, 32)
    x = torch.cat([numeric, first[categorical[:, 0]], second[categorical[:, 1]]], dim=1)
    for layer in (part for part in encoder.layers if isinstance(part, nn.Linear)):
        x = (x @ layer.weight.T + layer.bias).clamp(min=0)
    memory = encoder(numeric=numeric, categorical=categorical)
    assert memory.shape == (4, 1, encoder.width) if depth else memory.shape == (4, 1, 37)
    torch.testing.assert_close(memory[:, 0], x)


def test_ffn_of_one_kind_of_column() -> None:
    assert FFNEncoder(numeric=5, width=4)(numeric=torch.randn(3, 5)).shape == (3, 1, 4)
    assert FFNEncoder(categories=[2, 9], width=4)(categorical=torch.zeros(3, 2, dtype=torch.long)).shape == (3, 1, 4)


def test_an_unseen_category_has_an_embedding_of_its_own() -> None:
    torch.manual_seed(0)
    encoder = FFNEncoder(categories=[3], width=8).eval()
    memory = encoder(categorical=torch.tensor([[0], [1], [2]]))
    assert torch.pdist(memory[:, 0]).min() > 1e-3
    encoder(categorical=torch.tensor([[1], [2]])).sum().backward()
    gradient = encoder.embeddings[0].weight.grad
    assert not gradient[0].any() and gradient[1:].abs().sum() > 0


def test_ffn_refuses_what_it_cannot_read() -> None:
    with pytest.raises(ValueError, match="at least one numeric or categorical column"):
        FFNEncoder()
    with pytest.raises(ValueError):
        FFNEncoder(categories=[2, 2])(categorical=torch.zeros(3, 1, dtype=torch.long))


class Features(nn.Module):
    """Gives the same features whatever the image."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.features


def test_maps_tokens_and_pooled_features_become_memory() -> None:
    images, maps = torch.zeros(2, 3, 8, 8), torch.randn(2, 5, 3, 4)
    memory = ImageEncoder(Features(maps), 5)(images)
    assert memory.shape == (2, 12, 5)
    for row in range(3):
        for column in range(4):
            assert torch.equal(memory[:, row * 4 + column], maps[:, :, row, column])
    tokens, pooled = torch.randn(2, 7, 5), torch.randn(2, 5)
    assert torch.equal(ImageEncoder(Features(tokens), 5)(images), tokens)
    assert torch.equal(ImageEncoder(Features(pooled), 5)(images), pooled[:, None])


@pytest.mark.parametrize("shape", [(2, 6), (2, 7, 6), (2, 6, 3, 3), (2,), (2, 5, 3, 3, 3)])
def test_other_features_than_the_width_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"wanted \[B, 5\].* got \[2"):
        ImageEncoder(Features(torch.zeros(shape)), 5)(torch.zeros(2, 3, 8, 8))


def test_conv_encoder_trains_on_images_of_any_size() -> None:
    torch.manual_seed(0)
    encoder = ConvEncoder(channels=(4, 6))
    assert encoder.width == 6
    memory = encoder(torch.randn(3, 3, 12, 9))
    assert memory.shape == (3, 1, 6)
    memory.sum().backward()
    assert all(part.grad is not None and part.grad.isfinite().all() for part in encoder.parameters())


def test_resnet18_gives_what_its_classifier_would_see() -> None:
    torch.manual_seed(0)
    whole = get_model("resnet18", weights=None).eval()
    torch.manual_seed(0)
    encoder = TorchvisionEncoder("resnet18").eval()
    images = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        memory = encoder(images)
        assert memory.shape == (2, 1, 512) and encoder.width == 512
        torch.testing.assert_close(whole.fc(memory[:, 0]), whole(images))


@pytest.mark.parametrize(
    ("name", "width"),
    [("vit_b_16", 768), ("resnet50", 2048), ("mobilenet_v2", 1280), ("swin_t", 768), ("convnext_tiny", 768)],
)
def test_widths_of_other_torchvision_models(name: str, width: int) -> None:
    # On the meta device shapes are computed and numbers are not.
    with torch.device("meta"):
        encoder = TorchvisionEncoder(name).eval()
        assert encoder(torch.randn(2, 3, 224, 224)).shape == (2, 1, width)
    assert encoder.width == width


@pytest.mark.parametrize("name", ["squeezenet1_0", "raft_small"])
def test_a_model_without_a_linear_classifier_is_named(name: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=f"{name} has no linear classifier"):
        TorchvisionEncoder(name)


def test_the_names_of_a_config() -> None:
    assert ENCODERS == {
        "ffn": FFNEncoder,
        "conv": ConvEncoder,
        "torchvision": TorchvisionEncoder,
        "timm": TimmEncoder,
        "transformers": TransformersEncoder,
    }
    assert set(PRETRAINED) <= set(ENCODERS)


def test_timm_gives_what_its_classifier_would_see() -> None:
    torch.manual_seed(0)
    whole = timm.create_model("resnet18", pretrained=False).eval()
    torch.manual_seed(0)
    encoder = TimmEncoder("resnet18", pretrained=False).eval()
    images = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        memory = encoder(images)
        assert memory.shape == (2, 1, 512) and encoder.width == 512
        assert torch.equal(memory[:, 0], encoder.module(images))
        pooled = whole.forward_head(whole.forward_features(images), pre_logits=True)
        assert pooled.shape == memory[:, 0].shape


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small vision transformer with random weights in a folder."""
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2
    )
    folder = tmp_path_factory.mktemp("vit")
    Dinov2Model(config).save_pretrained(folder)
    return folder


def test_transformers_gives_the_last_hidden_state(vit: Path) -> None:
    encoder, plain = TransformersEncoder(str(vit)).eval(), Dinov2Model.from_pretrained(vit).eval()
    images = torch.randn(3, 3, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), plain(images).last_hidden_state, rtol=0, atol=0)
    assert encoder(images).shape == (3, 5, encoder.width) and encoder.width == 32
    torch.manual_seed(1)
    other = TransformersEncoder(str(vit), pretrained=False).eval()
    assert float((other(images) - encoder(images)).abs().max().detach()) > 0.01


def test_frozen_features_are_a_table_made_once(vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(40, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    settings = {"kind": "transformers", "name": str(vit), "frozen": True, "cache": str(tmp_path / "cache")}
    found = features(images, settings)
    with torch.no_grad():
        memory = Dinov2Model.from_pretrained(vit).eval()(images).last_hidden_state
    expected = torch.cat([memory[:, 0], memory.mean(dim=1)], dim=1)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)
    labels = np.round(10 + 5 * found[:, 0])
    labels -= labels.min()
    short = {"max_steps": 5, "random_state": 0}
    plain = GoRRegressor(**short).fit(found, labels).predict(found)
    model = GoRRegressor(encoder=settings, **short).fit(images, labels)
    assert np.array_equal(model.predict(images), plain)
    model.save_pretrained(tmp_path / "saved")
    assert np.array_equal(GoRRegressor.from_pretrained(tmp_path / "saved").predict(images), plain)

    def fail(*_: object) -> None:
        raise AssertionError("the features are in the cache")

    monkeypatch.setattr(TransformersEncoder, "forward", fail)
    assert np.array_equal(DirectRegressor(encoder=settings, **short).fit(images, labels).predict(images).shape, (40,))
    with pytest.raises(AssertionError, match="in the cache"):
        features(images, settings | {"cache": None})


def test_a_pretrained_encoder_is_fine_tuned_unless_it_is_frozen(vit: Path) -> None:
    images, labels = torch.randn(16, 3, 28, 28), np.arange(16.0)
    model = GoRRegressor(encoder={"kind": "transformers", "name": str(vit)}, max_steps=3, random_state=0)
    model.fit(images, labels)
    before = Dinov2Model.from_pretrained(vit).state_dict()
    after = model.model_.encoder.module.model.state_dict()
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "conv", "frozen": True}, "frozen.*wanted true or false, of torchvision, timm, transformers"),
        ({"kind": "timm", "name": "resnet18", "frozen": "yes"}, "frozen.*got 'yes'"),
        ({"kind": "timm", "name": "resnet18", "cache": "x"}, "features are kept of a frozen encoder only"),
        ({"kind": "transformers"}, "wanted 'name' too"),
        (
            {"kind": "timm", "name": "resnet18", "weights": "x"},
            "wanted arguments among name, pretrained, got 'weights'",
        ),
    ],
)
def test_settings_that_would_do_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GoRRegressor(encoder=settings).fit(torch.zeros(12, 3, 28, 28), np.arange(12.0))
