"""Generative ordinal regression: labels as short sequences of value tokens, for any encoder and any decoder."""

from gor_head.vocabulary import EOS, PAD, SOS, CoDiVocabulary

__all__ = ["EOS", "PAD", "SOS", "CoDiVocabulary", "DirectRegressor", "GoRRegressor"]


def __getattr__(name: str) -> type:
    # scikit-learn and transformers are loaded only by those who train.
    if name in ("DirectRegressor", "GoRRegressor"):
        from gor_head import estimator

        return getattr(estimator, name)
    raise AttributeError(f"module 'gor_head' has no attribute {name!r}")
