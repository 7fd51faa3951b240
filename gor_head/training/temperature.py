"""One number that makes a trained model's distribution less sure of itself, fitted on rows held out from training."""

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from gor_head import losses

RANGE = (0.05, 20.0)
"""Temperatures that are looked at: between them the distribution goes from one token to none better than others."""


def fit_temperature(log_probs: Tensor, codes: Tensor, weight: Tensor | None = None) -> float:
    """The temperature under which held-out codes are likeliest, if logits of all steps are divided by it.

    The likelihood is that of the tokens under the true prefixes; its logarithm is concave in the inverse of the
    temperature, so there is one best value.

    Args:
        log_probs: Log-probabilities at temperature 1 of the next token after each true prefix, `[B, T, V]`.
        codes: True codes, int64 `[B, T]`.
        weight: ≥ 0, of the rows, `[B]`; all alike if not given.

    Reference: Guo et al. 2017, On Calibration of Modern Neural Networks.
    """
    lowest, highest = sorted(1 / end for end in RANGE)
    weight = torch.ones(len(codes), dtype=torch.float64) if weight is None else weight.double()

    def surprise(inverse: float) -> float:
        # Illegal tokens are far below the others at any of the temperatures.
        each = losses.nll((log_probs.double() * inverse).log_softmax(dim=-1), codes)
        return float((each * weight).sum() / weight.sum())

    found = minimize_scalar(surprise, bounds=(lowest, highest), method="bounded", options={"xatol": 1e-4})
    return 1 / float(found.x)
