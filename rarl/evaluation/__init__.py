"""Evaluation: generate answers, score them by the paper's protocol, show tables and curves."""

from typing import Any

Report = dict[str, Any]
"""JSON-ready result of `rarl.evaluation.protocol.score`, which documents its keys."""
