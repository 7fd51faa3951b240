"""The methods of a comparison can all be made, trained, read and sent to other processes."""

import pickle

import numpy as np
import pytest

from gor_head.compare.methods import METHODS
from gor_head.estimator import GoRRegressor
from gor_head.heads import HEADS

TRAINING = {"learning_rate": 1e-2, "batch_size": 16, "max_steps": 5, "patience": 2}
X = np.random.default_rng(0).normal(size=(40, 3))
Y = np.round(10 * np.exp(X[:, 0]))


def test_names_and_rows_are_unique_and_all_heads_are_there() -> None:
    rows = [row for method in METHODS.values() for row in method.reads]
    assert len(rows) == len(set(rows))
    assert all(name == method.name for name, method in METHODS.items())
    assert set(METHODS) - set(HEADS) == {"gor", "gor_paper", "gr"} and set(HEADS) < set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_and_is_read_the_same_after_pickling(name: str) -> None:
    method = METHODS[name]
    again = pickle.loads(pickle.dumps(method))
    models = [each.make(random_state=3, **TRAINING).fit(X, Y) for each in (method, again)]
    parameters = models[0].get_params()
    assert parameters["random_state"] == 3 and parameters.items() >= TRAINING.items()
    assert 1 <= models[0].n_steps_ <= 5
    for row, arguments in method.reads.items():
        predictions = [each.predict(X, **arguments) for each in models]
        assert predictions[0].shape == (40,) and np.isfinite(predictions[0]).all()
        np.testing.assert_array_equal(*predictions, err_msg=row)


def test_the_paper_and_its_predecessor_differ_as_they_say() -> None:
    paper, before = METHODS["gor_paper"].make(), METHODS["gr"].make()
    assert isinstance(paper, GoRRegressor) and isinstance(before, GoRRegressor)
    assert (paper.strategy, paper.nll_weight, paper.huber_weight) == ("paper", 1.0, 10.0)
    assert (before.nll_weight, before.huber_weight, before.huber_of, before.decode) == (10.0, 1.0, "window", "window")
    trained = METHODS["gr"].make(random_state=0, **TRAINING).fit(X, Y)
    assert isinstance(trained, GoRRegressor)
    statistics = trained.vocabulary_.statistics
    assert statistics["before"]["size"] == statistics["after"]["size"]
