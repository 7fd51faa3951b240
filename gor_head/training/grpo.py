"""Group relative policy optimisation on the standalone decoder, with the negative absolute error as the reward."""

from torch import Tensor

from gor_head.decoding.sample import sample
from gor_head.interface import CodeModel


class GRPO:
    """Policy gradient on groups of sampled codes.

    Formula: for G codes of a row with rewards rᵢ = −|ŷᵢ − y|, advantage Aᵢ = (rᵢ − mean r) / (std r + 1e-4), and
    loss = −(1/G)·Σᵢ Aᵢ·log π(codeᵢ). Codes are drawn anew at every step, so the probability ratio is 1 and nothing is
    clipped. A row whose codes all err alike gives no gradient. Set it as a trained model's `strategy`.

    Args:
        group: G, codes per row, ≥ 2.

    Reference: Shao et al. 2024; GoR, section 2.3.2.
    """

    def __init__(self, group: int = 8) -> None:
        if group < 2:
            raise ValueError(f"group: wanted 2 or more codes per row, got {group}.")
        self.group = group

    def __call__(self, model: CodeModel, memory: Tensor, *, codes: Tensor, labels: Tensor, progress: float) -> Tensor:
        """Loss of each row, `[B]`; `codes` and `progress` are unused."""
        repeated = memory.repeat_interleave(self.group, dim=0)
        training = model.training
        model.eval()
        drawn = sample(model, repeated)
        model.train(training)
        numbers = model.vocabulary.decode(drawn).view(-1, self.group)
        advantage = group_advantage(-(numbers - labels[:, None]).abs())
        log_probs = model.code_log_probs(repeated, drawn).view(-1, self.group)
        return -(advantage.to(log_probs.dtype) * log_probs).mean(dim=1)


def group_advantage(rewards: Tensor) -> Tensor:
    """Rewards `[B, G]` less their row's mean, over its standard deviation plus 1e-4."""
    return (rewards - rewards.mean(dim=1, keepdim=True)) / (rewards.std(dim=1, keepdim=True) + 1e-4)
