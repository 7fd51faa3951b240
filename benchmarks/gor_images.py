"""Ages (or any number) from a folder of images: GoR beside direct heads, all on the same encoder.

    python -m benchmarks.gor_images faces/labels.csv --target age                    # a small one, from scratch
    python -m benchmarks.gor_images faces/labels.csv --target age --encoder vits14   # pretrained, frozen

`--encoder` is the name of an encoder that `rarl fetch` brings, or the settings of one as JSON. The CSV names each image
in its column `file`, relative to the CSV. Reported are aggregates only.
"""

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from gor_head.cli.compare import clean_stdout
from gor_head.compare.cells import split
from gor_head.compare.methods import METHODS
from gor_head.encoders import PRETRAINED
from gor_head.frozen import features
from gor_head.metrics import cumulative_score, mae, srcc
from gor_head.output import replace_unprintable
from gor_head.rows import hint, listed, read_rows
from gor_head.tables import read_labels
from rarl.datasets.images import REMARK, UNREADABLE, decode, read_bytes
from rarl.fetching import FETCHES, cache_folder, fetched

CHOSEN = ("gor", "l1", "quantile", "corn", "cross_entropy_mean", "cross_entropy_median")
AGAINST_OVERFITTING: dict[str, dict[str, Any]] = {
    "GoR, smoothing 0.1": {"smoothing": 0.1},
    "GoR, smoothing 0.3": {"smoothing": 0.3},
    "GoR, temperature fitted": {"calibrate": True},
    "GoR, weight decay 1": {"weight_decay": 1.0},
    "GoR, dropout 0.3": {"dropout": 0.3},
    "GoR, no early stopping": {"validation_fraction": 0.0, "max_steps": 400},
}
"""Rows of `--overfitting`: medians of GoR with other settings."""

TOLERANCE = 5
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of the pixels that pretrained encoders were trained on."""


CONV = {"kind": "conv"}
"""A small encoder, trained from scratch."""


def encoder_settings(text: str) -> dict[str, Any]:
    """Settings of an encoder, given as JSON or by the name of what `rarl fetch` brings, frozen."""
    if text == "conv":
        return CONV
    if text in FETCHES:
        folder = fetched(text)
        is_timm = "architecture" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind, name = ("timm", f"local-dir:{folder}") if is_timm else ("transformers", str(folder))
        return {"kind": kind, "name": name, "frozen": True, "cache": str(cache_folder() / "features")}
    settings: dict[str, Any] = json.loads(text)
    return settings


def read_images(
    path: Path, target: str, size: int, *, pretrained: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Images `[n, 3, size, size]`, standardised per channel, by ImageNet's figures for a pretrained encoder, else by
    their own, and labels `[n]`.

    Raises:
        ValueError: If the CSV lacks a column, a label is no number, or an image cannot be read.
    """
    labels = read_labels(path, target)
    rows = read_rows(path)
    _, header = next(rows)
    if "file" not in header:
        raise ValueError(f"{path}: wanted the column 'file', got {listed(header)}{hint(['file'], header)}.")
    images = []
    for line, row in rows:
        name = row[header.index("file")]
        try:
            image = decode(read_bytes(str(path.parent / name)))
        except UNREADABLE as error:
            raise ValueError(f"{path}, line {line}: {name}: no readable image ({error}).") from None
        if image.info[REMARK]:
            warnings.warn(f"{path}, line {line}: {name}: {image.info[REMARK]}", stacklevel=2)
        images.append(np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)))
    pixels = np.stack(images).astype(np.float32).transpose(0, 3, 1, 2) / 255
    if pretrained:
        mean, spread = (np.array(each, dtype=np.float32)[None, :, None, None] for each in IMAGENET)
        return ((pixels - mean) / spread).astype(np.float32), labels
    spread = pixels.std(axis=(0, 2, 3), keepdims=True)
    return (pixels - pixels.mean(axis=(0, 2, 3), keepdims=True)) / spread, labels


