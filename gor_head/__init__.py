"""Generative ordinal regression: labels as short sequences of value tokens, for any encoder and any decoder."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gor_head.extras import not_installed

if TYPE_CHECKING:
    from gor_head.estimator import DirectRegressor, GoRRegressor
    from gor_head.vocabulary import EOS, PAD, SOS, CoDiVocabulary

__all__ = ["EOS", "PAD", "SOS", "CoDiVocabulary", "DirectRegressor", "GoRRegressor"]


def __getattr__(name: str) -> Any:
    # Most users of the vocabulary need no PyTorch, scikit-learn and transformers: those come with the estimators.
    if name in ("DirectRegressor", "GoRRegressor"):
        try:
            estimators = import_module("gor_head.estimator")
        except ModuleNotFoundError as error:
            raise ImportError(f"gor_head.{name}: {not_installed(error, 'tables')}") from error
        return getattr(estimators, name)
    if name in __all__:
        return getattr(import_module("gor_head.vocabulary"), name)
    raise AttributeError(f"module 'gor_head' has no attribute {name!r}")
