"""What stands beside the runs of a real model."""

from benchmarks.real_model import lines


def test_lines_are_means_over_the_seeds_where_all_have_a_value() -> None:
    def beside(srcc: float | None, mae: float) -> dict[str, dict[str, float | None]]:
        scores = {"srcc": srcc, "mae": mae}
        people = {"one_srcc": 0.9, "one_mae": mae, "half_srcc": 0.95, "half_mae": 0.4}
        return {"completion": {"srcc": 0.7, "mae": mae}, "constant": scores, "people": people}

    found = lines({"0": beside(None, 1.0), "1": beside(0.0, 2.0)})
    assert found == {
        "one person": {"srcc": 0.9, "mae": 1.5},
        "completions": {"srcc": 0.7, "mae": 1.5},
        "constant": {"mae": 1.5},
    }
