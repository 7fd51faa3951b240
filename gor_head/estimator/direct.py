"""The direct heads as scikit-learn estimators: what GoR is compared with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import Tags
from torch import Tensor

from gor_head.estimator.base import OrdinalRegressor, as_numpy
from gor_head.estimator.checks import as_json, check_choice
from gor_head.heads import HEADS
from gor_head.model import DirectConfig, DirectModel


class DirectRegressor(OrdinalRegressor):
    """A direct head on the same encoder and trainer: what GoR is compared with.

    Args:
        head: Name in `gor_head.heads.HEADS`.
        encoder, dropout, learning_rate, weight_decay, batch_size, max_steps, eval_steps, patience, validation_fraction,
        predict_batch_size, output_dir, random_state, verbose: The arguments of the same names of
            [`GoRRegressor`][gor_head.estimator.gor.GoRRegressor].

    Attributes:
        model_: The trained [`gor_head.model.DirectModel`][gor_head.model.DirectModel].
    """

    _model_class = DirectModel
    model_: DirectModel

    def __init__(
        self,
        head: str = "l1",
        *,
        encoder: dict[str, Any] | None = None,
        dropout: float = 0.1,
        learning_rate: float = 5e-4,
        weight_decay: float = 0.0,
        batch_size: int = 1024,
        max_steps: int = 5000,
        eval_steps: int | None = None,
        patience: int = 10,
        validation_fraction: float = 0.2,
        predict_batch_size: int = 4096,
        output_dir: str | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.head = head
        self.encoder = encoder
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_steps = max_steps
        self.eval_steps = eval_steps
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.predict_batch_size = predict_batch_size
        self.output_dir = output_dir
        self.random_state = random_state
        self.verbose = verbose

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Numbers for rows of X, `[n]`."""
        return as_numpy(self._number(self.model_, memory) for memory in self._batches(X))

    @torch.no_grad()
    def predict_quantiles(self, X: Any, levels: Sequence[float]) -> NDArray[np.float64]:
        """Quantiles `[n, Q]`, of heads that have a distribution."""
        wanted = torch.as_tensor(levels, dtype=torch.float64)
        outputs = (self.model_.outputs(memory) for memory in self._batches(X))
        return as_numpy(self.model_.head.quantiles(rows, wanted) for rows in outputs)

    @torch.no_grad()
    def _number(self, model: Any, memory: Tensor) -> Tensor:
        return model.head.predict(model.outputs(memory))

    def _check_settings(self) -> None:
        super()._check_settings()
        check_choice("head", self.head, HEADS)

    def _prepare(self, y: NDArray[Any]) -> None:
        self._settings = HEADS[self.head].settings(y)

    def _model(self) -> DirectModel:
        return DirectModel(DirectConfig(as_json(self._encoder()), self.head, self._settings))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = self.random_state is None
        return tags
