"""Features of images from a pretrained encoder whose weights stay as they are: computed once, then a table.

An estimator with `encoder={"kind": "transformers", "name": …, "frozen": True}` trains on these. With `"cache"`, a
folder, they are kept there, for other estimators of the same images; another choice of images is computed anew.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from gor_head.encoders import ENCODERS, ImageEncoder

OWN = ("frozen", "cache")
"""Settings of an encoder that are read here, and are none of its arguments."""
BATCH = 32


def pooled(memory: Tensor) -> Tensor:
    """Memory `[B, L, D]` → features: the mean over L, and the first place before it where L is above 1 (the class token
    of transformers), `[B, D]` or `[B, 2 D]`."""
    mean = memory.mean(dim=1)
    return mean if memory.shape[1] == 1 else torch.cat([memory[:, 0], mean], dim=1)


def compute(pixels: NDArray[np.float32], settings: dict[str, Any]) -> NDArray[np.float32]:
    """Features of images, float32 `[n, F]`.

    Args:
        pixels: Images as the encoder wants them, float32 `[n, 3, H, W]`.
        settings: Kind and arguments of the encoder.
    """
    kind, arguments = settings["kind"], {name: value for name, value in settings.items() if name != "kind"}
    encoder: Any = ENCODERS[kind](**arguments)
    assert isinstance(encoder, ImageEncoder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = encoder.to(device).eval()
    console = Console(stderr=True)
    parts = []
    starts = range(0, len(pixels), BATCH)
    with torch.no_grad():
        for start in track(starts, "Features", console=console, disable=not console.is_terminal):
            batch = torch.from_numpy(pixels[start : start + BATCH]).to(device)
            parts.append(pooled(encoder(batch)).cpu())
    return torch.cat(parts).numpy()


def features(pixels: Tensor, settings: Mapping[str, Any]) -> NDArray[np.float64]:
    """Features of images, float64 `[n, F]`, from the cache where they are there.

    Args:
        pixels: Images, float32 `[n, 3, H, W]`.
        settings: Those of the encoder, with `cache`, a folder, if they are to be kept.
    """
    own = {name: value for name, value in settings.items() if name not in OWN}
    run = compute
    if settings.get("cache") is not None:
        from joblib import Memory

        run = Memory(settings["cache"], verbose=0).cache(compute)
    return np.asarray(run(pixels.numpy(), own), dtype=np.float64)
