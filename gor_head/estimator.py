"""scikit-learn estimators: GoR, and the direct heads it is compared with, on the same encoder and trainer."""

import inspect
import json
import math
import random
import tempfile
import threading
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import Tags, check_consistent_length, check_random_state, get_tags
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor
from transformers import EarlyStoppingCallback, EvalPrediction, PrinterCallback, TrainingArguments, set_seed
from transformers.utils import logging

from gor_head.decoders import DECODERS
from gor_head.decoding.beam import beam
from gor_head.decoding.greedy import greedy
from gor_head.decoding.mean import mean
from gor_head.decoding.posterior import count_codes
from gor_head.decoding.quantile import quantile
from gor_head.decoding.sample import sample
from gor_head.decoding.window import window
from gor_head.encoders import ENCODERS
from gor_head.features import TableFeatures, is_number
from gor_head.grid import as_labels
from gor_head.heads import HEADS
from gor_head.heads.base import location_and_scale
from gor_head.losses import HuberOf
from gor_head.model import DirectConfig, DirectModel, GoRConfig, GoRModel, OrdinalModel
from gor_head.training import STRATEGIES
from gor_head.training.data import Rows
from gor_head.training.dpo import DPO, PreferenceStatistics, preference_rows
from gor_head.training.grpo import GRPO
from gor_head.training.trainer import OrdinalTrainer
from gor_head.vocabulary import EOS, CoDiVocabulary

Decode = Literal["greedy", "beam", "quantile", "mean", "sample", "window"]
DECODES: tuple[Decode, ...] = ("greedy", "beam", "quantile", "mean", "sample", "window")

SETTINGS_FILE = "estimator.json"
FEWEST_TO_SPLIT = 10
"""Training rows from which some are held out for early stopping."""


