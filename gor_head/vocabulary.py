"""The vocabulary of GoR: number → descending value tokens that add up to it → number."""

import hashlib
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from gor_head.construction.codi import CodiUpdate
from gor_head.construction.fit import fit, fit_for_language_model, fit_strictly
from gor_head.construction.greedy import Codes, greedy_codes, slack_units
from gor_head.construction.settings import Initializer, check_settings
from gor_head.grid import MAX_UNITS, Grid, as_labels, hash_labels, is_tensor, rounding
from gor_head.numbers import write_number

if TYPE_CHECKING:
    import torch

PAD, SOS, EOS = 0, 1, 2
"""Ids of the control tokens; value tokens follow."""

FIRST_VALUE = 3
"""Id of the smallest value token."""

VOCABULARY_FILE = "vocabulary.json"
FORMAT = 1
"""Format of a saved vocabulary whose codes have tags in a text."""

TAGLESS_FORMAT = 2
"""Format of one whose codes have none, which readers of format 1 alone must not take for the other."""

LANGUAGE_MODEL_TOKENS = 128
"""Tokens that [`CoDiVocabulary.for_language_model`][gor_head.vocabulary.CoDiVocabulary.for_language_model] makes at
most: each one's rows have to be learnt from examples of it."""

UNBOUNDED = 2**62
"""Width of an interval without an upper end, in units: no code may reach it."""


