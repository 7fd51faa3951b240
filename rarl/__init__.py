"""Ranking-aware reinforcement learning for vision-language models that judge how much, and in which order."""

__version__ = "0.1.0"
