"""What was fetched is what its makers' own code computes with; skipped where it was not fetched."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from transformers import Dinov2Model

from rarl.datasets import load_source
from rarl.datasets.raters import agreement
from rarl.fetching import fetched

PIXELS = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 224, 224)).astype(np.float32))


def folder_of(name: str) -> Path:
    try:
        return fetched(name)
    except FileNotFoundError:
        pytest.skip(f"{name} is not here: rarl fetch {name}")


def test_vits14_gives_what_onnxruntime_gave_of_the_package() -> None:
    model = Dinov2Model.from_pretrained(folder_of("vits14")).eval()
    with torch.no_grad():
        found = model(PIXELS).last_hidden_state
    assert found.shape == (2, 257, 384)
    first = [-0.4865511953830719, -0.21377377212047577, 1.6446964740753174, -3.906219482421875]
    last = [1.588385820388794, -3.014969825744629, 1.8646446466445923, 0.7953421473503113]
    np.testing.assert_allclose(found[0, 0, :4], first, atol=1e-4)
    np.testing.assert_allclose(found[1, 256, -4:], last, atol=1e-4)


def test_efficientnet_lite0_gives_what_its_own_code_gave() -> None:
    model = timm.create_model(f"local-dir:{folder_of('efficientnet-lite0')}", pretrained=True).eval()
    with torch.no_grad():
        found = model(PIXELS)
    first = [-2.2451281547546387, 0.5608405470848083, 1.3898530006408691, 0.0131303109228611]
    last = [-2.983574390411377, -1.5067870616912842, 0.3766263425350189, 0.5029885172843933]
    np.testing.assert_allclose(found[0, :4], first, atol=1e-4)
    np.testing.assert_allclose(found[1, -4:], last, atol=1e-4)


@pytest.mark.parametrize(("file", "rows", "agreed"), [("reviews.csv", 10_605, 0.97), ("products.csv", 3_708, 0.97)])
def test_ratings_are_all_there_and_people_agree(file: str, rows: int, agreed: float) -> None:
    folder_of("film-reviews")
    source = load_source("table", table=f"film-reviews/{file}", votes_column="votes")
    votes = source.votes  # type: ignore[attr-defined]
    assert len(source) == rows
    assert min(map(len, votes)) >= 15 and max(map(len, votes)) <= 99
    assert agreement(votes).half_srcc == pytest.approx(agreed, abs=0.02)
