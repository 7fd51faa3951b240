"""Evaluation: generate answers, score them by the paper's protocol, show tables and curves."""

from rarl.evaluation.reports import Report

__all__ = ["Report"]
