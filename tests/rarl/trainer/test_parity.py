"""Settings of TRL's GRPOTrainer, one a row of `tests/parity.py`: ours sample, lose and learn what TRL's does."""

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from trl import GRPOTrainer

from tests.parity import BOUND, PAGE, ROWS, Row, table, train

UNLIKE = ("runtime", "per_second", "step_time", "total_flos")  # parts of the names of what is not the same twice


# A setting on its way out is compared as long as TRL has it.
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] * row.long) for name, row in ROWS.items()]
)
def test_row(name: str) -> None:
    row = ROWS[name]
    if row.absent and find_spec(row.absent) is not None:
        pytest.skip(f"{row.absent} is installed")
    want = train("trl", row)
    for kind in ("rarl",) if row.own or row.plain else ("shared", "rarl"):
        check(row, kind, want, train(kind, row))


def check(row: Row, kind: str, want: dict[str, Any], got: dict[str, Any]) -> None:
    if row.raises is not None or row.ours is not None:
        check_errors(row, want["error"], got["error"], kind)
        return
    assert tuple(got["shares"]) == row.shares, got["lines"]
    check_lines(row, got["lines"])
    assert want["moved"] == 0 if row.still else want["moved"] > 100 * BOUND
    assert got["weights"].keys() == want["weights"].keys()
    apart = max(float((got["weights"][name] - value).abs().max()) for name, value in want["weights"].items())
    if row.differs:
        assert (got["answers"][0] == want["answers"][0]) is row.first_answers
        assert apart > BOUND, "this row differs no more"
        return
    assert got["answers"] == want["answers"]
    assert apart <= row.bound
    check_logs(row, want["log"][:-1], got["log"][:-1])
    if row.settings.get("log_completions"):
        assert got["texts"] == want["texts"]


def check_errors(row: Row, want: Exception | None, got: Exception | None, kind: str) -> None:
    if row.raises is not None:
        assert type(want) is row.raises[0] and row.raises[1] in str(want)
    else:
        assert want is None
    if row.ours is not None and kind == "rarl":
        assert type(got) is row.ours[0] and row.ours[1] in str(got)
    else:
        assert type(got) is type(want) and str(got) == str(want)


def check_lines(row: Row, lines: list[str]) -> None:
    if row.reason:
        assert len(lines) == 1 and row.reason in lines[0]
    else:
        assert not lines


def check_logs(row: Row, want: list[dict[str, Any]], got: list[dict[str, Any]]) -> None:
    for theirs, ours in zip(want, got, strict=True):
        assert theirs.keys() <= ours.keys()
        for key, value in theirs.items():
            if value is None:
                assert ours[key] is None, key
            elif not any(part in key for part in UNLIKE):
                bound = (row.loss_bound or row.bound) if "loss" in key else 10 * row.bound
                assert float(ours[key]) == pytest.approx(float(value), abs=bound, rel=bound, nan_ok=True), key


def test_page_is_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == table(), "python -m tests.parity --write"


def test_vespo_multiplies_the_rounding_of_an_answer() -> None:
    """The cause of the wider bound of its row.

    Log-probabilities near -6.6 are rounded to 5e-7. VESPO multiplies them by a weight of the sum of an answer's ratios,
    rounding and all; other losses are of the ratios, near 1.
    """
    generator = torch.Generator().manual_seed(0)
    now = torch.randn(8, 8, generator=generator) / 10 - 6.6
    old = now + torch.randn(8, 8, generator=generator) / 10
    rounded = torch.nextafter(old, torch.zeros(()))
    advantages = torch.tensor([[1.5], [-1.0], [0.5], [-1.0]]).repeat(2, 1)

    def vespo(old: torch.Tensor) -> torch.Tensor:
        weights = GRPOTrainer.get_gamma_weights(advantages.double(), (now - old).double(), torch.ones(8, 8), None)
        return (-weights * advantages * now).mean()

    def grpo(old: torch.Tensor) -> torch.Tensor:
        return (-(now - old).double().exp() * advantages).mean()

    assert (vespo(rounded) - vespo(old)).abs() > 10 * BOUND
    assert (grpo(rounded) - grpo(old)).abs() < BOUND
