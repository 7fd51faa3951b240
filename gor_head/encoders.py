"""Encoders: inputs → (B, L, D) memory that a decoder or a direct head reads (GoR, section 2.3.2).

An encoder is any `torch.nn.Module` with an integer attribute `width` (D) and a `forward` whose argument names are the
columns it wants. `ENCODERS` lists those that a config can name; any other module is passed to the model itself.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class FFNEncoder(nn.Module):
    """Feed-forward network over numeric columns and embedded categorical ones; L is 1.

    Args:
        numeric: Numeric columns F, standardised by the caller.
        categories: Ids per categorical column; id 0 stands for a category not seen in training.
        width: D, and the width of every layer.
        depth: Hidden layers.
        dropout: After every hidden layer.
    """

    def __init__(
        self,
        numeric: int = 0,
        categories: Sequence[int] = (),
        width: int = 128,
        *,
        depth: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if numeric + len(categories) == 0:
            raise ValueError("FFNEncoder: wanted at least one numeric or categorical column, got none.")
        self.width = width
        sizes = [min(32, 1 + (ids + 1) // 2) for ids in categories]
        self.embeddings = nn.ModuleList(nn.Embedding(ids, size) for ids, size in zip(categories, sizes, strict=True))
        layers: list[nn.Module] = []
        features = numeric + sum(sizes)
        for _ in range(depth):
            layers += [nn.Linear(features, width), nn.ReLU(), nn.Dropout(dropout)]
            features = width
        self.layers = nn.Sequential(*layers)

    def forward(self, numeric: Tensor | None = None, categorical: Tensor | None = None) -> Tensor:
        """Numeric `[B, F]` float and categorical ids `[B, C]`, either of which may be absent → `[B, 1, D]`."""
        columns = [] if numeric is None else [numeric]
        if categorical is not None:
            columns += [embedding(ids) for embedding, ids in zip(self.embeddings, categorical.unbind(1), strict=True)]
        return self.layers(torch.cat(columns, dim=1))[:, None]


class ImageEncoder(nn.Module):
    """Any image module: feature maps `[B, D, H, W]`, tokens `[B, L, D]` or pooled features `[B, D]` → `[B, L, D]`.

    Args:
        module: Takes `[B, 3, H, W]`, for example a ResNet or ViT without its classifier.
        width: D, features of the module's output.
    """

    def __init__(self, module: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.module = module
        self.width = width

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Images `[B, 3, H, W]` → `[B, L, D]`."""
        features = self.module(pixel_values)
        if features.ndim == 4:
            features = features.flatten(2).transpose(1, 2)
        elif features.ndim == 2:
            features = features[:, None]
        if features.ndim != 3 or features.shape[2] != self.width:
            raise ValueError(
                f"ImageEncoder: wanted [B, {self.width}], [B, L, {self.width}] or [B, {self.width}, H, W] of the image "
                f"module, got {list(features.shape)}."
            )
        return features


class TorchvisionEncoder(ImageEncoder):
    """A torchvision model by name, its classifier taken off.

    Args:
        name: A name of `torchvision.models.list_models()`, for example `"resnet50"` or `"vit_b_16"`.
        weights: Name of pretrained weights, which are downloaded, or None for random ones.
    """

    def __init__(self, name: str, weights: str | None = None) -> None:
        from torchvision.models import get_model

        module = get_model(name, weights=weights)
        for attribute in ("fc", "heads", "head", "classifier"):
            classifier = getattr(module, attribute, None)
            parts = classifier.modules() if isinstance(classifier, nn.Module) else ()
            linear = next((part for part in parts if isinstance(part, nn.Linear)), None)
            if linear is not None:
                setattr(module, attribute, nn.Identity())
                super().__init__(module, linear.in_features)
                return
        raise ValueError(
            f"TorchvisionEncoder: {name} has no linear classifier by a known name; pass it as an ImageEncoder."
        )


class TimmEncoder(ImageEncoder):
    """A model of timm by name, its classifier taken off and its features pooled; L is 1. It wants the package `timm`.

    Args:
        name: A name of `timm.list_models()`, for example `"resnet18"`, or `"hf-hub:…"` or `"local-dir:…"` with what
            follows them.
        pretrained: Whether to load its pretrained weights, which are downloaded where they are not a folder's.
    """

    def __init__(self, name: str, pretrained: bool = True) -> None:
        try:
            import timm
        except ImportError:
            raise ValueError(
                "TimmEncoder: wanted the package timm, which is not installed: pip install timm."
            ) from None
        module: Any = timm.create_model(name, pretrained=pretrained, num_classes=0)
        super().__init__(module, int(module.num_features))


class _LastHiddenState(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixel_values=pixels).last_hidden_state


class TransformersEncoder(ImageEncoder):
    """An image model of transformers by folder or Hub id; its last hidden state is the memory.

    Args:
        name: Folder or id, for example `"facebook/dinov2-small"`.
        pretrained: Whether to load its weights; else they are random.
    """

    def __init__(self, name: str, pretrained: bool = True) -> None:
        from transformers import AutoConfig, AutoModel

        config = AutoConfig.from_pretrained(name)
        module: Any = AutoModel.from_pretrained(name) if pretrained else AutoModel.from_config(config)
        width = getattr(config, "hidden_size", None) or config.hidden_sizes[-1]
        super().__init__(_LastHiddenState(module), int(width))


class ConvEncoder(ImageEncoder):
    """A small convolutional network to be trained from scratch; L is 1.

    Args:
        channels: Number of channels of each stage; every stage halves the image.
        dropout: On the pooled features.
    """

    def __init__(self, channels: Sequence[int] = (32, 64, 128, 128), dropout: float = 0.1) -> None:
        layers: list[nn.Module] = []
        before = 3
        for after in channels:
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
            before = after
        super().__init__(
            nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout)), channels[-1]
        )


ENCODERS: dict[str, type[nn.Module]] = {
    "ffn": FFNEncoder,
    "conv": ConvEncoder,
    "torchvision": TorchvisionEncoder,
    "timm": TimmEncoder,
    "transformers": TransformersEncoder,
}

PRETRAINED = ("torchvision", "timm", "transformers")
"""Encoders that come with weights, and may be frozen: see [`gor_head.frozen`][gor_head.frozen]."""
