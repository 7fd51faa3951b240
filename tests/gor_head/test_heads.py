import doctest
import inspect
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import log_loss, mean_absolute_error, mean_pinball_loss, mean_squared_error
from torch import Tensor

import gor_head.heads
from gor_head.heads import HEADS, Head
from gor_head.heads.bins import Bins, CategoricalHead, DecisionHead, equal_mass, weighted_median
from gor_head.heads.corn import CORNHead
from gor_head.heads.or_cnn import ORCNNHead
from gor_head.heads.quantile import LEVELS, QuantileHead

AGES = np.array([3.0, 21, 30, 30, 34, 58, 58, 60, 71])
LABEL_SETS = {
    "ages": AGES,
    "equal": np.full(4, 5.0),
    "equal, no exact mean": np.full(3, 0.1),
    "zeros": np.zeros(3),
    "one": np.array([-3.0]),
    "two": np.array([1.0, 2.0]),
    "negative": np.array([-3.0, -1.5, 0.0, 4.0]),
    "many": np.random.default_rng(1).lognormal(3, 2, 700),
    "many zeros": np.concatenate([np.zeros(900), np.random.default_rng(2).lognormal(3, 2, 500)]),
}
BINNED = [name for name, head in HEADS.items() if issubclass(head, CategoricalHead | DecisionHead)]
WITH_QUANTILES = [name for name in HEADS if name not in ("mse", "l1")]


def build(name: str, labels: Any = AGES, features: int = 4) -> Head:
    """A head as it comes back from a file."""
    torch.manual_seed(0)
    head = HEADS[name]
    return head(features, **json.loads(json.dumps(head.settings(np.asarray(labels, dtype=np.float64)))))


def outputs_for(head: Head, rows: int, seed: int = 0, spread: float = 2.0) -> Tensor:
    return spread * torch.randn(rows, head.linear.out_features, generator=torch.Generator().manual_seed(seed))


def bin_of(head: Any, labels: NDArray[Any]) -> NDArray[Any]:
    """Bin with the nearest centre, by brute force: for labels that are bins of their own."""
    return np.abs(np.asarray(head.bins.centres) - labels[:, None]).argmin(1)


def test_the_heads() -> None:
    names = "mse l1 quantile cross_entropy_mean cross_entropy_median or_cnn corn sord dldl mean_variance ziln"
    assert list(HEADS) == names.split()


# --- bins


@hypothesis_settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(-50, 50).map(lambda n: n / 4), min_size=1, max_size=150), st.sampled_from(["mean", "median"])
)
def test_few_distinct_labels_are_a_bin_each(labels: list[float], centre: Any) -> None:
    bins = Bins.of(np.array(labels), centre)
    distinct = sorted(set(labels))
    if len(distinct) > 100:
        return
    assert bins.centres == distinct and len(bins.edges) == len(distinct) - 1
    found = bins.index(torch.tensor(labels, dtype=torch.float64))
    assert bins.positions(torch.device("cpu"))[found].tolist() == labels
    # Any other label goes to the nearest bin.
    others = np.linspace(-20, 20, 101) + 0.01
    expected = np.abs(np.array(distinct) - others[:, None]).argmin(1)
    assert bins.index(torch.from_numpy(others)).tolist() == expected.tolist()


@pytest.mark.parametrize("centre", ["mean", "median"])
def test_many_distinct_labels_make_bins_of_equal_mass(centre: Any) -> None:
    labels = np.random.default_rng(0).lognormal(2, 2, 2500)
    bins = Bins.of(labels, centre)
    chunks = np.sort(labels).reshape(100, 25)
    np.testing.assert_allclose(bins.centres, getattr(np, centre)(chunks, axis=1), rtol=1e-12)
    np.testing.assert_allclose(bins.edges, (chunks[:-1, -1] + chunks[1:, 0]) / 2, rtol=1e-12)
    outside = bins.index(torch.tensor([-1e9, 1e9])).tolist()
    assert np.bincount(bins.index(torch.from_numpy(labels))).tolist() == [25] * 100 and outside == [0, 99]


def test_a_label_heavier_than_a_bin_takes_one_bin() -> None:
    spent = np.arange(1.0, 991.0)
    bins = Bins.of(np.concatenate([np.zeros(13_000), spent]))
    assert len(bins.centres) == 100 and bins.centres[:2] == [0.0, 5.5] and bins.edges[:2] == [0.5, 10.5]


