"""What GoR and the direct heads share as scikit-learn estimators."""

import json
import math
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_consistent_length, get_tags
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor
from transformers import EarlyStoppingCallback, EvalPrediction, PrinterCallback, TrainingArguments

from gor_head.encoders import ENCODERS, PRETRAINED
from gor_head.estimator.checks import (
    as_json,
    check_arguments,
    check_choice,
    check_real,
    check_whole,
    is_mixed,
    plain,
    read_pixels,
    refuse_text,
)
from gor_head.estimator.isolation import own_randomness, seed_of, silence
from gor_head.features import TableFeatures
from gor_head.frozen import OWN, features
from gor_head.grid import as_labels
from gor_head.model import OrdinalModel
from gor_head.numbers import write_number
from gor_head.training.data import Rows
from gor_head.training.trainer import OrdinalTrainer
from gor_head.vocabulary import CoDiVocabulary

SETTINGS_FILE = "estimator.json"
FEWEST_TO_SPLIT = 10
"""Training rows from which some are held out for early stopping."""


class OrdinalRegressor(RegressorMixin, BaseEstimator, ABC):
    """What both estimators share: reading X, training with early stopping, batches at prediction.

    See [`GoRRegressor`][gor_head.estimator.gor.GoRRegressor] for the arguments.
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
        quiet = nullcontext() if self.verbose else silence()
        with own_randomness(seed_of(self.random_state)), quiet, tempfile.TemporaryDirectory() as scratch:
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
                splits[name] = self._rows(rows) if name == "train" else Rows(rows)
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
        text = json.dumps(content, indent=1, allow_nan=False, default=plain)
        (path / SETTINGS_FILE).write_text(text + "\n", encoding="utf-8")
        return path

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> "OrdinalRegressor":
        """Read what [`OrdinalRegressor.save_pretrained`][gor_head.estimator.base.OrdinalRegressor.save_pretrained]
        wrote; the class may be either of the two or this one.

        Raises:
            FileNotFoundError: If the directory holds no estimator.
            ValueError: If it is damaged, or of another class.
        """
        path = Path(directory) / SETTINGS_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; a directory written by save_pretrained is wanted.")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            kind: Any = {kind.__name__: kind for kind in OrdinalRegressor.__subclasses__()}[content["estimator"]]
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
        settings = self.encoder or {}
        kind = settings.get("kind", "ffn")
        check_choice("encoder['kind']", kind, ENCODERS)
        frozen = settings.get("frozen", False)
        if not isinstance(frozen, bool) or (frozen and kind not in PRETRAINED):
            raise ValueError(
                f"encoder['frozen']: wanted true or false, of {', '.join(PRETRAINED)}, got {frozen!r}, {kind}."
            )
        if settings.get("cache") is not None and not frozen:
            raise ValueError("encoder['cache']: features are kept of a frozen encoder only; wanted 'frozen': True.")
        given = [name for name in settings if name not in ("kind", *OWN)]
        # Those two follow from the table.
        check_arguments("encoder", given, ENCODERS[kind], others=("numeric", "categories"))
        check_whole(self, "batch_size", "max_steps", "patience", "predict_batch_size")
        if self.eval_steps is not None:
            check_whole(self, "eval_steps")
        check_real(self, lambda value: 0 <= value < 1, "a number from 0 to below 1", "validation_fraction", "dropout")
        check_real(self, lambda value: 0 < value < math.inf, "a positive number", "learning_rate")
        check_real(self, lambda value: 0 <= value < math.inf, "a number from 0 on", "weight_decay")

    @abstractmethod
    def _prepare(self, y: NDArray[Any]) -> None:
        """Learn from the training labels what the model's configuration needs."""

    @abstractmethod
    def _model(self) -> OrdinalModel:
        """The model to train."""

    def _targets(self, y: NDArray[Any]) -> dict[str, Tensor]:
        """Columns that the loss wants of training rows beside the labels."""
        return {}

    def _rows(self, columns: dict[str, Tensor]) -> Rows:
        """Training rows."""
        return Rows(columns)

    @abstractmethod
    def _number(self, model: Any, memory: Tensor) -> Tensor:
        """How validation reads a prediction."""

    def _after(self, trainer: OrdinalTrainer, train: Rows, validation: Rows, directory: str) -> None:
        """What follows training."""

    @property
    def _is_frozen(self) -> bool:
        """Whether X are images whose features, by an encoder that is not trained, are the table to train on."""
        return bool((self.encoder or {}).get("frozen"))

    @property
    def _encoder_kind(self) -> str:
        return "ffn" if self._is_frozen else (self.encoder or {}).get("kind", "ffn")

    def _encoder(self) -> dict[str, Any]:
        settings = {"kind": "ffn", "dropout": self.dropout} if self._encoder_kind == "ffn" else {}
        given = {name: value for name, value in (self.encoder or {}).items() if name not in OWN}
        return (
            settings
            | ({} if self._is_frozen else given)
            | (self.features_.encoder_sizes() if self.features_ is not None else {})
        )

    def _read_labelled(self, X: Any, y: Any) -> tuple[dict[str, Tensor], NDArray[Any]]:
        """Encoder inputs and labels of training rows; learns how the columns are read."""
        refuse_text(y, "y")
        if self._is_frozen:
            X = features(read_pixels(X), self.encoder or {})
        images = self._encoder_kind != "ffn"
        if images:
            X = read_pixels(X)
        if images or is_mixed(X):
            y = validate_data(self, y=y, y_numeric=True)
            validate_data(self, X, skip_check_array=True)
            check_consistent_length(X, y)
        else:
            refuse_text(X, "X")
            X, y = validate_data(self, X, y, y_numeric=True, dtype=np.float64)
        y = as_labels(y, "y")
        if get_tags(self).target_tags.positive_only and y.min() < 0:
            raise ValueError(
                f"y: wanted numbers from 0 on, got {int((y < 0).sum())} negative of {len(y)} (smallest "
                f"{write_number(y.min())}); vocabulary={{'offset': 'min'}} codes the distance from the smallest."
            )
        self.features_ = None if images else TableFeatures.fit(X)
        return self._columns(X), y

    def _read(self, X: Any) -> dict[str, Tensor]:
        """Encoder inputs of rows like those of training."""
        if self._is_frozen:
            X = features(read_pixels(X), self.encoder or {})
        if self.features_ is None:
            X = read_pixels(X)
        if self.features_ is None or is_mixed(X):
            validate_data(self, X, reset=False, skip_check_array=True)
        else:
            refuse_text(X, "X")
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
            weighted["compute_metrics"] = partial(weighted_mae, weight=validation.columns["sample_weight"].numpy())
        arguments = {
            "output_dir": directory,
            "per_device_train_batch_size": batch,
            "per_device_eval_batch_size": self.predict_batch_size,
            "max_steps": steps,
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": "constant",
            "weight_decay": self.weight_decay,
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
            "seed": seed_of(self.random_state),
            "report_to": [],
            "disable_tqdm": not self.verbose,
            "dataloader_pin_memory": False,
            "remove_unused_columns": False,
            "use_cpu": not torch.cuda.is_available(),
        }
        trainer = OrdinalTrainer(
            model=self.model_,
            args=TrainingArguments(**as_json(arguments)),
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
            raise ValueError(f"Training diverged to NaN: wanted a learning_rate below {self.learning_rate}.")
        return memory


def as_numpy(parts: Iterable[Tensor]) -> NDArray[np.float64]:
    """Batches of numbers as one array."""
    return torch.cat(list(parts)).cpu().numpy()


def weighted_mae(evaluation: EvalPrediction, weight: NDArray[np.float64]) -> dict[str, float]:
    """MAE of evaluated rows by weight."""
    error = np.abs(np.asarray(evaluation.predictions) - np.asarray(evaluation.label_ids))
    return {"mae": float(np.average(error, weights=weight))}
