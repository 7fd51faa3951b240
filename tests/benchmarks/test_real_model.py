"""The figure beside the runs of a real model."""

import json
from pathlib import Path

from PIL import Image

from benchmarks.real_model import draw


def test_the_figure_has_every_row_that_is_there(tmp_path: Path) -> None:
    for seed, row, srcc in ((0, "sft", 0.6), (1, "sft", 0.7), (0, "sft_rarl", None)):
        folder = tmp_path / "film_reviews" / f"seed{seed}" / row
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps({"strict": {"srcc": srcc, "mae": 1.5}}))
    people = {"one_srcc": 0.9, "one_mae": 0.9}
    beside = {"0": {"people": people, "completion": {"srcc": 0.7, "mae": 1.3}, "constant": {"srcc": None, "mae": 2.0}}}
    draw(tmp_path, beside, tmp_path / "two.png")
    with Image.open(tmp_path / "two.png") as two:
        height = two.height
    (tmp_path / "film_reviews/seed0/stage1").mkdir()
    (tmp_path / "film_reviews/seed0/stage1/report.json").write_text('{"strict": {"srcc": 0.5, "mae": 2.5}}')
    draw(tmp_path, beside, tmp_path / "three.png")
    with Image.open(tmp_path / "three.png") as three:
        assert three.height > height > 100