class CoDiVocabulary:
    """Tokens of positive values, and the code of a number in them.

    A number y is written as the greedy sum of token values, largest first, until what is left is at most ε·y
    (GoR, section 2.4.2). [`CoDiVocabulary.fit`][gor_head.vocabulary.CoDiVocabulary.fit] chooses the tokens from
    training labels; the constructor takes them as they are.

    Token ids: 0 PAD, 1 SOS, 2 EOS, then value tokens in ascending order of value. EOS stands for "add nothing", so from
    id 2 on the order of ids is the order of numbers.

    Args:
        tokens: Token values in units of the grid, whole numbers from 1 to 2**53, in any order, `[V]`.
        resolution: Size of one unit, in units of the label.
        offset: Units subtracted from every label before it is encoded, a whole number.
        tolerance: ε, relative to the label (less the offset), 0 ≤ ε < 1. 0: codes end only when nothing fits.
        max_length: The largest number of value tokens in a code, EOS not counted.
        tagless: Whether a language model writes a code as its one token, without tags around it; see
            [`gor_head.text`][gor_head.text]. Wants codes of one token and no offset.
        statistics: What [`CoDiVocabulary.summary`][gor_head.vocabulary.CoDiVocabulary.summary] says about the fit.
        labels_hash: Hash of the labels of the fit, see
            [`CoDiVocabulary.check_labels`][gor_head.vocabulary.CoDiVocabulary.check_labels].

    Attributes:
        tokens: Token values in units, int64, ascending, `[V]`.
        values: Value of each id in units of the label, float64, 0 for the control tokens, `[V + 3]`.
        clipped: Labels that [`CoDiVocabulary.encode`][gor_head.vocabulary.CoDiVocabulary.encode] has clipped since the
            vocabulary was made.

    Example:

    ```python
    >>> from gor_head import CoDiVocabulary
    >>> ages = CoDiVocabulary.fit([3, 21, 30, 34, 58, 58, 60, 71], initializer="binary", beta=1)
    >>> code = ages.encode(58.0)
    >>> [float(ages.values[token]) for token in code]
    [32.0, 16.0, 8.0, 2.0, 0.0]
    >>> ages.decode(code)
    58.0
    ```
    """

    def __init__(
        self,
        tokens: Any,
        *,
        resolution: float = 1.0,
        offset: int = 0,
        tolerance: float = 0.005,
        max_length: int = 16,
        tagless: bool = False,
        statistics: dict[str, Any] | None = None,
        labels_hash: str | None = None,
    ) -> None:
        units = _token_units(tokens)
        check_settings(resolution=resolution, tolerance=tolerance, max_length=max_length, offset_units=offset)
        if len(units) and int(max_length) * int(units[-1]) >= UNBOUNDED:
            raise ValueError(
                f"max_length: wanted less than 2**62 units in a code, got {max_length} tokens of up to {units[-1]}."
            )
        if tagless and (max_length != 1 or offset):
            raise ValueError(
                f"tagless: wanted codes of one token and no offset, got max_length={max_length}, offset={offset}."
            )
        self.grid = Grid(float(resolution), int(offset))
        self.tokens: NDArray[np.int64] = units
        self.tolerance = float(tolerance)
        self.max_length = int(max_length)
        self.tagless = bool(tagless)
        self.statistics = statistics or {}
        self.labels_hash = labels_hash
        self.clipped = 0
        steps = Grid(self.grid.resolution)
        self.values: NDArray[np.float64] = np.concatenate([np.zeros(FIRST_VALUE), steps.values(units)])

    @classmethod
    def fit(
        cls,
        labels: Any,
        *,
        initializer: Initializer = "quantile",
        q: float = 0.9,
        tolerance: float = 0.005,
        beta: float = 0.7,
        max_length: int = 16,
        mean_length: float | None = None,
        exact: bool = False,
        codi_update: CodiUpdate = "static",
        resolution: float | None = None,
        offset: Literal["min"] | None = None,
        strict_paper: bool = False,
    ) -> "CoDiVocabulary":
        """Choose the tokens for some training labels (GoR, algorithms 2 and 1).

        Initial tokens come from `initializer`; closure adds what labels still need; pruning removes tokens of low CoDi.
        Afterwards every label's code, taken on the grid, ends within tolerance and `max_length`.

        Args:
            labels: Training labels only, `[n]`: numbers ≥ 0, or any with `offset="min"`.
            initializer: `"quantile"` (algorithm 2), `"manual"` ([1, 3, 5, 7] × 10ⁿ units), `"binary"` (2ⁿ units),
                `"place"` ([1, …, 9] × 10ⁿ units) or `"labels"` (every label).
            q: Quantile of algorithm 2, 0 < q ≤ 1.
            tolerance: ε of both algorithms.
            beta: β, share of the initial tokens that pruning keeps at least, in 0..1. 1 means no pruning.
            max_length: The largest number of value tokens in a code, EOS not counted.
            mean_length: Pruning keeps the mean number of value tokens over the labels at or below this, or at that of
                the initial tokens if it is larger. By default it may grow up to `max_length`.
            exact: Codes hit every training label exactly; `tolerance` is then 0.
            codi_update: `"static"` computes CoDi once (paper), `"recompute"` after each removal.
            resolution: Grid step. By default the coarsest power of ten that holds all labels exactly, or else 1e-4 of
                their range, with a warning. Give it if later labels may be finer than these; a step that moves labels
                by more than the tolerance is warned of.
            offset: `"min"` codes the distance from the smallest label; then labels may be negative, and the tolerance
                is relative to that distance.
            strict_paper: Run both algorithms to the letter: interpolated percentiles, no closure, no rollback. Labels
                may then be uncovered, with a warning; `max_length` grows to the longest code.

        Raises:
            ValueError: If labels are no finite numbers in one dimension, or negative without `offset`, or a setting is
                out of range.
        """
        check_settings(initializer=initializer, q=q, beta=beta, tolerance=tolerance, max_length=max_length)
        check_settings(codi_update=codi_update, offset=offset)
        if mean_length is not None:
            check_settings(mean_length=mean_length)
        if strict_paper and mean_length is not None:
            raise ValueError(f"mean_length: the paper has no limit; wanted none under strict_paper, got {mean_length}.")
        if strict_paper and initializer != "quantile":
            raise ValueError(f"initializer: wanted 'quantile' under strict_paper, got {initializer!r}.")
        if resolution is not None:
            check_settings(resolution=resolution)
        tolerance = 0.0 if exact else tolerance
        settings: dict[str, Any] = {"q": q, "tolerance": tolerance, "beta": beta, "max_length": max_length}
        settings |= {"resolution": resolution, "from_smallest": offset == "min"}
        if strict_paper:
            found = fit_strictly(labels, **settings)
        else:
            found = fit(labels, initializer=initializer, codi_update=codi_update, mean_length=mean_length, **settings)
        chosen: dict[str, Any] = {"initializer": initializer, "q": q, "beta": beta, "exact": exact}
        chosen |= {"mean_length": mean_length, "codi_update": codi_update, "strict_paper": strict_paper}
        return cls(
            found.tokens,
            resolution=found.grid.resolution,
            offset=found.grid.offset,
            tolerance=tolerance,
            max_length=found.max_length,
            statistics=chosen | found.statistics,
            labels_hash=found.labels_hash,
        )

    @classmethod
    def for_language_model(
        cls,
        labels: Any,
        *,
        maximum: float | None = None,
        resolution: float | None = None,
        size: int = LANGUAGE_MODEL_TOKENS,
    ) -> "CoDiVocabulary":
        """Choose the tokens with which a language model writes numbers: short codes, and few tokens to learn.

        A small model cannot add up: 3 as 1 + 1 + 1 is harder to learn than a token for 3. So every number of the grid
        is a token of its own if they are at most `size`, or else every distinct label if these are; such a vocabulary
        is `tagless`. Otherwise tokens are the places of the smallest base in which numbers have as few places as
        `size` tokens allow: up to 2 000, for instance, 1, …, 44 and 45, 90, …, 1 980. All codes are exact.

        Args:
            labels: Training labels only, numbers ≥ 0, `[n]`.
            maximum: A number that has a code at least; the largest label if not given.
            resolution: Grid step, as in [`CoDiVocabulary.fit`][gor_head.vocabulary.CoDiVocabulary.fit].
            size: The largest number of tokens, at least 2.

        Raises:
            ValueError: If labels are no finite numbers ≥ 0 in one dimension, or a setting is out of range.
        """
        check_settings(size=size)
        if resolution is not None:
            check_settings(resolution=resolution)
        found = fit_for_language_model(labels, maximum=maximum, resolution=resolution, size=size)
        return cls(
            found.tokens,
            resolution=found.grid.resolution,
            tolerance=0.0,
            max_length=found.max_length,
            tagless=found.max_length == 1,
            statistics={"initializer": "language_model", "size_limit": size} | found.statistics,
            labels_hash=found.labels_hash,
        )

    def __len__(self) -> int:
        """Number of ids, control tokens included: the width of a decoder's logits."""
        return len(self.values)

    def __eq__(self, other: object) -> bool:
        """Whether the other one is the same vocabulary, made from the same labels."""
        return isinstance(other, CoDiVocabulary) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.to_dict()["hash"])

    def __repr__(self) -> str:
        return (
            f"CoDiVocabulary({len(self.tokens)} value tokens, resolution={write_number(self.grid.resolution)}, "
            f"offset={write_number(self.offset)}, tolerance={write_number(self.tolerance)}, "
            f"max_length={self.max_length}{', tagless' if self.tagless else ''})"
        )

    @property
    def offset(self) -> float:
        """Label that is coded as [EOS], in units of the label."""
        return float(self.grid.values(np.array(0)))

    @property
    def largest(self) -> float:
        """Largest number that has a code: `max_length` times the largest token, plus the offset."""
        top = self.max_length * int(self.tokens[-1]) if len(self.tokens) else 0
        return float(self.grid.values(np.array(top)))

    @overload
    def encode(self, labels: float) -> list[int]: ...
    @overload
    def encode(self, labels: "torch.Tensor") -> "torch.Tensor": ...
    @overload
    def encode(self, labels: Any) -> NDArray[np.signedinteger[Any]]: ...
    def encode(self, labels: Any) -> Any:
        """Token ids of one number or of many; every code ends in EOS, shorter ones are padded with PAD on the right.

        Args:
            labels: A number → list of ids. A sequence or array `[n]` → int16 array `[n, L]` (int32 from 32 766 tokens
                on: the codes of millions of labels are large); a tensor `[n]` → int64 tensor `[n, L]` on its device. L
                is the longest code of these labels, EOS included.

        Labels above [`CoDiVocabulary.largest`][gor_head.vocabulary.CoDiVocabulary.largest] by more than the tolerance,
        and labels below the offset where there is one, are clipped: counted in `clipped` and warned of once.

        Raises:
            ValueError: If labels are no finite numbers in one dimension, or negative without an offset.
        """
        if isinstance(labels, int | float | np.number) or (isinstance(labels, np.ndarray) and labels.ndim == 0):
            return [int(token) for token in self.encode(np.array([labels]))[0]]
        units = self._units(as_labels(labels), clip=True)
        distinct, inverse = _distinct_units(units)
        table = self._ids(self._greedy(distinct))
        ids = np.take(table, inverse, axis=0)
        if not is_tensor(labels):
            return ids
        import torch  # is there, as a tensor is

        return torch.from_numpy(ids).long().to(labels.device)

    @overload
    def decode(self, ids: list[int]) -> float: ...
    @overload
    def decode(self, ids: "torch.Tensor") -> "torch.Tensor": ...
    @overload
    def decode(self, ids: NDArray[Any]) -> NDArray[np.float64]: ...
    def decode(self, ids: Any) -> Any:
        """Numbers of codes: the sum of the token values before the first EOS, plus the offset.

        Args:
            ids: List of ids → float. Integer array or tensor `[n, L]` → float64 `[n]`, for a tensor on its device and
                without a round trip to the host. Codes need not be greedy, nor end in EOS.

        Raises:
            ValueError: If ids are no integers, of another shape, or (lists and arrays) outside 0..V+2. Ids of tensors
                are looked up unchecked by this class; PyTorch itself rejects those out of range.
        """
        if is_tensor(ids):
            return self._decode_tensor(ids)
        try:
            array = np.asarray(ids)
        except ValueError:
            raise ValueError("ids: wanted a list of ids, or integers of shape (n, L), got unequal lengths.") from None
        if isinstance(ids, list) and array.ndim == 1 and (not array.size or array.dtype.kind in "iu"):
            return float(self.decode(array[None] if array.size else _NO_IDS)[0])
        if array.ndim != 2 or array.dtype.kind not in "iu":
            raise ValueError(
                f"ids: wanted a list of ids, or integers of shape (n, L), got {array.dtype} of shape {array.shape}."
            )
        if array.size and not 0 <= array.min() <= array.max() < len(self):
            raise ValueError(f"ids: wanted 0 to {len(self) - 1}, got {array.min()} to {array.max()}.")
        alive = np.cumsum(array == EOS, axis=1) == 0
        units = np.concatenate([np.zeros(FIRST_VALUE, dtype=np.int64), self.tokens])
        return self.grid.values(np.where(alive, units[array], 0).sum(axis=1))

    def _decode_tensor(self, ids: "torch.Tensor") -> "torch.Tensor":
        import torch  # is there, as a tensor is

        if ids.ndim != 2 or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise ValueError(f"ids: wanted integers of shape (n, L), got {ids.dtype} of shape {tuple(ids.shape)}.")
        ids = ids.long()
        units = torch.from_numpy(np.concatenate([np.zeros(FIRST_VALUE, dtype=np.int64), self.tokens])).to(ids.device)
        alive = torch.cumsum(ids == EOS, dim=1) == 0
        total = (units[ids] * alive).sum(dim=1) + self.grid.offset
        steps = self.grid.steps
        return total.double() / steps if steps else total.double() * self.grid.resolution

    def coverage(self, labels: Any) -> dict[str, float]:
        """How well the codes hold some labels, for instance those of a test split.

        Returns:
            `labels`; `clipped`, how many lie outside what has a code; `missed`, how many of the others have a code
            whose number is off by more than the tolerance, be it for the grid or for a label that the fit has not seen;
            `max_relative_error` among those others, of labels above the offset.

        Raises:
            ValueError: As [`CoDiVocabulary.encode`][gor_head.vocabulary.CoDiVocabulary.encode].
        """
        array = as_labels(labels)
        units = self._units(array, clip=False)
        inside = ~self._outside(units)
        codes = self._greedy(units[inside])
        numbers = array[inside].astype(np.float64)
        slack, distance = rounding(numbers, array.dtype), np.maximum(numbers - self.offset, 0)
        errors = np.abs(self.grid.values(units[inside] - codes.residual) - numbers)
        off = (errors > slack) & (distance > 0)
        return {
            "labels": len(units),
            "clipped": len(units) - len(numbers),
            "missed": int((errors > self.tolerance * distance + slack).sum()),
            "max_relative_error": float((errors[off] / distance[off]).max(initial=0.0)),
        }

    def summary(self) -> dict[str, Any]:
        """Settings and outcome of the vocabulary, as plain numbers and lists that JSON can hold.

        `size` and what [`CoDiVocabulary`][gor_head.vocabulary.CoDiVocabulary] was made with; after a fit also its
        settings, `labels` and `distinct_labels`, algorithm 2's own error as `subtract_once_error`, and `before` and
        `after` CoDi: `size`, `longest` and `mean_length` of codes in value tokens, `max_relative_error` on the grid,
        and per token, in ascending order of value, `values`, `occurrences` over all labels, `labels` that use it, and
        `codi` (Fig. 5a).
        """
        head = {
            "size": len(self.tokens),
            "resolution": self.grid.resolution,
            "offset": self.offset,
            "tolerance": self.tolerance,
            "max_length": self.max_length,
            "tagless": self.tagless,
            "largest": self.largest,
        }
        return head | json.loads(json.dumps(self.statistics))

    def check_labels(self, labels: Any) -> None:
        """Make sure that these are the labels of the fit on its grid, in whatever order and type.

        Raises:
            ValueError: If their hash is another one.
        """
        array = as_labels(labels)
        seen = hash_labels(*np.unique(self.grid.units(array), return_counts=True))
        if seen != self.labels_hash:
            raise ValueError(
                f"labels: the vocabulary was fitted on labels with hash {str(self.labels_hash)[:12]}, "
                f"these {array.size} have {seen[:12]}; fit it anew on them."
            )

    def save_pretrained(self, directory: str | Path) -> Path:
        """Write `vocabulary.json` into a directory, which is made if absent, and return its path."""
        path = Path(directory) / VOCABULARY_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        return path

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> "CoDiVocabulary":
        """Read what [`CoDiVocabulary.save_pretrained`][gor_head.vocabulary.CoDiVocabulary.save_pretrained] wrote.

        Raises:
            FileNotFoundError: If the directory holds no `vocabulary.json`.
            ValueError: If the file is no vocabulary, of another format, or was changed since it was written.
        """
        path = Path(directory) / VOCABULARY_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; a directory written by save_pretrained is wanted.")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: not a saved vocabulary ({error}).") from None
        return cls.from_dict(content, str(path))

    def to_dict(self) -> dict[str, Any]:
        """The vocabulary as what JSON can hold, with a hash over it all."""
        content = {
            "format": TAGLESS_FORMAT if self.tagless else FORMAT,
            "tokens": self.tokens.tolist(),
            "values": self.values[FIRST_VALUE:].tolist(),
            "resolution": self.grid.resolution,
            "offset": self.grid.offset,
            "tolerance": self.tolerance,
            "max_length": self.max_length,
            "labels_hash": self.labels_hash,
            "statistics": self.statistics,
        }
        return content | {"hash": _hash_content(content)}

    @classmethod
    def from_dict(cls, content: Any, name: str = "vocabulary") -> "CoDiVocabulary":
        """The vocabulary of [`CoDiVocabulary.to_dict`][gor_head.vocabulary.CoDiVocabulary.to_dict]; `name` is said in
        errors.

        Raises:
            ValueError: If this is no vocabulary, of another format, or was changed since it was made.
        """
        try:
            content = dict(content)
            seen = content.pop("hash")
            version = content["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{name}: not a saved vocabulary ({error}).") from None
        if version not in (FORMAT, TAGLESS_FORMAT):
            raise ValueError(f"{name}: format {version}, but {FORMAT} or {TAGLESS_FORMAT} is wanted.")
        wanted = _hash_content(content)
        if seen != wanted:
            raise ValueError(f"{name}: hash {str(seen)[:12]}, but the content has {wanted[:12]}: it was changed.")
        return cls(
            content["tokens"],
            resolution=content["resolution"],
            offset=content["offset"],
            tolerance=content["tolerance"],
            max_length=content["max_length"],
            tagless=version == TAGLESS_FORMAT,
            statistics=content["statistics"],
            labels_hash=content["labels_hash"],
        )

    @property
    def _top(self) -> int:
        return self.max_length * int(self.tokens[-1]) if len(self.tokens) else 0

    def _units(self, array: NDArray[Any], clip: bool) -> NDArray[np.int64]:
        """Labels in units above the offset, clipped to what has a code if so wished."""
        units = self.grid.units(array)
        low, high = units.min(), units.max()
        if low < 0 and self.grid.offset == 0:
            raise ValueError(
                f"labels: wanted numbers from 0 on, got {int((units < 0).sum())} negative of {array.size}."
            )
        if not clip or (low >= 0 and high <= self._top):
            return units
        beyond = self._outside(units)
        outside = int(beyond.sum())
        if outside and not self.clipped:
            warnings.warn(
                f"{outside} of {array.size} labels lie outside {write_number(self.offset)} to "
                f"{write_number(self.largest)} and are clipped (said once per vocabulary; counted in `clipped`).",
                stacklevel=3,
            )
        self.clipped += outside
        return np.where(beyond, np.clip(units, 0, self._top), units)

    def _outside(self, units: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which labels no code comes near: a label a little above the largest code may still be within tolerance."""
        return (units < 0) | (units - self._top > slack_units(units, self.tolerance))

    def _greedy(self, units: NDArray[np.int64]) -> Codes:
        return greedy_codes(units, slack_units(units, self.tolerance), self.tokens, max_length=self.max_length)

    def _ids(self, codes: Codes) -> NDArray[np.signedinteger[Any]]:
        """Codes as ids with EOS and PAD, `[n, longest + 1]`."""
        kind = np.int16 if len(self) <= np.iinfo(np.int16).max + 1 else np.int32
        ids = np.full((len(codes.length), int(codes.length.max(initial=0)) + 1), PAD, dtype=kind)
        used = codes.tokens > 0
        ids[:, : codes.tokens.shape[1]][used] = np.searchsorted(self.tokens, codes.tokens[used]) + FIRST_VALUE
        ids[np.arange(len(ids)), codes.length] = EOS
        return ids


_NO_IDS = np.zeros((1, 0), dtype=np.int64)


def _token_units(tokens: Any) -> NDArray[np.int64]:
    """Distinct tokens, ascending, `[V]`; refuses what is no whole number of units from 1 to 2**53."""
    array = np.asarray(tokens)
    if not array.size:
        return np.zeros(0, dtype=np.int64)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"tokens: wanted whole numbers of units, got dtype {array.dtype}.")
    wrong = array[~((array >= 1) & (array <= MAX_UNITS) & (array == np.floor(array)))]
    if len(wrong):
        raise ValueError(f"tokens: wanted whole numbers of units from 1 to 2**53, got {wrong[0]}.")
    return np.unique(array.astype(np.int64))


def _distinct_units(units: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct units ≥ 0, ascending, and where each of the given ones stands among them: by a table where one fits."""
    largest = int(units.max())
    if largest > max(4 * units.size, 1 << 16):
        distinct, inverse = np.unique(units, return_inverse=True)
        return distinct, inverse
    present = np.zeros(largest + 1, dtype=bool)
    present[units] = True
    return np.flatnonzero(present), (np.cumsum(present) - 1)[units]


def _hash_content(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
