"""One number that makes a trained model's distribution less sure of itself, fitted on rows held out from training."""

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from gor_head import losses
from gor_head.model import GoRModel

RANGE = (0.05, 20.0)
"""Temperatures that are looked at: between them the distribution goes from one token to none better than others."""


@torch.no_grad()
def fit_temperature(model: GoRModel, memory: Tensor, codes: Tensor) -> float:
    """Set the temperature of a model to that under which held-out codes are likeliest, and return it.

    Logits of all steps are divided by it. The likelihood is that of the tokens under the true prefixes; its logarithm
    is concave in the inverse of the temperature, so there is one best value.

    Args:
        model: A trained model, in evaluation mode.
        memory: The encoder's output on held-out rows, `[B, L, D]`.
        codes: Their codes, int64 `[B, T]`.

    Reference: Guo et al. 2017, On Calibration of Modern Neural Networks.
    """
    model.config.logit_temperature = 1.0
    log_probs = model.log_probs(memory, codes).double()
    lowest, highest = sorted(1 / end for end in RANGE)

    def surprise(inverse: float) -> float:
        # Illegal tokens are far below the others at any of the temperatures.
        return float(losses.nll((log_probs * inverse).log_softmax(dim=-1), codes).mean())

    found = minimize_scalar(surprise, bounds=(lowest, highest), method="bounded", options={"xatol": 1e-4})
    model.config.logit_temperature = 1 / float(found.x)
    return float(model.config.logit_temperature)
