"""scikit-learn estimators: GoR, and the direct heads it is compared with, on the same encoder and trainer."""

import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor
from transformers import EarlyStoppingCallback, TrainingArguments, set_seed
from transformers.utils import logging

from gor_head.decoding.beam import beam
from gor_head.decoding.greedy import greedy
from gor_head.decoding.mean import mean
from gor_head.decoding.quantile import quantile
from gor_head.decoding.sample import sample
from gor_head.decoding.window import window
from gor_head.features import TableFeatures
from gor_head.heads import HEADS
from gor_head.losses import HuberOf
from gor_head.model import DirectConfig, DirectModel, GoRConfig, GoRModel, OrdinalModel
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

logger = logging.get_logger(__name__)


class OrdinalRegressor(RegressorMixin, BaseEstimator):
    """What both estimators share: reading X, training with early stopping, batches at prediction.

    See [`GoRRegressor`] for the arguments.
    """

    model_: OrdinalModel

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "OrdinalRegressor":
        """Train on labelled rows.

        Args:
            X: DataFrame or array `[n, F]`; with an image encoder, array or tensor `[n, 3, H, W]`.
            y: Labels, `[n]`.
            sample_weight: ≥ 0, `[n]`.

        Raises:
            ValueError: If X, y or a setting is not what is wanted; before training starts.
        """
        columns, y = self._read(X, y)
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float64)
        if weight is not None and not (weight.min() >= 0 and weight.sum() > 0):
            raise ValueError("sample_weight: wanted numbers from 0 on, not all 0.")
        with _own_randomness(_seed(self.random_state)), tempfile.TemporaryDirectory() as scratch:
            order = torch.randperm(len(y)).numpy()
            held = int(len(y) * self.validation_fraction) if len(y) >= FEWEST_TO_SPLIT else 0
            chosen = {"train": np.sort(order[held:]), "validation": np.sort(order[:held])}
            self._prepare(y[chosen["train"]])
            splits = {}
            for name, index in chosen.items():
                rows = {key: column[torch.from_numpy(index)] for key, column in columns.items()}
                rows |= {"labels": torch.from_numpy(y[index])} | self._targets(y[index])
                if weight is not None:
                    rows["sample_weight"] = torch.from_numpy(weight[index])
                splits[name] = Rows(rows)
            self.model_ = self._model()
            trainer = self._train(splits["train"], splits["validation"], self.max_steps, self.output_dir or scratch)
            self.log_history_ = trainer.state.log_history
            self.n_steps_ = trainer.state.global_step
            self._after(splits["train"], splits["validation"], scratch)
        self.model_.cpu().eval()
        return self

    def save_pretrained(self, directory: str | Path) -> Path:
        """Write model, vocabulary and settings (no pickle) into a directory, and return it."""
        check_is_fitted(self, "model_")
        path = Path(directory)
        self.model_.save_pretrained(str(path))
        settings = self.get_params(deep=False)
        vocabulary = settings.get("vocabulary")
        if isinstance(vocabulary, CoDiVocabulary):
            settings["vocabulary"] = None
        features = None if self.features_ is None else asdict(self.features_)
        content = {"estimator": type(self).__name__, "settings": settings, "features": features}
        (path / SETTINGS_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return path

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> "OrdinalRegressor":
        """Read what [`OrdinalRegressor.save_pretrained`] wrote; the class may be either of the two or this one."""
        path = Path(directory) / SETTINGS_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; a directory written by save_pretrained is wanted.")
        content = json.loads(path.read_text(encoding="utf-8"))
        known = {kind.__name__: kind for kind in (GoRRegressor, DirectRegressor)}
        kind = known.get(content["estimator"])
        if kind is None or not issubclass(kind, cls):
            raise ValueError(f"{path}: holds a {content['estimator']}, wanted a {cls.__name__}.")
        estimator = kind(**content["settings"])
        features = content["features"]
        estimator.features_ = None if features is None else TableFeatures(**features)
        estimator.n_features_in_ = None if features is None else len(features["names"])
        estimator.model_ = kind._model_class.from_pretrained(directory).eval()
        estimator._loaded()
        return estimator

    _model_class: type[OrdinalModel]

    def _loaded(self) -> None:
        """What a loaded estimator still needs."""

    def _prepare(self, y: NDArray[np.float64]) -> None:
        """Learn from the training labels what the model's configuration needs."""
        raise NotImplementedError

    def _model(self) -> OrdinalModel:
        raise NotImplementedError

    def _targets(self, y: NDArray[np.float64]) -> dict[str, Tensor]:
        return {}

    def _number(self, model: Any, memory: Tensor) -> Tensor:
        """How validation reads a prediction."""
        raise NotImplementedError

    def _after(self, train: Rows, validation: Rows, scratch: str) -> None:
        """What follows training."""

    def _encoder(self) -> dict[str, Any]:
        settings = {"kind": "ffn", "dropout": self.dropout} | (self.encoder or {})
        return settings | (self.features_.encoder_sizes() if self.features_ is not None else {})

    def _read(self, X: Any, y: Any = None) -> tuple[dict[str, Tensor], Any]:
        """Encoder inputs and labels; with labels, learns how the columns are read."""
        fitting = y is not None
        images = (self.encoder or {}).get("kind", "ffn") != "ffn"
        mixed = isinstance(X, pd.DataFrame) and not all(map(_is_number, X.dtypes))
        if images or mixed:
            checked = X
            if fitting:
                _, y = validate_data(self, np.zeros((len(X), 1)), y, reset=True, y_numeric=True, dtype=np.float64)
                if mixed:
                    self.n_features_in_ = X.shape[1]
                    self.feature_names_in_ = np.asarray(X.columns, dtype=object)
        elif fitting:
            checked, y = validate_data(self, X, y, reset=True, y_numeric=True, dtype=np.float64)
        else:
            checked = validate_data(self, X, reset=False, dtype=np.float64)
        if images:
            if fitting:
                self.features_ = None
            pixels = torch.as_tensor(checked)
            if pixels.ndim != 4 or not pixels.is_floating_point():
                raise ValueError(f"X: wanted floats of shape (n, channels, height, width), got {tuple(pixels.shape)}.")
            return {"pixel_values": pixels.float()}, y
        if fitting:
            self.features_ = TableFeatures.fit(checked)
        assert self.features_ is not None
        return self.features_.transform(checked), None if y is None else np.asarray(y, dtype=np.float64)

    def _train(self, train: Rows, validation: Rows, steps: int, directory: str) -> OrdinalTrainer:
        batch = min(self.batch_size, len(train))
        stopping = len(validation) > 0
        every = self.eval_steps or max(25, -(-len(train) // batch))
        arguments = TrainingArguments(
            output_dir=directory,
            per_device_train_batch_size=batch,
            per_device_eval_batch_size=self.predict_batch_size,
            max_steps=steps,
            learning_rate=self.learning_rate,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=1.0,
            eval_strategy="steps" if stopping else "no",
            eval_steps=every,
            save_strategy="best" if stopping else "no",
            save_total_limit=1,
            save_only_model=self.output_dir is None,
            load_best_model_at_end=stopping,
            metric_for_best_model="mae",
            greater_is_better=False,
            logging_steps=every,
            seed=_seed(self.random_state),
            report_to=[],
            disable_tqdm=not self.verbose,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            use_cpu=not torch.cuda.is_available(),
        )
        trainer = OrdinalTrainer(
            model=self.model_,
            args=arguments,
            train_dataset=train,
            eval_dataset=validation if stopping else None,
            read=self._number,
            callbacks=[EarlyStoppingCallback(self.patience)] if stopping else [],
        )
        if not self.verbose:
            trainer.remove_callback(_printer())
        trainer.train()
        return trainer

    @torch.no_grad()
    def _batches(self, X: Any) -> Iterator[Tensor]:
        """Memory of the rows of X, a batch at a time."""
        check_is_fitted(self, "model_")
        columns, _ = self._read(X)
        rows = Rows(columns)
        for start in range(0, len(rows), self.predict_batch_size):
            batch = {name: column[start : start + self.predict_batch_size] for name, column in columns.items()}
            yield self.model_.encoder(**batch)


class GoRRegressor(OrdinalRegressor):
    """Generative ordinal regression as a scikit-learn estimator.

    Numbers ≥ 0 become short codes of additive value tokens from a vocabulary chosen by CoDi; a decoder writes the code.

    Args:
        vocabulary: A fitted [`CoDiVocabulary`], or arguments of `CoDiVocabulary.fit`, which then runs on the training
            labels: `{"beta": 0.7, "offset": "min"}`.
        encoder: Arguments of the encoder, with its `kind` in `gor_head.encoders.ENCODERS`; None is an FFN for tables.
        decoder: `"rnn"`, `"gru"`, `"lstm"` or `"transformer"`.
        width, layers, heads, dropout: Of the decoder; dropout of the FFN too.
        strategy: Name in `gor_head.training.STRATEGIES`; `"paper"` is curriculum and n-gram.
        finetune: `"dpo"` (preferences among beam candidates) or `"grpo"` (reward −|ŷ−y|) after training, or None.
        finetune_steps: Steps of that.
        decode: How `predict` reads a number: `"quantile"` (the median), `"greedy"` (paper), `"beam"` (the likeliest of
            four), `"mean"`, `"sample"`, or `"window"` (predecessor).
        nll_weight, huber_weight, huber_of, huber_delta: The loss, see [`gor_head.model.GoRConfig`].
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
        strategy: str = "paper",
        finetune: Literal["dpo", "grpo"] | None = None,
        finetune_steps: int = 200,
        decode: Decode = "quantile",
        nll_weight: float = 1.0,
        huber_weight: float = 10.0,
        huber_of: HuberOf = "expectation",
        huber_delta: float = 1.0,
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
        with _own_randomness(_seed(self.random_state)):
            numbers = [self._decode(memory, name) for memory in self._batches(X)]
        return torch.cat(numbers).numpy()

    def predict_quantiles(self, X: Any, levels: Sequence[float]) -> NDArray[np.float64]:
        """Exact quantiles of each row's predictive distribution, `[n, Q]`, for levels in 0..1."""
        wanted = torch.as_tensor(levels, dtype=torch.float64)
        numbers = []
        for memory in self._batches(X):
            codes = quantile(self.model_, memory, wanted)
            numbers.append(self.vocabulary_.decode(codes.flatten(0, 1)).view(codes.shape[:2]))
        return torch.cat(numbers).numpy()

    def predict_interval(self, X: Any, low: float = 0.05, high: float = 0.95) -> NDArray[np.float64]:
        """Interval between two quantiles, `[n, 2]`."""
        return self.predict_quantiles(X, [low, high])

    def explain(self, X: Any, decode: Literal["greedy", "quantile"] = "quantile") -> list[list[float]]:
        """Step-wise refinement: the token values that add up to each prediction, largest first: 50 + 5 + 3.

        With an offset, the list begins with it.
        """
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
        if decode not in DECODES:
            raise ValueError(f"decode: wanted one of {', '.join(DECODES)}, got {decode!r}.")
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

    def _prepare(self, y: NDArray[np.float64]) -> None:
        for name, value, known in (
            ("decode", self.decode, DECODES),
            ("finetune", self.finetune, (None, "dpo", "grpo")),
        ):
            if value not in known:
                raise ValueError(f"{name}: wanted one of {', '.join(map(str, known))}, got {value!r}.")
        given = self.vocabulary
        self._fitted = given if isinstance(given, CoDiVocabulary) else CoDiVocabulary.fit(y, **(given or {}))

    def _targets(self, y: NDArray[np.float64]) -> dict[str, Tensor]:
        return {"codes": torch.from_numpy(self._fitted.encode(y))} if len(y) else {"codes": torch.zeros(0, 1).short()}

    def _model(self) -> GoRModel:
        config = GoRConfig(
            self._fitted.to_dict(),
            encoder=self._encoder(),
            decoder=self.decoder,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            dropout=self.dropout,
            strategy=self.strategy,
            nll_weight=self.nll_weight,
            huber_weight=self.huber_weight,
            huber_of=self.huber_of,
            huber_delta=self.huber_delta,
        )
        return GoRModel(config)

    def _after(self, train: Rows, validation: Rows, scratch: str) -> None:
        if self.finetune is None:
            return
        supervised = self.model_.strategy
        self.model_.eval()
        rows = train
        if self.finetune == "dpo":
            rows, statistics = preference_rows(self.model_, train)
            self.preferences_: PreferenceStatistics = statistics
            self.model_.strategy = DPO()
        else:
            self.model_.strategy = GRPO()
        self._train(rows, validation, self.finetune_steps, str(Path(self.output_dir or scratch) / self.finetune))
        self.model_.strategy = supervised

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        offset = (self.vocabulary if isinstance(self.vocabulary, dict) else {}).get("offset")
        tags.target_tags.positive_only = offset is None
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
        return torch.cat([self._number(self.model_, memory) for memory in self._batches(X)]).numpy()

    @torch.no_grad()
    def predict_quantiles(self, X: Any, levels: Sequence[float]) -> NDArray[np.float64]:
        """Quantiles `[n, Q]`, of heads that have a distribution."""
        wanted = torch.as_tensor(levels, dtype=torch.float64)
        outputs = [self.model_.outputs(memory) for memory in self._batches(X)]
        return self.model_.head.quantiles(torch.cat(outputs), wanted).numpy()

    @torch.no_grad()
    def _number(self, model: Any, memory: Tensor) -> Tensor:
        return model.head.predict(model.outputs(memory))

    def _prepare(self, y: NDArray[np.float64]) -> None:
        if self.head not in HEADS:
            raise ValueError(f"head: wanted one of {', '.join(HEADS)}, got {self.head!r}.")
        self._settings = HEADS[self.head].settings(y)

    def _model(self) -> DirectModel:
        return DirectModel(DirectConfig(self._encoder(), self.head, self._settings))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = self.random_state is None
        return tags


_MEDIAN = torch.tensor([0.5], dtype=torch.float64)


def _is_number(dtype: Any) -> bool:
    return pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype)


def _seed(random_state: Any) -> int:
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    generator = random_state if random_state is not None else np.random.RandomState()
    return int(generator.randint(2**31 - 1))


def _printer() -> Any:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Random numbers from a seed inside, and those of the caller afterwards as if nothing had been drawn."""
    before, numpy_before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        set_seed(seed)
        try:
            yield
        finally:
            random.setstate(before)
            np.random.set_state(numpy_before)
