"""Generative ordinal regression as a scikit-learn estimator."""

import math
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from copy import copy
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from gor_head.decoders import DECODERS
from gor_head.decoding import DECODES
from gor_head.decoding.greedy import greedy
from gor_head.decoding.quantile import MEDIAN, quantile
from gor_head.enumeration import count_codes
from gor_head.estimator.base import OrdinalRegressor, as_numpy
from gor_head.estimator.checks import as_json, check_arguments, check_choice, check_real, check_whole
from gor_head.estimator.isolation import own_randomness, seed_of
from gor_head.heads.base import location_and_scale
from gor_head.losses import HuberOf
from gor_head.model import GoRConfig, GoRModel
from gor_head.training import STRATEGIES
from gor_head.training.data import Rows, SmoothedRows
from gor_head.training.dpo import DPO, PreferenceStatistics, preference_rows
from gor_head.training.grpo import GRPO
from gor_head.training.temperature import fit_temperature
from gor_head.training.trainer import OrdinalTrainer
from gor_head.vocabulary import EOS, CoDiVocabulary

CALIBRATED = 10_000
"""Held-out rows, at most, that a temperature is fitted on."""


class GoRRegressor(OrdinalRegressor):
    """Generative ordinal regression as a scikit-learn estimator.

    Numbers ≥ 0 become short codes of additive value tokens from a vocabulary chosen by CoDi; a decoder writes the code.

    Args:
        vocabulary: A fitted [`CoDiVocabulary`][gor_head.vocabulary.CoDiVocabulary], or arguments of
            `CoDiVocabulary.fit`, which then runs on the training labels: `{"beta": 0.7, "offset": "min"}`.
        encoder: Arguments of the encoder, with its `kind` in `gor_head.encoders.ENCODERS`; None is an FFN for tables.
            Pretrained ones (`"torchvision"`, `"timm"`, `"transformers"`) are fine-tuned, or with `"frozen": True` make
            a table of features, kept in the folder `"cache"` if there is one; an FFN learns from it.
        decoder: `"rnn"`, `"gru"`, `"lstm"` or `"transformer"`.
        width, layers, heads, dropout: Sizes and dropout of the decoder; the dropout is the FFN's, too.
        strategy: Name in `gor_head.training.STRATEGIES`; `"paper"` is curriculum and n-gram, two to three times slower.
        finetune: `"dpo"` (preferences among beam candidates) or `"grpo"` (reward −|ŷ−y|) after training, or None. It
            is undone if it does not lower the validation MAE.
        finetune_steps: Steps of that.
        decode: How `predict` reads a number: `"quantile"` (the median), `"greedy"` (paper), `"beam"` (the likeliest of
            four), `"mean"`, `"sample"`, or `"window"` (predecessor).
        nll_weight, huber_weight, huber_of, huber_delta, huber_scale: The loss, see
            [`gor_head.model.GoRConfig`][gor_head.model.GoRConfig]. `huber_scale="std"` counts its errors in standard
            deviations of the training labels. The paper has λ 10 in label units, which drowns the likelihood where
            labels are large, and with it the quantiles.
        smoothing: Standard deviation of a normal distribution around each label, in those of the training labels, from
            which the number whose code is learned is drawn anew each time: label smoothing over neighbours. 0 for none.
        calibrate: Whether to fit a temperature on the rows held out, after training.
        learning_rate: Learning rate of Adam (paper: 5e-4).
        weight_decay: Weight decay of AdamW.
        batch_size: Rows per step, at most the training rows (paper: 1024 for tables).
        max_steps: The largest number of optimiser steps.
        eval_steps: Steps between looks at the validation rows; None: an epoch, or 25 if that is more.
        patience: Looks without a lower validation MAE before training ends.
        validation_fraction: Share of the rows that is held out for early stopping if there are 10 or more; 0 for none.
        predict_batch_size: Rows decoded together.
        output_dir: Where checkpoints stay; None: nowhere.
        random_state: Seed, generator or None; the global random state is left as it was.
        verbose: Show the trainer's progress and logs.

    Attributes:
        model_: The trained [`gor_head.model.GoRModel`][gor_head.model.GoRModel].
        vocabulary_: Its vocabulary.
        n_steps_: Optimiser steps taken.
        log_history_: The trainer's logs.
        preferences_: Counts of the preference pairs, with `finetune="dpo"`.

    Example:

    ```python
    >>> import numpy as np
    >>> from gor_head import GoRRegressor
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> y = np.round(30 + 10 * X[:, 0].clip(-2, 2))
    >>> model = GoRRegressor(max_steps=50, random_state=0).fit(X, y)
    >>> model.predict(X).shape, model.predict_interval(X).shape
    ((200,), (200, 2))
    ```

    Reference: GoR: A Unified and Extensible Generative Framework for Ordinal Regression.
    """

    _model_class = GoRModel
    model_: GoRModel

    def __init__(
        self,
        vocabulary: CoDiVocabulary | dict[str, Any] | None = None,
        *,
        encoder: dict[str, Any] | None = None,
        decoder: str = "transformer",
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
        strategy: str = "teacher_forcing",
        finetune: Literal["dpo", "grpo"] | None = None,
        finetune_steps: int = 200,
        decode: str = "quantile",
        nll_weight: float = 1.0,
        huber_weight: float = 1.0,
        huber_of: HuberOf = "expectation",
        huber_delta: float = 1.0,
        huber_scale: float | Literal["std"] = "std",
        smoothing: float = 0.0,
        calibrate: bool = False,
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
        self.vocabulary = vocabulary
        self.encoder = encoder
        self.decoder = decoder
        self.width = width
        self.layers = layers
        self.heads = heads
        self.dropout = dropout
        self.strategy = strategy
        self.finetune = finetune
        self.finetune_steps = finetune_steps
        self.decode = decode
        self.nll_weight = nll_weight
        self.huber_weight = huber_weight
        self.huber_of = huber_of
        self.huber_delta = huber_delta
        self.huber_scale = huber_scale
        self.smoothing = smoothing
        self.calibrate = calibrate
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

    def predict(self, X: Any, decode: str | None = None) -> NDArray[np.float64]:
        """Numbers for rows of X, `[n]`.

        Args:
            X: Features, as in `fit`.
            decode: Instead of the estimator's own `decode`.
        """
        check_is_fitted(self, "model_")
        name = decode or self.decode
        check_choice("decode", name, DECODES)
        draws = name == "sample" or (name == "mean" and count_codes(self.model_.intervals) is None)
        with own_randomness(seed_of(self.random_state)) if draws else nullcontext():
            return as_numpy(DECODES[name](self.model_, memory) for memory in self._batches(X))

    def predict_quantiles(self, X: Any, levels: Sequence[float]) -> NDArray[np.float64]:
        """Exact quantiles of each row's predictive distribution, `[n, Q]`, for levels in 0..1."""
        wanted = torch.as_tensor(levels, dtype=torch.float64)
        codes = (quantile(self.model_, memory, wanted) for memory in self._batches(X))
        return as_numpy(self.vocabulary_.decode(rows.flatten(0, 1)).view(rows.shape[:2]) for rows in codes)

    def predict_interval(self, X: Any, low: float = 0.05, high: float = 0.95) -> NDArray[np.float64]:
        """Interval between two quantiles, `[n, 2]`, of levels 0 ≤ low ≤ high ≤ 1."""
        if not 0 <= low <= high <= 1:
            raise ValueError(f"low, high: wanted levels with 0 ≤ low ≤ high ≤ 1, got {low} and {high}.")
        return self.predict_quantiles(X, [low, high])

    def explain(self, X: Any, decode: Literal["greedy", "quantile"] = "quantile") -> list[list[float]]:
        """Step-wise refinement: the token values that add up to each prediction, largest first: 50 + 5 + 3.

        With an offset, the list begins with it.
        """
        check_choice("decode", decode, ("greedy", "quantile"))
        steps: list[list[float]] = []
        offset = [self.vocabulary_.offset] if self.vocabulary_.offset else []
        for memory in self._batches(X):
            codes = greedy(self.model_, memory) if decode == "greedy" else quantile(self.model_, memory, MEDIAN)[:, 0]
            for code in codes.tolist():
                steps.append(offset + [float(self.vocabulary_.values[token]) for token in code if token > EOS])
        return steps

    @property
    def vocabulary_(self) -> CoDiVocabulary:
        """The vocabulary of the trained model."""
        check_is_fitted(self, "model_")
        return self.model_.vocabulary

    def _number(self, model: Any, memory: Tensor) -> Tensor:
        return DECODES[self.decode](self.model_, memory)

    def _check_settings(self) -> None:
        super()._check_settings()
        if not isinstance(self.vocabulary, CoDiVocabulary | dict | None):
            raise ValueError(
                f"vocabulary: wanted a CoDiVocabulary, arguments of its fit (a dict), or None, got {self.vocabulary!r}."
            )
        check_choice("decoder", self.decoder, DECODERS)
        check_choice("strategy", self.strategy, STRATEGIES)
        check_choice("finetune", self.finetune, (None, "dpo", "grpo"))
        check_choice("decode", self.decode, DECODES)
        check_choice("huber_of", self.huber_of, get_args(HuberOf))
        if isinstance(self.vocabulary, dict):
            check_arguments("vocabulary", self.vocabulary, CoDiVocabulary.fit, others=("labels",))
        if not (isinstance(self.huber_scale, str) and self.huber_scale == "std"):
            check_real(self, lambda value: 0 < value < math.inf, "'std' or a positive number", "huber_scale")
        check_real(self, lambda value: 0 < value < math.inf, "a positive number", "huber_delta")
        check_real(
            self, lambda value: 0 <= value < math.inf, "a number from 0 on", "nll_weight", "huber_weight", "smoothing"
        )
        if not isinstance(self.calibrate, bool):
            raise ValueError(f"calibrate: wanted true or false, got {self.calibrate!r}.")
        if self.calibrate and not self.validation_fraction:
            raise ValueError("calibrate: a temperature is fitted on rows held out; wanted validation_fraction above 0.")
        check_whole(self, "width", "layers", "heads", "finetune_steps")

    def _prepare(self, y: NDArray[Any]) -> None:
        given = self.vocabulary
        # A copy counts the labels that it clips; what was given stays as it was.
        self._spread = spread = location_and_scale(y.astype(np.float64))[1]
        self._scale = spread if self.huber_scale == "std" else float(self.huber_scale)
        self._fitted = copy(given) if isinstance(given, CoDiVocabulary) else CoDiVocabulary.fit(y, **(given or {}))

    def _targets(self, y: NDArray[Any]) -> dict[str, Tensor]:
        return {"codes": torch.from_numpy(self._fitted.encode(y))}

    def _rows(self, columns: dict[str, Tensor]) -> Rows:
        if not self.smoothing:
            return super()._rows(columns)
        # A copy counts the drawn numbers that it clips.
        return SmoothedRows(columns, copy(self._fitted), self.smoothing * self._spread)

    def _model(self) -> GoRModel:
        settings = {
            "encoder": self._encoder(),
            "decoder": self.decoder,
            "width": self.width,
            "layers": self.layers,
            "heads": self.heads,
            "dropout": self.dropout,
            "strategy": self.strategy,
            "nll_weight": self.nll_weight,
            "huber_weight": self.huber_weight,
            "huber_of": self.huber_of,
            "huber_delta": self.huber_delta,
            "huber_scale": self._scale,
        }
        return GoRModel(GoRConfig(self._fitted.to_dict(), **as_json(settings)))

    def _after(self, trainer: OrdinalTrainer, train: Rows, validation: Rows, directory: str) -> None:
        if self.finetune is not None:
            # Preferences and rewards are about the labels themselves.
            self._tune(trainer, Rows(train.columns), validation, str(Path(directory) / self.finetune))
        if self.calibrate and len(validation):
            self._fit_temperature(validation)
        elif self.calibrate:
            warnings.warn("calibrate: too few rows to hold some out; the temperature stays 1.", stacklevel=3)

    @torch.no_grad()
    def _fit_temperature(self, rows: Rows) -> None:
        model, index = self.model_.eval(), torch.linspace(0, len(rows) - 1, min(len(rows), CALIBRATED)).long()
        columns = {name: column[index] for name, column in rows.columns.items()}
        labels, weight = columns.pop("labels"), columns.pop("sample_weight", None)
        codes = torch.from_numpy(copy(self._fitted).encode(labels.numpy())).long()
        seen = []
        for part in torch.arange(len(index)).split(self.predict_batch_size):
            memory = model.encoder(**{name: column[part].to(model.device) for name, column in columns.items()})
            seen.append(model.log_probs(self._finite(memory), codes[part].to(model.device)).cpu())
        model.config.logit_temperature = fit_temperature(torch.cat(seen), codes, weight)

    def _tune(self, trainer: OrdinalTrainer, train: Rows, validation: Rows, directory: str) -> None:
        supervised = self.model_.strategy
        before = {name: weight.clone() for name, weight in self.model_.state_dict().items()}
        self.model_.eval()
        rows = train
        if self.finetune == "dpo":
            try:
                rows, statistics = preference_rows(self.model_, train)
            except ValueError as error:
                warnings.warn(f"finetune: {error} The model stays as it was before.", stacklevel=3)
                return
            self.preferences_: PreferenceStatistics = statistics
            self.model_.strategy = DPO()
        else:
            self.model_.strategy = GRPO()
        tuned = self._train(rows, validation, self.finetune_steps, directory)
        self.model_.strategy = supervised
        mae, tuned_mae = trainer.state.best_metric, tuned.state.best_metric
        if mae is not None and tuned_mae is not None and tuned_mae >= mae:
            self.model_.load_state_dict(before)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        given = self.vocabulary
        shifted = given.grid.offset if isinstance(given, CoDiVocabulary) else (given or {}).get("offset")
        tags.target_tags.positive_only = not shifted
        tags.non_deterministic = self.random_state is None
        return tags
