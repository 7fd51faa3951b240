"""Generative ordinal regression: labels as short sequences of value tokens, for any encoder and any decoder."""

from gor_head.vocabulary import EOS, PAD, SOS, CoDiVocabulary

__all__ = ["EOS", "PAD", "SOS", "CoDiVocabulary"]