def measure(
    path: Path,
    target: str,
    size: int,
    seeds: int,
    settings: dict[str, Any],
    encoder: dict[str, Any] = CONV,
    *,
    overfitting: bool = False,
) -> dict[str, Any]:
    """MAE, CS@5 and SRCC of each row, mean over seeds, and of the training median."""
    pixels: Any
    pixels, labels = read_images(path, target, size, pretrained=encoder["kind"] in PRETRAINED)
    if encoder.get("frozen"):  # once for all methods and splits: an estimator would do it for each
        pixels, encoder = features(torch.from_numpy(pixels), encoder), {}
    scores: dict[str, list[tuple[float, float, float]]] = {}
    variants: dict[str, Any] = {name: (METHODS[name].make, {}, METHODS[name].reads) for name in CHOSEN}
    if overfitting:
        variants |= {row: (METHODS["gor"].make, more, {row: {}}) for row, more in AGAINST_OVERFITTING.items()}
    work = [(seed, name) for seed in range(seeds) for name in variants]
    for seed, name in track(work, description="trainings", console=Console(stderr=True)):
        train, test = split(len(labels), seed)
        make, more, reads = variants[name]
        model = make(random_state=seed, encoder=encoder or None, **settings | more)
        model.fit(pixels[train], labels[train])
        for row, arguments in reads.items():
            scores.setdefault(row, []).append(_scores(labels[test], model.predict(pixels[test], **arguments)))
        if name == CHOSEN[0]:
            constant = np.full(len(test), np.median(labels[train]))
            scores.setdefault("training median", []).append(_scores(labels[test], constant))
    return {
        "images": len(labels),
        "size": size,
        "seeds": seeds,
        "results": [
            {"row": row, "mae": means[0], "mae_by_seed": [one[0] for one in found], "cs5": means[1], "srcc": means[2]}
            for row, found in scores.items()
            for means in [np.mean(found, axis=0).tolist()]
        ],
    }


def _scores(truth: NDArray[np.float64], prediction: NDArray[np.float64]) -> tuple[float, float, float]:
    return mae(truth, prediction), cumulative_score(truth, prediction, TOLERANCE), srcc(truth, prediction)


def main() -> None:
    parser = argparse.ArgumentParser(description="GoR and direct heads on a folder of images.", allow_abbrev=False)
    parser.add_argument("labels", type=Path, help="CSV with a column `file`")
    parser.add_argument("--target", required=True, help="column of the labels")
    parser.add_argument("--encoder", type=encoder_settings, default="conv", help="name, or settings in JSON")
    parser.add_argument("--size", type=int, help="side of the images in pixels; 48, or 224 for a pretrained encoder")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--settings", type=json.loads, default={"batch_size": 128, "learning_rate": 1e-3})
    parser.add_argument("--overfitting", action="store_true", help="also GoR with what helps against overfitting")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    encoder = arguments.encoder
    arguments.size = arguments.size or (224 if encoder["kind"] in PRETRAINED else 48)
    if arguments.seeds < 1 or arguments.size < 16:
        parser.error("--seeds must be at least 1 and --size at least 16")
    with clean_stdout():
        figures = measure(
            arguments.labels,
            arguments.target,
            arguments.size,
            arguments.seeds,
            arguments.settings,
            encoder,
            overfitting=arguments.overfitting,
        )
    if arguments.json:
        print(json.dumps(figures))
        return
    table = Table(title=f"{figures['images']} images of {figures['size']} pixels, mean of {figures['seeds']} splits")
    for name in ("", "MAE ↓", "least–most", "CS@5 ↑", "SRCC ↑"):
        table.add_column(name, justify="right" if name else "left")
    for result in figures["results"]:
        spread = f"{min(result['mae_by_seed']):.2f}–{max(result['mae_by_seed']):.2f}"
        table.add_row(result["row"], f"{result['mae']:.2f}", spread, f"{result['cs5']:.1%}", f"{result['srcc']:.3f}")
    Console().print(table)


if __name__ == "__main__":
    replace_unprintable()
    main()
