"""A trained estimator in a folder, with how it reads a table."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

    from gor_head.estimator import GoRRegressor
    from gor_head.tables import Kind, Table

DATA_FILE = "data.json"
"""Beside the estimator: the label's column, and the columns of features with their kinds."""

FILES = ("config.json", "model.safetensors", "estimator.json", DATA_FILE)
"""All that [`save`][gor_head.cli.saved.save] writes."""


@dataclass(frozen=True)
class Saved:
    """What `gor train` wrote: estimator, label's column, and kind of each column of features."""

    estimator: "GoRRegressor"
    target: str
    kinds: "dict[str, Kind]"

    def predict(self, features: "pd.DataFrame", decode: str | None) -> NDArray[np.float64]:
        """Predictions `[n]`, decoded as the estimator does by default or as asked."""
        return self.estimator.predict(features, decode=decode)  # type: ignore[arg-type]  # checked there


def save(estimator: "GoRRegressor", table: "Table", folder: Path) -> None:
    """Write an estimator that was trained on a table."""
    estimator.save_pretrained(folder)
    content = {"target": table.target, "columns": table.kinds}
    (folder / DATA_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load(folder: Path) -> Saved:
    """Read what [`save`][gor_head.cli.saved.save] wrote.

    Raises:
        FileNotFoundError: If the folder holds no estimator.
        ValueError: If what it holds is damaged.
    """
    from gor_head.estimator import GoRRegressor

    path = folder / DATA_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a folder written by `gor train` is wanted.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        target, kinds = str(content["target"]), dict(content["columns"])
        unknown = [kind for kind in kinds.values() if kind not in ("number", "category")]
        if unknown:
            raise ValueError(f"wanted the kinds number and category, got {unknown[0]!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not written by `gor train` ({error}).") from None
    quiet()
    estimator = GoRRegressor.from_pretrained(folder)
    return Saved(estimator, target, kinds)  # type: ignore[arg-type]  # the class above reads its own kind only


def quiet() -> None:
    """No progress bars over the reading and writing of weights, which takes no time."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
