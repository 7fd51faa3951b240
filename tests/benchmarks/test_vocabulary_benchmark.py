"""The benchmark of the vocabulary: its label-by-label way is the same algorithm. No assertion about speed."""

import json
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from benchmarks import vocabulary as benchmark


def is_same(labels: list[int]) -> bool:
    return benchmark.same(*benchmark.fit_and_encode(np.array(labels)), *benchmark.naive_fit_and_encode(labels))


@pytest.mark.filterwarnings("ignore:Only .* labels are positive")
@hypothesis_settings(deadline=None)
@given(
    st.lists(st.integers(0, 100), min_size=1, max_size=60)
    | st.lists(st.integers(0, 40).map(lambda power: int(1.7**power)), min_size=1, max_size=60)
)
@example([0, 0, 0])
@example([7, 7, 7])
@example([0] * 30 + [5])
@example([1] * 50 + [10**6])  # beyond the reach of codes of ones: tail tokens
@example([label**3 for label in range(1, 400)])
def test_label_by_label_gives_the_same(labels: list[int]) -> None:
    assert is_same(labels)


@pytest.mark.parametrize("count", [100, 3000])
def test_label_by_label_gives_the_same_on_watch_times(count: int) -> None:
    assert is_same(benchmark.make_labels(count, seed=count).tolist())


def test_a_difference_is_seen() -> None:
    labels = [3, 5, 8, 13, 21]
    fitted = benchmark.fit_and_encode(np.array(labels))
    tokens, codes = benchmark.naive_fit_and_encode(labels)
    assert benchmark.same(*fitted, tokens, codes)
    assert not benchmark.same(*fitted, tokens[1:], codes)
    assert not benchmark.same(*fitted, tokens, [codes[1], *codes[1:]])


def test_json_holds_every_figure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--labels", "5000", "--naive-labels", "1000", "--json"]
    monkeypatch.setattr(sys, "argv", ["vocabulary", *flags])
    benchmark.main()
    figures = json.loads(capsys.readouterr().out)  # one object and nothing else
    assert (figures["labels"], figures["naive_labels"], figures["identical"]) == (5000, 1000, True)
    for name in ("seconds", "peak_mb", "naive_seconds", "speedup"):
        assert figures[name] > 0
    assert figures["naive_seconds"] == pytest.approx(5 * figures["naive_measured_seconds"], rel=0.1)
    assert figures["peak_mb"] > 5000 * figures["code_width"] * 2 / 1e6  # codes alone, in int16


@pytest.mark.parametrize("flag", ["--labels", "--naive-labels"])
def test_no_labels_are_refused(flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["vocabulary", flag, "0"])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert f"{flag} must be at least 1, got 0" in capsys.readouterr().err
