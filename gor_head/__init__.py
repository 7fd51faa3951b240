"""Generative ordinal regression: labels as short sequences of value tokens, for any encoder and any decoder."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gor_head.estimator import DirectRegressor, GoRRegressor
    from gor_head.vocabulary import EOS, PAD, SOS, CoDiVocabulary

__all__ = ["EOS", "PAD", "SOS", "CoDiVocabulary", "DirectRegressor", "GoRRegressor"]


def __getattr__(name: str) -> Any:
    # PyTorch is loaded only by those who use a vocabulary, scikit-learn and transformers by those who train.
    if name in ("DirectRegressor", "GoRRegressor"):
        from gor_head import estimator

        return getattr(estimator, name)
    if name in __all__:
        from gor_head import vocabulary

        return getattr(vocabulary, name)
    raise AttributeError(f"module 'gor_head' has no attribute {name!r}")
