"""Direct heads, and that nothing but training labels reaches vocabulary and head."""

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error

from gor_head import CoDiVocabulary
from gor_head.heads import HEADS
from gor_head.model import GoRConfig, GoRModel
from tests.gor_head.estimator.problems import X, Y, direct, held_out, quick


@pytest.mark.parametrize("head", HEADS)
def test_every_head_learns(head: str) -> None:
    settings = {"max_steps": 60, "learning_rate": 1e-2, "validation_fraction": 0.0}
    labels = 1 + np.round(10 * np.exp(X[:, 0] / 2))
    model = direct(head, **settings).fit(X, labels)
    constant = mean_absolute_error(labels, np.full(60, np.median(labels)))
    assert mean_absolute_error(labels, model.predict(X)) < 0.6 * constant
    if head in ("mse", "l1"):
        with pytest.raises(NotImplementedError, match=f"The {head} head predicts one number"):
            model.predict_quantiles(X, [0.5])
    else:
        quantiles = model.predict_quantiles(X, [0.1, 0.5, 0.9])
        assert quantiles.shape == (60, 3) and (np.diff(quantiles, axis=1) >= 0).all()
        assert np.corrcoef(quantiles[:, 1], labels)[0, 1] > 0.7


@pytest.mark.parametrize("head", HEADS)
def test_heads_know_training_labels_only(head: str) -> None:
    held = held_out()
    labels = Y.copy()
    labels[held] = 1e6
    expected = HEADS[head].settings(np.delete(Y, held))
    assert direct(head, max_steps=1).fit(X, labels).model_.config.head_settings == expected


def test_the_vocabulary_knows_training_labels_only() -> None:
    held = held_out()
    model = quick(max_steps=1).fit(X, Y)
    expected = CoDiVocabulary.fit(np.delete(Y, held))
    assert model.vocabulary_.labels_hash == expected.labels_hash


def test_settings_reach_the_model() -> None:
    model = quick(decoder="lstm", width=8, layers=2, strategy="ngram", huber_of="window", huber_delta=2, dropout=0.25)
    config = model.fit(X, Y).model_.config
    assert isinstance(model.model_, GoRModel) and isinstance(config, GoRConfig)
    assert (config.decoder, config.width, config.layers, config.strategy) == ("lstm", 8, 2, "ngram")
    assert (config.huber_of, config.huber_delta, config.dropout) == ("window", 2, 0.25)
    assert config.encoder == {"kind": "ffn", "dropout": 0.25, "numeric": 4, "categories": []}
    exact = quick(huber_of="exact", max_steps=2).fit(X[:20], np.arange(20) % 4)
    assert set(exact.predict(X)) <= {0.0, 1.0, 2.0, 3.0}
