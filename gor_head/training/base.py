"""What a training strategy is."""

from abc import ABC, abstractmethod

from torch import Tensor

from gor_head.interface import CodeModel


class Strategy(ABC):
    """A way to train the decoder on true codes: log-probabilities of one or more passes, each with a weight."""

    @abstractmethod
    def passes(self, model: CodeModel, memory: Tensor, codes: Tensor, *, progress: float) -> list[tuple[float, Tensor]]:
        """Passes of the decoder.

        Args:
            model: The model.
            memory: The encoder's output, `[B, L, D]`.
            codes: True codes, int64 `[B, T]`.
            progress: Share of the training done, in 0..1.

        Returns:
            Weight and log-probabilities of the next token, `[B, T, V]`, of each pass.
        """

    def __call__(self, model: CodeModel, memory: Tensor, *, codes: Tensor, labels: Tensor, progress: float) -> Tensor:
        """Loss of each row, `[B]`: the passes' weighted objectives (equation 7)."""
        losses = [
            weight * model.objective(memory, log_probs, codes, labels=labels)
            for weight, log_probs in self.passes(model, memory, codes, progress=progress)
        ]
        return sum(losses[1:], losses[0])