@hypothesis_settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 200), min_size=8, max_size=60), st.integers(1, 7))
def test_equal_mass_by_definition(counts: list[int], bins: int) -> None:
    array = np.array(counts)
    index = equal_mass(array, bins)
    # The mass of one bin, by bisection: Σ min(count, t) = bins · t.
    low, high = 0.0, float(array.sum())
    for _ in range(100):
        mass = (low + high) / 2
        low, high = (mass, high) if np.minimum(array, mass).sum() >= bins * mass else (low, mass)
    middle = (np.cumsum(np.minimum(array, low)) - np.minimum(array, low) / 2) / low
    clear = np.abs(middle - np.rint(middle)) > 1e-6  # on a border rounding decides
    assert (index[clear] == np.floor(middle[clear])).all()
    assert (np.diff(index) >= 0).all() and 0 <= index[0] and index[-1] < bins


@hypothesis_settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-9, 9).map(float), min_size=1, max_size=30))
def test_weighted_median_equals_numpy(labels: list[float]) -> None:
    values, counts = np.unique(labels, return_counts=True)
    assert weighted_median(values, counts) == np.median(labels)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize(
    ("labels", "message"), [([], "at least 1"), ([1.0, math.nan], "1 NaN"), ([[1.0]], r"\(1, 1\)")]
)
def test_settings_refuse_bad_labels(name: str, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HEADS[name].settings(np.array(labels))


def test_heads_that_predict_the_median_stand_for_a_bin_by_its_median() -> None:
    labels = LABEL_SETS["many"]
    chunks = np.sort(labels).reshape(100, 7)
    for name in BINNED:
        centre = np.median if name in ("cross_entropy_median", "corn") else np.mean
        np.testing.assert_allclose(HEADS[name].settings(labels)["centres"], centre(chunks, axis=1), rtol=1e-12)


# --- losses against hand-computed cases and other implementations


def test_standardisation() -> None:
    assert HEADS["mse"].settings(np.array([1.0, 3.0])) == {"location": 2.0, "scale": 1.0}
    assert HEADS["l1"].settings(AGES) == pytest.approx({"location": AGES.mean(), "scale": AGES.std()})
    assert HEADS["mse"].settings(np.full(3, 0.1)) == {"location": 0.1, "scale": 1.0}


@pytest.mark.parametrize(("name", "oracle", "power"), [("mse", mean_squared_error, 2), ("l1", mean_absolute_error, 1)])
def test_mse_and_l1(name: str, oracle: Callable[..., float], power: int) -> None:
    head = build(name)
    outputs = outputs_for(head, len(AGES))
    loss = head.loss(outputs, torch.from_numpy(AGES))
    assert loss.mean().item() * AGES.std() ** power == pytest.approx(oracle(AGES, head.predict(outputs)), rel=1e-5)
    settings: dict[str, Any] = {"location": 10.0, "scale": 2.0}
    by_hand = HEADS[name](4, **settings)
    assert by_hand.loss(torch.tensor([[1.0], [4.0]]), torch.tensor([12.0, 12.0])).tolist() == [0.0, 3.0**power]
    assert by_hand.predict(torch.tensor([[1.0], [4.0]])).tolist() == [12.0, 18.0]


def test_pinball_loss() -> None:
    head = build("quantile")
    outputs = outputs_for(head, len(AGES))
    restored = outputs.double() * AGES.std() + AGES.mean()
    expected = np.mean([mean_pinball_loss(AGES, restored[:, i], alpha=level) for i, level in enumerate(LEVELS)])
    loss = head.loss(outputs, torch.from_numpy(AGES))
    assert loss.mean().item() * AGES.std() == pytest.approx(expected, rel=1e-5)
    assert LEVELS[0] == 0.05 and LEVELS[9] == 0.5 and LEVELS[-1] == 0.95 and len(LEVELS) == 19


def test_sorting_quantiles_never_adds_to_the_loss() -> None:
    head = build("quantile")
    outputs = outputs_for(head, 200)
    labels = torch.from_numpy(np.resize(AGES, 200))
    assert (head.loss(outputs.sort(1).values, labels) <= head.loss(outputs, labels) + 1e-6).all()


@pytest.mark.parametrize("name", ["cross_entropy_mean", "cross_entropy_median"])
def test_cross_entropy(name: str) -> None:
    head = build(name)
    outputs = outputs_for(head, len(AGES))
    expected = log_loss(AGES, outputs.double().softmax(1), labels=sorted(set(AGES)))
    assert head.loss(outputs, torch.from_numpy(AGES)).mean().item() == pytest.approx(expected, rel=1e-5)


def test_or_cnn() -> None:
    head = build("or_cnn")
    outputs = outputs_for(head, len(AGES))
    assert outputs.shape[1] == len(set(AGES)) - 1
    thresholds = sorted(set(AGES))[:-1]
    expected = sum(
        log_loss(AGES > threshold, outputs[:, m].double().sigmoid(), labels=[False, True])
        for m, threshold in enumerate(thresholds)
    )
    assert head.loss(outputs, torch.from_numpy(AGES)).mean().item() == pytest.approx(expected, rel=1e-5)
    # Bins 10, 20, 40 with P(> 10) = 3/4 and P(> 20) = 1/4: 10 + 3/4 · 10 + 1/4 · 20.
    by_hand = ORCNNHead(4, centres=[10.0, 20.0, 40.0], edges=[15.0, 30.0])
    logits = torch.tensor([[math.log(3), -math.log(3)]])
    assert by_hand.predict(logits).item() == pytest.approx(22.5)
    # Where decisions descend, the sum is the expectation of the distribution of the bins.
    assert by_hand.predict(logits).item() == pytest.approx(np.dot([1 / 4, 1 / 2, 1 / 4], [10, 20, 40]))
    loss = by_hand.loss(logits, torch.tensor([10.0, 20.0, 40.0][1:2]))
    assert loss.item() == pytest.approx(-2 * math.log(3 / 4), rel=1e-5)


def test_corn_is_the_likelihood_of_the_bin_and_the_loss_of_the_paper() -> None:
    head: Any = build("corn")
    outputs = outputs_for(head, len(AGES))
    conditional = scipy.special.expit(outputs.double().numpy())
    above = np.concatenate([np.ones((len(AGES), 1)), np.cumprod(conditional, 1), np.zeros((len(AGES), 1))], 1)
    bins = bin_of(head, AGES)
    likelihood = (above[:, :-1] - above[:, 1:])[np.arange(len(AGES)), bins]
    loss = head.loss(outputs, torch.from_numpy(AGES)).double().numpy()
    np.testing.assert_allclose(loss, -np.log(likelihood), rtol=1e-4)
    # Equation of the paper: subset by subset, each row for which all earlier decisions are yes.
    total = 0.0
    for m in range(conditional.shape[1]):
        for row in np.flatnonzero(bins >= m):
            total -= math.log(conditional[row, m] if bins[row] > m else 1 - conditional[row, m])
    assert loss.sum() == pytest.approx(total, rel=1e-5)
    # P(> 10) = 0.8, P(> 20) = 0.8 · 0.6 = 0.48: the median is 20.
    by_hand = CORNHead(4, centres=[10.0, 20.0, 40.0], edges=[15.0, 30.0])
    logits = torch.tensor([[math.log(4), math.log(1.5)]])
    assert by_hand.predict(logits).item() == 20.0
    assert by_hand.quantiles(logits, torch.tensor([0.1, 0.3, 0.6])).tolist() == [[10.0, 20.0, 40.0]]


def test_sord() -> None:
    head: Any = HEADS["sord"](4, **Bins.of(np.array([1.0, 4, 7, 17])).__dict__)
    labels = np.array([4.0, 17.0, 5.5])
    distance = np.abs(labels[:, None] - np.array([1.0, 4, 7, 17]))  # spacings 3, 3, 10: median 3
    targets = scipy.special.softmax(-distance / 3, axis=1)
    np.testing.assert_allclose(head.targets(torch.from_numpy(labels)), targets, rtol=1e-5)
    outputs = outputs_for(head, 3)
    expected = -(targets * scipy.special.log_softmax(outputs.double().numpy(), axis=1)).sum(1)
    np.testing.assert_allclose(head.loss(outputs, torch.from_numpy(labels)), expected, rtol=1e-5)
    ends = head.targets(torch.tensor([17.0, 900.0]))
    assert torch.allclose(ends[0], ends[1])


def test_dldl() -> None:
    head: Any = HEADS["dldl"](4, **Bins.of(np.array([1.0, 4, 7, 17])).__dict__)
    labels = np.array([4.0, 17.0, 5.5])
    targets = scipy.stats.norm.pdf(np.array([1.0, 4, 7, 17]), loc=labels[:, None], scale=6)
    targets /= targets.sum(1, keepdims=True)
    outputs = outputs_for(head, 3)
    expected = scipy.stats.entropy(targets, scipy.special.softmax(outputs.double().numpy(), axis=1), axis=1)
    np.testing.assert_allclose(head.loss(outputs, torch.from_numpy(labels)), expected, rtol=1e-4)


@pytest.mark.parametrize(("name", "inside"), [("sord", 0.59), ("dldl", 1.31)])
def test_soft_labels_stay_near_the_label(name: str, inside: float) -> None:
    """The bias of perfect outputs that the docstrings state, over even bins of years."""
    years = np.arange(0.0, 100.0)
    head: Any = build(name, years)
    targets = head.targets if name == "sord" else lambda y: head.log_targets(y).exp()
    error = head.predict(targets(torch.from_numpy(years)).log()).numpy() - years
    assert 0.9 * inside < error[0] < inside and -inside < error[-1] < -0.9 * inside
    assert np.abs(error[20:-20]).max() < 1e-3


def test_mean_variance() -> None:
    head: Any = build("mean_variance")
    outputs = outputs_for(head, len(AGES))
    probabilities = scipy.special.softmax(outputs.double().numpy(), axis=1)
    bins, counter = bin_of(head, AGES), np.arange(probabilities.shape[1])
    expected = []
    for p, label in zip(probabilities, bins, strict=True):
        mean = (p * counter).sum()
        variance = (p * (counter - mean) ** 2).sum()
        expected.append(-math.log(p[label]) + 0.2 * 0.5 * (mean - label) ** 2 + 0.05 * variance)
    np.testing.assert_allclose(head.loss(outputs, torch.from_numpy(AGES)), expected, rtol=1e-4)


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    outputs=st.tuples(st.floats(-8, 8), st.floats(-3, 3), st.floats(-4, 4)),
    labels=st.sampled_from(["ages", "many zeros", "negative", "zeros", "equal"]),
    label=st.sampled_from([0.0, 0.01, 3.0, 250.0]),
)
def test_ziln_against_scipy(outputs: tuple[float, float, float], labels: str, label: float) -> None:
    head: Any = build("ziln", LABEL_SETS[labels])
    shift, location, scale = head.shift, head.location, head.scale
    p = scipy.special.expit(outputs[0])
    mu, sigma = location + scale * outputs[1], scale * np.log1p(np.exp(outputs[2]))
    amount = scipy.stats.lognorm(s=sigma, scale=np.exp(mu))
    raw = torch.tensor([outputs], dtype=torch.float64)
    y = torch.tensor([label + shift], dtype=torch.float64)
    expected = -math.log(1 - p) if label == 0 else -math.log(p) - amount.logpdf(label)
    assert head.loss(raw, y).item() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert head.predict(raw).item() == pytest.approx(shift + p * amount.mean(), rel=1e-6)
    levels = np.array([0.03, 0.25, 0.5, 0.9, 0.999])
    quantiles = head.quantiles(raw, torch.from_numpy(levels))[0].numpy()
    inner = (levels - (1 - p)) / p
    np.testing.assert_allclose(quantiles, shift + np.where(inner > 0, amount.ppf(inner.clip(0, 1)), 0), rtol=1e-5)