class OrdinalRegressor(RegressorMixin, BaseEstimator):
    """What both estimators share: reading X, training with early stopping, batches at prediction.

    See [`GoRRegressor`] for the arguments.
    """

    model_: OrdinalModel
    _model_class: type[OrdinalModel]

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "OrdinalRegressor":
        """Train on labelled rows.

        Args:
            X: DataFrame or array `[n, F]`; with an image encoder, array or tensor `[n, 3, H, W]`.
            y: Labels, `[n]`.
            sample_weight: ≥ 0, `[n]`; rows of weight 0 are left out, early stopping looks at the weighted MAE.

        Raises:
            ValueError: If X, y or a setting is not what is wanted; before training starts.
        """
        self._check_settings()
        columns, y = self._read_labelled(X, y)
        weight = None
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, y, dtype=np.float64, ensure_non_negative=True)
        # A row without weight is no row: neither vocabulary nor validation may know its label.
        used = np.arange(len(y)) if weight is None else np.flatnonzero(weight)
        quiet = nullcontext() if self.verbose else _silence()
        with _own_randomness(_seed(self.random_state)), quiet, tempfile.TemporaryDirectory() as scratch:
            order = used[torch.randperm(len(used)).numpy()]
            held = int(len(used) * self.validation_fraction) if len(used) >= FEWEST_TO_SPLIT else 0
            chosen = {"train": np.sort(order[held:]), "validation": np.sort(order[:held])}
            self._prepare(y[chosen["train"]])
            if weight is not None:
                weight = weight / weight[chosen["train"]].mean()
            splits = {}
            for name, index in chosen.items():
                rows = {key: column[torch.from_numpy(index)] for key, column in columns.items()}
                rows["labels"] = torch.from_numpy(y[index].astype(np.float64))
                if name == "train":
                    rows |= self._targets(y[index])
                if weight is not None:
                    rows["sample_weight"] = torch.from_numpy(weight[index])
                splits[name] = Rows(rows)
            self.model_ = self._model()
            directory = str(self.output_dir or scratch)
            trainer = self._train(splits["train"], splits["validation"], self.max_steps, directory)
            self.log_history_ = trainer.state.log_history
            self.n_steps_ = trainer.state.global_step
            self._after(trainer, splits["train"], splits["validation"], directory)
        self.model_.cpu().eval()
        return self

    def save_pretrained(self, directory: str | Path) -> Path:
        """Write model, vocabulary and settings (no pickle) into a directory, and return it."""
        check_is_fitted(self, "model_")
        path = Path(directory)
        self.model_.save_pretrained(str(path))
        settings = self.get_params(deep=False)
        # The model keeps the vocabulary; a generator has no name, and a trained estimator needs none.
        fitted = isinstance(settings.get("vocabulary"), CoDiVocabulary)
        if fitted:
            settings["vocabulary"] = None
        if not isinstance(settings["random_state"], int | np.integer):
            settings["random_state"] = None
        names = getattr(self, "feature_names_in_", None)
        content = {
            "estimator": type(self).__name__,
            "settings": settings,
            "vocabulary_is_setting": fitted,
            "features": None if self.features_ is None else asdict(self.features_),
            "n_features_in": self.n_features_in_,
            "feature_names_in": None if names is None else list(names),
        }
        text = json.dumps(content, indent=1, allow_nan=False, default=_plain)
        (path / SETTINGS_FILE).write_text(text + "\n", encoding="utf-8")
        return path

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> "OrdinalRegressor":
        """Read what [`OrdinalRegressor.save_pretrained`] wrote; the class may be either of the two or this one.

        Raises:
            FileNotFoundError: If the directory holds no estimator.
            ValueError: If it is damaged, or of another class.
        """
        path = Path(directory) / SETTINGS_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; a directory written by save_pretrained is wanted.")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            kind = {kind.__name__: kind for kind in (GoRRegressor, DirectRegressor)}[content["estimator"]]
            estimator = kind(**content["settings"])
            estimator._check_settings()
            features, names = content["features"], content["feature_names_in"]
            estimator.features_ = None if features is None else TableFeatures(**features)
            estimator.n_features_in_ = count = int(content["n_features_in"])
            if (features is None) != (estimator._encoder_kind != "ffn"):
                raise ValueError(f"wanted features for the encoder 'ffn' and no other, got {features!r}")
            if any(listed is not None and len(listed) != count for listed in (names, features and features["names"])):
                raise ValueError(f"wanted {count} features")
            vocabulary_is_setting = content["vocabulary_is_setting"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not written by save_pretrained ({error!r}).") from None
        if not issubclass(kind, cls):
            raise ValueError(f"{path}: holds a {kind.__name__}, wanted a {cls.__name__}.")
        if names is not None:
            estimator.feature_names_in_ = np.asarray(names, dtype=object)
        estimator.model_ = kind._model_class.from_pretrained(directory).eval()
        if vocabulary_is_setting:
            estimator.vocabulary = estimator.model_.vocabulary
        return estimator

    def _check_settings(self) -> None:
        """Refuse what training would stumble over later."""
        if not isinstance(self.encoder, dict | None):
            raise ValueError(f"encoder: wanted a dict of arguments, or None, got {self.encoder!r}.")
        _check_choice("encoder['kind']", self._encoder_kind, ENCODERS)
        given = [name for name in self.encoder or {} if name != "kind"]
        # Those two follow from the table.
        _check_arguments("encoder", given, ENCODERS[self._encoder_kind], ("numeric", "categories"))
        _check_whole(self, "batch_size", "max_steps", "patience", "predict_batch_size")
        if self.eval_steps is not None:
            _check_whole(self, "eval_steps")
        _check_real(self, lambda value: 0 <= value < 1, "a number from 0 to below 1", "validation_fraction", "dropout")
        _check_real(self, lambda value: 0 < value < math.inf, "a positive number", "learning_rate")

    def _prepare(self, y: NDArray[Any]) -> None:
        """Learn from the training labels what the model's configuration needs."""
        raise NotImplementedError

    def _model(self) -> OrdinalModel:
        raise NotImplementedError

    def _targets(self, y: NDArray[Any]) -> dict[str, Tensor]:
        """Columns that the loss wants of training rows beside the labels."""
        return {}

    def _number(self, model: Any, memory: Tensor) -> Tensor:
        """How validation reads a prediction."""
        raise NotImplementedError

    def _after(self, trainer: OrdinalTrainer, train: Rows, validation: Rows, directory: str) -> None:
        """What follows training."""

    @property
    def _encoder_kind(self) -> str:
        return (self.encoder or {}).get("kind", "ffn")

    def _encoder(self) -> dict[str, Any]:
        settings = {"kind": "ffn", "dropout": self.dropout} if self._encoder_kind == "ffn" else {}
        return settings | (self.encoder or {}) | (self.features_.encoder_sizes() if self.features_ is not None else {})

    def _read_labelled(self, X: Any, y: Any) -> tuple[dict[str, Tensor], NDArray[Any]]:
        """Encoder inputs and labels of training rows; learns how the columns are read."""
        _refuse_text(y)
        images = self._encoder_kind != "ffn"
        if images:
            X = _pixels(X)
        if images or _is_mixed(X):
            y = validate_data(self, y=y, y_numeric=True)
            validate_data(self, X, skip_check_array=True)
            check_consistent_length(X, y)
        else:
            X, y = validate_data(self, X, y, y_numeric=True, dtype=np.float64)
        y = as_labels(y, "y")
        if get_tags(self).target_tags.positive_only and y.min() < 0:
            raise ValueError(
                f"y: wanted numbers from 0 on, got {int((y < 0).sum())} negative of {len(y)} (smallest {y.min():g}); "
                "vocabulary={'offset': 'min'} codes the distance from the smallest."
            )
        self.features_ = None if images else TableFeatures.fit(X)
        return self._columns(X), y

    def _read(self, X: Any) -> dict[str, Tensor]:
        """Encoder inputs of rows like those of training."""
        if self.features_ is None:
            X = _pixels(X)
        if self.features_ is None or _is_mixed(X):
            validate_data(self, X, reset=False, skip_check_array=True)
        else:
            X = validate_data(self, X, reset=False, dtype=np.float64)
        return self._columns(X)

    def _columns(self, X: Any) -> dict[str, Tensor]:
        return {"pixel_values": X} if self.features_ is None else self.features_.transform(X)

    def _train(self, train: Rows, validation: Rows, steps: int, directory: str) -> OrdinalTrainer:
        batch = min(self.batch_size, len(train))
        stopping = len(validation) > 0
        every = self.eval_steps or max(25, -(-len(train) // batch))
        weighted = {}
        if stopping and "sample_weight" in validation.columns:
            weighted["compute_metrics"] = partial(_weighted_mae, weight=validation.columns["sample_weight"].numpy())
        arguments = {
            "output_dir": directory,
            "per_device_train_batch_size": batch,
            "per_device_eval_batch_size": self.predict_batch_size,
            "max_steps": steps,
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": "constant",
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "eval_strategy": "steps" if stopping else "no",
            "eval_steps": every,
            "save_strategy": "best" if stopping else "steps" if self.output_dir else "no",
            "save_steps": every,
            "save_total_limit": 1,
            "save_only_model": self.output_dir is None,
            "load_best_model_at_end": stopping,
            "metric_for_best_model": "mae",
            "greater_is_better": False,
            "logging_steps": every,
            "seed": _seed(self.random_state),
            "report_to": [],
            "disable_tqdm": not self.verbose,
            "dataloader_pin_memory": False,
            "remove_unused_columns": False,
            "use_cpu": not torch.cuda.is_available(),
        }
        trainer = OrdinalTrainer(
            model=self.model_,
            args=TrainingArguments(**_as_json(arguments)),
            train_dataset=train,
            eval_dataset=validation if stopping else None,
            read=lambda model, memory: self._number(model, self._finite(memory)),
            callbacks=[EarlyStoppingCallback(int(self.patience))] if stopping else [],
            **weighted,
        )
        if not self.verbose:
            trainer.remove_callback(PrinterCallback)
        trainer.train()
        return trainer

    @torch.no_grad()
    def _batches(self, X: Any) -> Iterator[Tensor]:
        """Memory of the rows of X, a batch at a time."""
        check_is_fitted(self, "model_")
        columns = self._read(X)
        for start in range(0, len(next(iter(columns.values()))), self.predict_batch_size):
            stop = start + self.predict_batch_size
            batch = {name: column[start:stop].to(self.model_.device) for name, column in columns.items()}
            yield self._finite(self.model_.encoder(**batch))

    def _finite(self, memory: Tensor) -> Tensor:
        if not bool(torch.isfinite(memory).all()):
            raise ValueError(f"Training diverged to NaN: wanted a learning_rate below {self.learning_rate:g}.")
        return memory


class GoRRegressor(OrdinalRegressor):
    """Generative ordinal regression as a scikit-learn estimator.

    Numbers ≥ 0 become short codes of additive value tokens from a vocabulary chosen by CoDi; a decoder writes the code.

    Args:
        vocabulary: A fitted [`CoDiVocabulary`], or arguments of `CoDiVocabulary.fit`, which then runs on the training
            labels: `{"beta": 0.7, "offset": "min"}`.
        encoder: Arguments of the encoder, with its `kind` in `gor_head.encoders.ENCODERS`; None is an FFN for tables.
        decoder: `"rnn"`, `"gru"`, `"lstm"` or `"transformer"`.
        width, layers, heads, dropout: Of the decoder; dropout of the FFN too.
        strategy: Name in `gor_head.training.STRATEGIES`; `"paper"` is curriculum and n-gram, two to three times slower.
        finetune: `"dpo"` (preferences among beam candidates) or `"grpo"` (reward −|ŷ−y|) after training, or None. It
            is undone if it does not lower the validation MAE.
        finetune_steps: Steps of that.
        decode: How `predict` reads a number: `"quantile"` (the median), `"greedy"` (paper), `"beam"` (the likeliest of
            four), `"mean"`, `"sample"`, or `"window"` (predecessor).
        nll_weight, huber_weight, huber_of, huber_delta, huber_scale: The loss, see [`gor_head.model.GoRConfig`].
            `huber_scale="std"` counts its errors in standard deviations of the training labels. The paper has λ 10 in
            label units, which drowns the likelihood where labels are large, and with it the quantiles.
        learning_rate: Of Adam (paper: 5e-4).
        batch_size: Rows per step, at most the training rows (paper: 1024 for tables).
        max_steps: Most optimiser steps.
        eval_steps: Steps between looks at the validation rows; None: an epoch, or 25 if that is less.
        patience: Looks without a lower validation MAE before training ends.
        validation_fraction: Of the rows, held out for early stopping when there are 10 or more; 0 for none.
        predict_batch_size: Rows decoded together.
        output_dir: Where checkpoints stay; None: nowhere.
        random_state: Seed, generator or None; the global random state is left as it was.
        verbose: Show the trainer's progress and logs.

    Attributes:
        model_: The trained [`gor_head.model.GoRModel`].
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
        decode: Decode = "quantile",
        nll_weight: float = 1.0,
        huber_weight: float = 1.0,
        huber_of: HuberOf = "expectation",
        huber_delta: float = 1.0,
        huber_scale: float | Literal["std"] = "std",
        learning_rate: float = 5e-4,
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
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_steps = max_steps
        self.eval_steps = eval_steps
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.predict_batch_size = predict_batch_size
        self.output_dir = output_dir
        self.random_state = random_state
        self.verbose = verbose

    def predict(self, X: Any, decode: Decode | None = None) -> NDArray[np.float64]:
        """Numbers for rows of X, `[n]`.

        Args:
            X: As in `fit`.
            decode: Instead of the estimator's own `decode`.
        """
        check_is_fitted(self, "model_")
        name = decode or self.decode
        _check_choice("decode", name, DECODES)
        draws = name == "sample" or (name == "mean" and count_codes(self.model_.intervals) is None)
        with _own_randomness(_seed(self.random_state)) if draws else nullcontext():
            return _numpy(self._decode(memory, name) for memory in self._batches(X))

    def predict_quantiles(self, X: Any, levels: Sequence[float]) -> NDArray[np.float64]:
        """Exact quantiles of each row's predictive distribution, `[n, Q]`, for levels in 0..1."""
        wanted = torch.as_tensor(levels, dtype=torch.float64)
        codes = (quantile(self.model_, memory, wanted) for memory in self._batches(X))
        return _numpy(self.vocabulary_.decode(rows.flatten(0, 1)).view(rows.shape[:2]) for rows in codes)

    def predict_interval(self, X: Any, low: float = 0.05, high: float = 0.95) -> NDArray[np.float64]:
        """Interval between two quantiles, `[n, 2]`, of levels 0 ≤ low ≤ high ≤ 1."""
        if not 0 <= low <= high <= 1:
            raise ValueError(f"low, high: wanted levels with 0 ≤ low ≤ high ≤ 1, got {low:g} and {high:g}.")
        return self.predict_quantiles(X, [low, high])

    def explain(self, X: Any, decode: Literal["greedy", "quantile"] = "quantile") -> list[list[float]]:
        """Step-wise refinement: the token values that add up to each prediction, largest first: 50 + 5 + 3.

        With an offset, the list begins with it.
        """
        _check_choice("decode", decode, ("greedy", "quantile"))
        steps: list[list[float]] = []
        offset = [self.vocabulary_.offset] if self.vocabulary_.offset else []
        for memory in self._batches(X):
            codes = greedy(self.model_, memory) if decode == "greedy" else quantile(self.model_, memory, _MEDIAN)[:, 0]
            for code in codes.tolist():
                steps.append(offset + [float(self.vocabulary_.values[token]) for token in code if token > EOS])
        return steps

    @property
    def vocabulary_(self) -> CoDiVocabulary:
        """The vocabulary of the trained model."""
        check_is_fitted(self, "model_")
        return self.model_.vocabulary

    def _decode(self, memory: Tensor, decode: Decode) -> Tensor:
        model = self.model_
        if decode == "window":
            return window(model, memory)
        if decode == "mean":
            return mean(model, memory)[0]
        if decode == "quantile":
            codes = quantile(model, memory, _MEDIAN)[:, 0]
        elif decode == "beam":
            codes = beam(model, memory)[0][:, 0]
        else:
            codes = (greedy if decode == "greedy" else sample)(model, memory)
        return model.vocabulary.decode(codes)

    def _number(self, model: Any, memory: Tensor) -> Tensor:
        return self._decode(memory, self.decode)

    def _check_settings(self) -> None:
        super()._check_settings()
        if not isinstance(self.vocabulary, CoDiVocabulary | dict | None):
            raise ValueError(
                f"vocabulary: wanted a CoDiVocabulary, arguments of its fit (a dict), or None, got {self.vocabulary!r}."
            )
        _check_choice("decoder", self.decoder, DECODERS)
        _check_choice("strategy", self.strategy, STRATEGIES)
        _check_choice("finetune", self.finetune, (None, "dpo", "grpo"))
        _check_choice("decode", self.decode, DECODES)
        _check_choice("huber_of", self.huber_of, get_args(HuberOf))
        if isinstance(self.vocabulary, dict):
            _check_arguments("vocabulary", self.vocabulary, CoDiVocabulary.fit, ("labels",))
        if not (isinstance(self.huber_scale, str) and self.huber_scale == "std"):
            _check_real(self, lambda value: 0 < value < math.inf, "'std' or a positive number", "huber_scale")
        _check_real(self, lambda value: 0 < value < math.inf, "a positive number", "huber_delta")
        _check_real(self, lambda value: 0 <= value < math.inf, "a number from 0 on", "nll_weight", "huber_weight")
        _check_whole(self, "width", "layers", "heads", "finetune_steps")

    def _prepare(self, y: NDArray[Any]) -> None:
        given = self.vocabulary
        # A copy counts the labels that it clips; what was given stays as it was.
        spread = location_and_scale(y.astype(np.float64))[1]
        self._scale = spread if self.huber_scale == "std" else float(self.huber_scale)
        self._fitted = copy(given) if isinstance(given, CoDiVocabulary) else CoDiVocabulary.fit(y, **(given or {}))

    def _targets(self, y: NDArray[Any]) -> dict[str, Tensor]:
        return {"codes": torch.from_numpy(self._fitted.encode(y))}

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
        return GoRModel(GoRConfig(self._fitted.to_dict(), **_as_json(settings)))

    def _after(self, trainer: OrdinalTrainer, train: Rows, validation: Rows, directory: str) -> None:
        if self.finetune is None:
            return
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
        tuned = self._train(rows, validation, self.finetune_steps, str(Path(directory) / self.finetune))
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


class DirectRegressor(OrdinalRegressor):
    """A direct head on the same encoder and trainer: what GoR is compared with.

    Args:
        head: Name in `gor_head.heads.HEADS`.
        encoder, dropout, learning_rate, batch_size, max_steps, eval_steps, patience, validation_fraction,
        predict_batch_size, output_dir, random_state, verbose: As in [`GoRRegressor`].

    Attributes:
        model_: The trained [`gor_head.model.DirectModel`].
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
        return _numpy(self._number(self.model_, memory) for memory in self._batches(X))

    @torch.no_grad()
    def predict_quantiles(self, X: Any, levels: Sequence[float]) -> NDArray[np.float64]:
        """Quantiles `[n, Q]`, of heads that have a distribution."""
        wanted = torch.as_tensor(levels, dtype=torch.float64)
        outputs = (self.model_.outputs(memory) for memory in self._batches(X))
        return _numpy(self.model_.head.quantiles(rows, wanted) for rows in outputs)

    @torch.no_grad()
    def _number(self, model: Any, memory: Tensor) -> Tensor:
        return model.head.predict(model.outputs(memory))

    def _check_settings(self) -> None:
        super()._check_settings()
        _check_choice("head", self.head, HEADS)

    def _prepare(self, y: NDArray[Any]) -> None:
        self._settings = HEADS[self.head].settings(y)

    def _model(self) -> DirectModel:
        return DirectModel(DirectConfig(_as_json(self._encoder()), self.head, self._settings))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = self.random_state is None
        return tags


_MEDIAN = torch.tensor([0.5], dtype=torch.float64)


def _numpy(parts: Iterable[Tensor]) -> NDArray[np.float64]:
    return torch.cat(list(parts)).cpu().numpy()


def _is_mixed(X: Any) -> bool:
    return isinstance(X, pd.DataFrame) and not all(map(is_number, X.dtypes))


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _check_real(estimator: Any, valid: Callable[[Any], bool], wanted: str, *names: str) -> None:
    for name in names:
        value = getattr(estimator, name)
        if not (_is_real(value) and valid(value)):
            raise ValueError(f"{name}: wanted {wanted}, got {value!r}.")


def _check_arguments(name: str, given: Collection[str], taker: Callable[..., Any], others: Sequence[str]) -> None:
    """Refuse arguments that `taker` does not take or that come from elsewhere (`others`); miss none that it needs."""
    known = {key: each for key, each in inspect.signature(taker).parameters.items() if key not in others}
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ValueError(f"{name}: wanted arguments among {', '.join(known)}, got {unknown[0]!r}.")
    lacking = [key for key, each in known.items() if each.default is each.empty and key not in given]
    if lacking:
        raise ValueError(f"{name}: wanted {lacking[0]!r} too, got {', '.join(sorted(given)) or 'no argument'}.")


def _check_choice(name: str, value: Any, known: Iterable[Any]) -> None:
    if not isinstance(value, str | None) or value not in known:
        raise ValueError(f"{name}: wanted one of {', '.join(map(str, known))}, got {value!r}.")


def _check_whole(estimator: Any, *names: str) -> None:
    for name in names:
        value = getattr(estimator, name)
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}: wanted a whole number from 1, got {value!r}.")


def _refuse_text(y: Any) -> None:
    """Text that looks like numbers would be taken for numbers."""
    array = np.asarray(y)
    if array.dtype.kind in "OSUT":
        for row, value in enumerate(np.asarray(y, dtype=object).flat):
            if isinstance(value, str | bytes):
                raise ValueError(f"y: wanted numbers, got text in row {row}: {str(value)!r}.")


def _pixels(X: Any) -> Tensor:
    wanted = "wanted floats of shape (n, 3, height, width), n from 1"
    if isinstance(X, pd.DataFrame):
        raise ValueError(f"X: {wanted}, got a table of {X.shape[1]} columns; the encoder of tables is 'ffn'.")
    try:
        pixels = torch.as_tensor(X)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"X: {wanted}, got {type(X).__name__} ({error}).") from None
    if pixels.ndim != 4 or pixels.shape[1] != 3 or not len(pixels) or not pixels.is_floating_point():
        raise ValueError(f"X: {wanted}, got {pixels.dtype} of {tuple(pixels.shape)}.")
    finite = torch.isfinite(pixels).flatten(1).all(dim=1)
    if not finite.all():
        raise ValueError(f"X: image {int(finite.long().argmin())} holds NaN or infinity, wanted finite numbers.")
    return pixels.float()


def _weighted_mae(evaluation: EvalPrediction, weight: NDArray[np.float64]) -> dict[str, float]:
    error = np.abs(np.asarray(evaluation.predictions) - np.asarray(evaluation.label_ids))
    return {"mae": float(np.average(error, weights=weight))}


def _plain(value: Any) -> Any:
    """For JSON: numpy's numbers and arrays as Python's, paths as text."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"settings: wanted what JSON can hold, got {value!r}.")


def _as_json(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as a file would give them back: what takes an int may refuse numpy's."""
    return json.loads(json.dumps(settings, default=_plain))


def _seed(random_state: Any) -> int:
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31 - 1))
    # Not scikit-learn's answer to None, the global generator: that one is left alone.
    generator = check_random_state(np.random.RandomState() if random_state is None else random_state)
    return int(generator.randint(2**31 - 1))


_DRAWING = threading.RLock()
"""Held by the thread that draws: the generators that it seeds are those of the whole process."""


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Random numbers from a seed inside, and those of the caller afterwards as if nothing had been drawn.

    One thread at a time; others wait.
    """
    with _DRAWING, torch.random.fork_rng():
        before, numpy_before = random.getstate(), np.random.get_state()
        try:
            set_seed(seed)
            yield
        finally:
            random.setstate(before)
            np.random.set_state(numpy_before)


@contextmanager
def _silence() -> Iterator[None]:
    """No bars over the writing of checkpoints, and no remarks on files that nobody asked for; undone afterwards."""
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
