"""A trained estimator in a folder, and how it reads a table."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gor_head.cli.train import DATA_FILE

if TYPE_CHECKING:
    from gor_head.estimator import OrdinalRegressor
    from gor_head.tables import Kind


def load(folder: Path) -> tuple["OrdinalRegressor", dict[str, "Kind"]]:
    """The estimator, and the kind of each column of its features.

    Raises:
        FileNotFoundError: If the folder holds no estimator.
        ValueError: If what it holds is damaged, or was not trained on a table.
    """
    from gor_head.estimator import OrdinalRegressor

    model = OrdinalRegressor.from_pretrained(folder)
    if model.features_ is None:
        raise ValueError(f"{folder}: trained on images; an estimator trained on a table is wanted.")
    columns = zip(model.features_.names, model.features_.categories, strict=True)
    return model, {name: "number" if categories is None else "category" for name, categories in columns}


def target_of(folder: Path) -> str:
    """Name of the label's column in training.

    Raises:
        ValueError: If the folder does not say it.
    """
    path = folder / DATA_FILE
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        return str(content["target"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: does not name the column of the labels: give --target.") from None


def predict_with(model: "OrdinalRegressor", features: Any, decode: str | None) -> Any:
    """Predictions `[n]`, decoded as asked if the estimator has a choice.

    Raises:
        ValueError: If it has none.
    """
    from gor_head.estimator import GoRRegressor

    if isinstance(model, GoRRegressor):
        return model.predict(features, decode=decode)  # type: ignore[arg-type]
    if decode is not None:
        raise ValueError(f"--decode: a {type(model).__name__} has one way to predict, got {decode!r}.")
    return model.predict(features)