def test_ziln_shift_zeros_and_scale() -> None:
    settings = HEADS["ziln"].settings
    assert settings(np.array([0.0, 0.0])) == {"shift": 0.0, "location": 0.0, "scale": 1.0}
    assert settings(np.array([1.0, math.e**2])) == pytest.approx({"shift": 0.0, "location": 1.0, "scale": 1.0})
    assert settings(np.array([-2.0, -1.0, -1.0])) == {"shift": -2.0, "location": 0.0, "scale": 1.0}
    head = build("ziln", [-2.0, -1.0, 5.0])
    low = head.loss(torch.zeros(2, 3), torch.tensor([-2.0, -9.0]))
    assert low.tolist() == pytest.approx([math.log(2)] * 2)


# --- what holds for all heads


def perfect_outputs(head: Any, labels: Tensor) -> Tensor:
    """Outputs that say the label and nothing else, up to logits of ±40."""
    if head.name in ("mse", "l1", "quantile"):
        return head.standardise(labels)[:, None].expand(-1, head.linear.out_features)
    if head.name == "sord":
        return head.targets(labels).log()
    if head.name == "dldl":
        return head.log_targets(labels)
    index = torch.from_numpy(bin_of(head, labels.numpy()))[:, None]
    columns = torch.arange(head.linear.out_features)
    return 40.0 * ((index > columns if isinstance(head, DecisionHead) else index == columns).float() * 2 - 1)


@pytest.mark.parametrize("name", [name for name in HEADS if name != "ziln"])
def test_perfect_outputs_have_the_least_loss(name: str) -> None:
    head = build(name)
    labels = torch.from_numpy(AGES)
    perfect = perfect_outputs(head, labels)
    least = head.loss(perfect, labels)
    if name != "sord":  # whose soft labels have an entropy
        assert least.abs().max() < 1e-5
    for seed in range(20):
        assert (head.loss(outputs_for(head, len(AGES), seed), labels) > least).all()
        near = perfect + 0.1 * outputs_for(head, len(AGES), seed)
        assert (head.loss(near, labels) >= least - 1e-5).all()
    if name not in ("sord", "dldl"):
        assert head.predict(perfect).tolist() == pytest.approx(AGES.tolist())


@pytest.mark.parametrize("labels", LABEL_SETS)
@pytest.mark.parametrize("name", HEADS)
def test_any_set_of_labels_trains(name: str, labels: str) -> None:
    array = LABEL_SETS[labels]
    head = build(name, array)
    features = torch.randn(len(array), 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    outputs = head(features)
    assert outputs.shape == (len(array), head.linear.out_features)
    loss = head.loss(outputs, torch.from_numpy(array))
    assert loss.shape == (len(array),) and loss.dtype == torch.float32 and loss.isfinite().all()
    loss.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in [features, *head.parameters()])
    predictions = head.predict(outputs.detach())
    assert predictions.shape == (len(array),) and predictions.dtype == torch.float64 and predictions.isfinite().all()
    if name in BINNED:
        slack = 1e-9 * np.abs(array).max()
        assert array.min() - slack <= predictions.min() and predictions.max() <= array.max() + slack
    if name in WITH_QUANTILES:
        levels = torch.tensor([0.05, 0.3, 0.5, 0.5001, 0.95])
        quantiles = head.quantiles(outputs.detach(), levels)
        assert quantiles.shape == (len(array), 5) and quantiles.dtype == torch.float64
        assert quantiles.isfinite().all() and (quantiles.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("name", BINNED)
@pytest.mark.parametrize("label", [5.0, 0.1, -3.0])
def test_equal_labels_are_predicted_as_they_are(name: str, label: float) -> None:
    head = build(name, [label] * 3)
    outputs = outputs_for(head, 8, spread=9)
    assert head.predict(outputs).tolist() == [label] * 8
    assert head.quantiles(outputs, torch.tensor([0.01, 0.99])).tolist() == [[label] * 2] * 8


@pytest.mark.parametrize("name", HEADS)
def test_rows_are_independent_and_labels_of_any_float_are_alike(name: str) -> None:
    head = build(name)
    outputs, labels = outputs_for(head, len(AGES)), torch.from_numpy(AGES)
    whole = head.loss(outputs, labels)
    for row in range(len(AGES)):
        assert head.loss(outputs[row : row + 1], labels[row : row + 1]).item() == pytest.approx(whole[row].item(), 1e-5)
    assert torch.equal(whole, head.loss(outputs, labels.float()))


@pytest.mark.parametrize("name", BINNED)
def test_labels_outside_go_to_the_nearest_bin(name: str) -> None:
    if name in ("sord", "dldl"):  # soft labels: tested with their targets
        return
    head = build(name)
    outputs = outputs_for(head, 1).expand(4, -1)
    loss = head.loss(outputs, torch.tensor([-40.0, 3.0, 900.0, 71.0]))
    assert loss[0] == loss[1] and loss[2] == loss[3]


@pytest.mark.parametrize("name", HEADS)
def test_casting_a_model_leaves_the_labels_alone(name: str) -> None:
    """Labels near a million, which bfloat16 rounds to multiples of 4096, survive `model.to(torch.bfloat16)`."""
    labels = 1_000_000 + AGES
    head = build(name, labels)
    outputs = outputs_for(head, len(labels)).bfloat16()
    exact = head.predict(outputs.float())
    exact_loss = head.loss(outputs.float(), torch.from_numpy(labels))
    cast = build(name, labels).to(torch.bfloat16)
    assert cast(torch.zeros(2, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert torch.equal(cast.predict(outputs), exact)
    assert torch.equal(cast.loss(outputs, torch.from_numpy(labels)), exact_loss)
    assert not list(cast.buffers())


@pytest.mark.parametrize("name", HEADS)
def test_everything_is_computed_on_the_device_of_the_outputs(name: str) -> None:
    """The meta device refuses to mix with the CPU as a GPU does, and every machine has it."""
    with torch.device("meta"):
        head = build(name)
        outputs = head(torch.randn(3, 4))
        labels = torch.tensor([3.0, 4.0, 5.0])
    loss, predictions = head.loss(outputs, labels), head.predict(outputs)
    assert loss.is_meta and loss.shape == (3,) and predictions.is_meta and predictions.shape == (3,)


@pytest.mark.parametrize("name", WITH_QUANTILES)
@pytest.mark.parametrize("levels", [[0.0], [0.5, 1.0], [-0.1], [math.nan], [[0.5]]])
def test_quantiles_refuse_other_levels(name: str, levels: Any) -> None:
    head = build(name)
    with pytest.raises(ValueError, match="levels: wanted"):
        head.quantiles(outputs_for(head, 2), torch.tensor(levels))


def test_quantile_head_refuses_levels_it_was_not_trained_at() -> None:
    head = build("quantile")
    with pytest.raises(ValueError, match="0.05 to 0.95 and wants levels within, got 0.01"):
        head.quantiles(outputs_for(head, 2), torch.tensor([0.5, 0.01]))


def test_quantile_head_interpolates_between_its_levels() -> None:
    head = QuantileHead(4, location=10.0, scale=2.0)
    outputs = outputs_for(head, 3)
    levels = np.array([0.05, 0.0625, 0.5, 0.93, 0.95])
    expected = [np.interp(levels, LEVELS, np.sort(10 + 2 * row)) for row in outputs.double().numpy()]
    np.testing.assert_allclose(head.quantiles(outputs, torch.from_numpy(levels)), expected, rtol=1e-9)
    assert torch.equal(head.quantiles(outputs, torch.tensor([0.5]))[:, 0], head.predict(outputs))


@pytest.mark.parametrize("name", ["mse", "l1"])
def test_heads_without_a_distribution_have_no_quantiles(name: str) -> None:
    with pytest.raises(NotImplementedError, match=f"The {name} head predicts one number"):
        build(name).quantiles(torch.zeros(2, 1), torch.tensor([0.5]))


@pytest.mark.parametrize("name", [name for name in BINNED if HEADS[name] is not HEADS["or_cnn"]])
def test_quantiles_of_bins_by_brute_force(name: str) -> None:
    head: Any = build(name)
    outputs = outputs_for(head, 5)
    if isinstance(head, CategoricalHead):
        cumulative = scipy.special.softmax(outputs.double().numpy(), axis=1).cumsum(1)
    else:
        cumulative = 1 - np.cumprod(scipy.special.expit(outputs.double().numpy()), axis=1)
    levels = [0.011, 0.234, 0.5, 0.789, 0.987]
    found = head.quantiles(outputs, torch.tensor(levels, dtype=torch.float64))
    for row, distribution in enumerate(cumulative):
        padded = [*distribution[: len(head.bins.centres) - 1], 1.0]
        expected = [next(c for c, f in zip(head.bins.centres, padded, strict=True) if f >= level) for level in levels]
        assert found[row].tolist() == expected


@pytest.mark.parametrize("name", BINNED)
def test_rounding_near_level_one_stays_within_the_bins(name: str) -> None:
    head = build(name, LABEL_SETS["many"])
    level = torch.tensor([np.nextafter(1.0, 0.0)])
    assert head.quantiles(outputs_for(head, 500), level).max() <= LABEL_SETS["many"].max()


def test_or_cnn_quantiles_put_decisions_into_order() -> None:
    head = ORCNNHead(4, centres=[10.0, 20.0, 40.0], edges=[15.0, 30.0])
    crossed, ordered = torch.tensor([[-1.0, 2.0]]), torch.tensor([[2.0, -1.0]])
    levels = torch.tensor([0.1, 0.3, 0.5, 0.8])
    assert torch.equal(head.quantiles(crossed, levels), head.quantiles(ordered, levels))
    assert head.quantiles(ordered, levels).tolist() == [[10.0, 20.0, 20.0, 40.0]]


# --- training recovers the right statistic


def ziln_mean(labels: NDArray[Any]) -> float:
    logs = np.log(labels[labels > 0])
    return float((labels > 0).mean() * np.exp(logs.mean() + logs.var() / 2))


STATISTICS: dict[str, Callable[[NDArray[Any]], float]] = {
    "mse": np.mean,
    "l1": np.median,
    "quantile": np.median,
    "cross_entropy_mean": np.mean,
    "cross_entropy_median": np.median,
    "or_cnn": np.mean,
    "corn": np.median,
    "ziln": ziln_mean,
}


def fit(head: Head, features: Tensor, labels: Tensor) -> Tensor:
    """Outputs after full-batch Adam with a falling learning rate."""
    steps = 800
    optimizer = torch.optim.Adam(head.parameters(), lr=0.3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.003, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        head.loss(head(features), labels).mean().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        outputs: Tensor = head(features)
    return outputs


def two_groups() -> tuple[Tensor, NDArray[Any], list[NDArray[Any]]]:
    """Skewed labels whose mean and median differ, in two groups that a linear layer tells apart."""
    rng = np.random.default_rng(3)
    groups = [np.floor(rng.lognormal(0.7, 1.0, 51)), 5 + np.floor(rng.lognormal(2.0, 0.7, 51))]
    features = torch.eye(2).repeat_interleave(51, 0)
    return features, np.concatenate(groups), groups


@pytest.mark.parametrize("name", STATISTICS)
def test_training_finds_the_statistic_of_each_group(name: str) -> None:
    features, labels, groups = two_groups()
    head = build(name, labels, features=2)
    outputs = fit(head, features, torch.from_numpy(labels))
    predictions = head.predict(outputs)
    for row, group in ((0, groups[0]), (51, groups[1])):
        assert predictions[row].item() == pytest.approx(STATISTICS[name](group), abs=0.15)
        if STATISTICS[name] is np.mean:  # these would not pass for the median
            assert abs(np.mean(group) - np.median(group)) > 0.5


@pytest.mark.parametrize("name", ["quantile", "cross_entropy_median", "corn"])
def test_training_finds_the_quantiles_of_each_group(name: str) -> None:
    features, labels, groups = two_groups()
    head = build(name, labels, features=2)
    outputs = fit(head, features, torch.from_numpy(labels))
    levels = [0.1, 0.25, 0.5, 0.75, 0.9]  # none of them a whole number of 51 labels
    found = head.quantiles(outputs, torch.tensor(levels, dtype=torch.float64))
    for row, group in ((0, groups[0]), (51, groups[1])):
        expected = np.quantile(group, levels, method="inverted_cdf")
        np.testing.assert_allclose(found[row], expected, atol=0.3)


@pytest.mark.parametrize("name", ["sord", "dldl", "mean_variance"])
def test_training_separates_groups_for_the_other_heads(name: str) -> None:
    """Soft labels give the mean of the targets' expectations; mean and variance losses give labels that are certain."""
    features, labels, groups = two_groups()
    head: Any = build(name, labels, features=2)
    if name == "mean_variance":
        labels = np.repeat([np.median(group) for group in groups], 51)
        expected = labels
    else:
        targets = head.targets if name == "sord" else lambda y: head.log_targets(y).exp()
        each = targets(torch.from_numpy(labels)).double().numpy() @ np.array(head.bins.centres)
        expected = np.repeat([each[:51].mean(), each[51:].mean()], 51)
    outputs = fit(head, features, torch.from_numpy(labels))
    np.testing.assert_allclose(head.predict(outputs), expected, atol=0.15)


# --- documentation and layers


@pytest.mark.parametrize("documented", [Head, *HEADS.values()])
def test_examples_in_the_docstrings(documented: type[Head]) -> None:
    text = re.sub("```.*", "", inspect.getdoc(documented) or "")
    test = doctest.DocTestParser().get_doctest(text, {}, documented.__name__, None, None)
    assert test.examples and doctest.DocTestRunner().run(test).failed == 0


def test_heads_know_nothing_of_rarl() -> None:
    folder = Path(gor_head.heads.__file__).parent
    imports = re.compile(r"^\s*(?:from|import) rarl\b", re.MULTILINE)
    assert not [path.name for path in folder.glob("*.py") if imports.search(path.read_text())]
