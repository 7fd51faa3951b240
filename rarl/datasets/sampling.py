"""Which image goes into which split, and which images share a prompt."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import count
from typing import Any

import numpy as np

from gor_head.numbers import write_number
from rarl.datasets.source import ItemSource, text_identity

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")

_CHUNK = 64


def split_by_content(
    source: ItemSource, fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0
) -> dict[str, np.ndarray]:
    """Indices of the images of each split, int [n_split] ascending.

    The split of an image is a pure function of `(content hash, seed)`: equal images are never on two sides, and adding
    or removing images moves no other. The fractions are therefore met on average only.

    Args:
        source: The images; hashes them if [`verify`][rarl.datasets.source.verify] has not.
        fractions: Shares of train, validation and test, not negative, with sum 1.
        seed: Seed of the assignment.

    Raises:
        ValueError: If the fractions are no shares, or a split with a positive fraction comes out empty.
    """
    shares = np.asarray(fractions, dtype=np.float64)
    if shares.shape != (3,) or not (shares >= 0).all() or abs(shares.sum() - 1) > 1e-6:
        raise ValueError(f"Fractions must be three numbers >= 0 with sum 1 ({', '.join(SPLITS)}), got {fractions!r}.")
    key = str(int(seed)).encode()
    points = np.empty(len(source))
    for i in range(len(source)):
        digest = blake2b(bytes.fromhex(source.content_hash(i)), digest_size=8, key=key).digest()
        points[i] = (int.from_bytes(digest, "big") >> 11) / 2**53
    # Only the two inner edges are compared with, so that rounding cannot leave a point outside of all splits.
    assigned = np.searchsorted(np.cumsum(shares)[:2], points, side="right")
    splits = {name: np.flatnonzero(assigned == number) for number, name in enumerate(SPLITS)}
    for name, share in zip(SPLITS, shares, strict=True):
        if share > 0 and not len(splits[name]):
            raise ValueError(
                f"The {name} split of {len(source)} {source.kind}s is empty although its fraction is {share}; "
                f"wanted at least one {source.kind}: add {source.kind}s, change the seed, or set the fraction to 0."
            )
    return splits


def without_copies(source: ItemSource, indices: np.ndarray) -> np.ndarray:
    """Those of `indices` whose content no earlier one has, so that no picture can stand twice in one prompt.

    Copies are counted in a warning, and so are those with another value than their original; it names the first copy,
    of the latter if there are any, its original and both values.
    """
    first: dict[str, int] = {}
    is_first = np.array([first.setdefault(source.content_hash(i), i) == i for i in indices.tolist()], dtype=bool)
    if not is_first.all():
        copies = indices[~is_first].tolist()
        odd = [i for i in copies if source.values[i] != source.values[first[source.content_hash(i)]]]
        copy = (odd or copies)[0]
        original = first[source.content_hash(copy)]
        logger.warning(
            "%d of %d %ss are copies of others and not used%s, such as %s (value %s) of %s (value %s)",
            len(copies),
            len(indices),
            source.kind,
            f", {len(odd)} of them with another value" if odd else "",
            source.where(copy),
            write_number(source.values[copy]),
            source.where(original),
            write_number(source.values[original]),
        )
    return indices[is_first]


def with_shots(source: ItemSource, number: int, seed: int = 0) -> ItemSource:
    """The same texts, for the task with solved examples of the training split: in each of `number` equal parts of that,
    in order of the labels, one is drawn, and their order is random.

    Args:
        source: The texts.
        number: How many; of 0 the source itself is returned.
        seed: Seed of the split and of the draw.

    Raises:
        ValueError: If the source holds images, the task has examples already, or there are fewer texts than wanted.
    """
    if not number:
        return source
    if source.kind != "text":
        raise ValueError(f"shots: solved examples are texts, but source {type(source).__name__} holds {source.kind}s.")
    if source.task.shots:
        raise ValueError(
            f"shots: task {source.task.name!r} has {len(source.task.shots)} already; wanted 0, got {number}."
        )
    indices = without_copies(source, split_by_content(source, seed=seed)["train"])
    if not 0 < number <= len(indices):
        raise ValueError(f"shots: wanted 0 to {len(indices)}, the number of texts to choose from, got {number}.")
    rng = np.random.default_rng(seed)
    ordered = indices[np.argsort(source.labels[indices], kind="stable")]
    chosen = rng.permutation([rng.choice(part) for part in np.array_split(ordered, number)]).tolist()
    shots = tuple((source.load(i), float(source.labels[i])) for i in chosen)
    return source.with_task(replace(source.task, shots=shots))


def without_shots(source: ItemSource, indices: np.ndarray) -> np.ndarray:
    """Those of `indices` that are none of the task's solved examples, whose answers every prompt shows; the others are
    counted in a warning."""
    shown = {text_identity(text) for text, _ in source.task.shots}
    if not shown:
        return indices
    kept = np.array([source.identify(i) not in shown for i in indices.tolist()], dtype=bool)
    if not kept.all():
        logger.warning(
            "%d of %d texts are solved examples of the prompts, and not asked about", (~kept).sum(), len(kept)
        )
    return indices[kept]


def sample_groups(
    values: Any,
    num_prompts: int | None,
    mix: Mapping[int, float],
    *,
    min_gap: float = 0.0,
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """Groups of distinct images, one group a prompt, as a stream.

    The size N of each group is drawn from `mix`. Images are dealt from a shuffled pack, which is renewed when it holds
    no image that fits: without a gap, no image is used a second time before every image was used once, whatever the
    sizes. With a gap, an image is only dealt if the group can still be completed, so a feasible request never fails;
    images that do not fit stay on top of the pack.

    Args:
        values: Float [n], one per image.
        num_prompts: Number of groups; `None` for no end.
        mix: Weight of each N, e.g. `{1: 1, 2: 1, 4: 2}`; weights need not sum to 1, a weight of 0 leaves N out.
        min_gap: Least difference between any two values of a group, in the units of the values.
        seed: Seed of sizes, images and order.

    Yields:
        int64 [N], indices into `values` in random order.

    Raises:
        ValueError: At the call, if an argument is out of range, N exceeds the number of images, or no N images are
            `min_gap` apart.

    Example:

    ```python
    >>> from rarl.datasets import sample_groups
    >>> groups = list(sample_groups([10, 20, 30, 40], num_prompts=2, mix={2: 1.0}, min_gap=20))
    >>> [len(group) for group in groups]
    [2, 2]
    ```
    """
    numbers = np.asarray(values, dtype=np.float64)
    sizes, weights = _check_mix(mix, len(numbers))
    if num_prompts is not None and num_prompts < 1:
        raise ValueError(f"num_prompts must be at least 1 (None for no end), got {num_prompts}.")
    if not 0 <= min_gap < np.inf:
        raise ValueError(f"min_gap must be a finite number >= 0, got {min_gap}.")
    if not np.isfinite(numbers).all():
        raise ValueError(f"Values must be finite, got {int((~np.isfinite(numbers)).sum())} that are not.")
    if not min_gap:
        return _deal(_Distinct(), len(numbers), num_prompts, sizes, weights, seed)
    rule = _Apart(numbers, min_gap)
    most = rule.most(max(sizes))
    if most < max(sizes):
        raise ValueError(
            f"The mix asks for {max(sizes)} images in a prompt with values at least {write_number(min_gap)} apart, but "
            f"at most {most} of these {len(numbers)} images are; use a smaller min_gap or N."
        )
    return _deal(rule, len(numbers), num_prompts, sizes, weights, seed)


def _check_mix(mix: Mapping[int, float], num_images: int) -> tuple[list[int], np.ndarray]:
    if not mix:
        raise ValueError("The mix is empty; wanted at least one N with its weight, e.g. {1: 1.0}.")
    for size, weight in mix.items():
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
            raise ValueError(f"The mix has N={size!r}; wanted a whole number of at least 1.")
        if not 0 <= weight < np.inf:
            raise ValueError(f"The mix gives N={size} the weight {weight}; wanted a finite number >= 0.")
        if weight and size > num_images:
            raise ValueError(f"The mix has N={size}, but there are only {num_images} items; N may not exceed them.")
    sizes = sorted(int(size) for size, weight in mix.items() if weight)
    if not sizes:
        raise ValueError(f"All weights of the mix are 0: {dict(mix)}; wanted at least one above 0.")
    weights = np.array([mix[size] for size in sizes], dtype=np.float64)
    return sizes, weights / weights.sum()


class _Distinct:
    """Which images may join a group: those not in it."""

    def fits(self, candidates: np.ndarray, group: list[int], need: int) -> np.ndarray:
        return ~np.isin(candidates, group) if group else np.ones(len(candidates), dtype=bool)


class _Apart:
    """Which images may join a group: those a gap away from its values that leave room for the rest.

    Works on ranks among the distinct values: `after[r]` is the lowest rank at least the gap above rank `r`, `before[r]`
    the highest rank at least the gap below. Both come from the float differences themselves, so that the gap holds
    exactly as a caller would compute it.
    """

    def __init__(self, values: np.ndarray, gap: float) -> None:
        levels, ranks = np.unique(values, return_inverse=True)
        self.ranks = ranks
        self.last = len(levels) - 1
        self.after = np.searchsorted(levels, levels + gap)
        # levels + gap is rounded: step to where the difference itself reaches the gap.
        padded = np.append(levels, np.inf)
        while (early := padded[self.after] - levels < gap).any():
            self.after[early] += 1
        while (late := (self.after > 0) & (levels[self.after - 1] - levels >= gap)).any():
            self.after[late] -= 1
        self.before = np.searchsorted(self.after, np.arange(len(levels)), side="right") - 1

    def most(self, limit: int) -> int:
        """Most values that can be a gap apart, counted up to `limit`."""
        return len(self._climb(0, self.last, limit))

    def _climb(self, low: int, high: int, limit: int) -> list[int]:
        picks: list[int] = []
        while low <= high and len(picks) < limit:
            picks.append(low)
            low = int(self.after[low])
        return picks

    def _descend(self, low: int, high: int, limit: int) -> list[int]:
        picks: list[int] = []
        while high >= low and len(picks) < limit:
            picks.append(high)
            high = int(self.before[high])
        return picks

    def fits(self, candidates: np.ndarray, group: list[int], need: int) -> np.ndarray:
        """Bool [c]: candidates (image indices) that can join `group` with `need` places left, themselves included."""
        chosen = np.sort(self.ranks[group]) if group else np.empty(0, dtype=np.int64)
        lows = [0, *(int(self.after[rank]) for rank in chosen)]
        highs = [*(int(self.before[rank]) for rank in chosen), self.last]
        # The k-th pick from below is the lowest that a k-th can be, likewise from above: counting those that keep the
        # gap to a candidate gives the most images that still fit on either side of it.
        climbs = [self._climb(low, high, need) for low, high in zip(lows, highs, strict=True)]
        total = sum(map(len, climbs))
        ranks = self.ranks[candidates]
        segments = np.searchsorted(chosen, ranks)
        result = np.zeros(len(candidates), dtype=bool)
        for segment, (low, high, climb) in enumerate(zip(lows, highs, climbs, strict=True)):
            inside = np.flatnonzero((segments == segment) & (ranks >= low) & (ranks <= high))
            if not len(inside):
                continue
            descent = self._descend(low, high, need)[::-1]
            below = np.searchsorted(self.after[climb], ranks[inside], side="right")
            above = len(descent) - np.searchsorted(self.before[descent], ranks[inside])
            result[inside] = below + above + 1 + total - len(climb) >= need
        return result


def _deal(
    rule: _Distinct | _Apart,
    num_images: int,
    num_prompts: int | None,
    sizes: list[int],
    weights: np.ndarray,
    seed: int,
) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    pack = rng.permutation(num_images)
    top = 0
    for _ in count() if num_prompts is None else range(num_prompts):
        size = int(rng.choice(sizes, p=weights))
        group: list[int] = []
        while len(group) < size:
            slot = _first_fit(rule, pack, top, group, size - len(group))
            if slot is None:
                left = pack[top:]
                others = np.ones(num_images, dtype=bool)
                others[left] = False
                pack = np.concatenate([left, rng.permutation(np.flatnonzero(others))])
                top = 0
                slot = _first_fit(rule, pack, len(left), group, size - len(group))
                assert slot is not None, "a group that can be completed has a fitting image in a whole pack"
            image = int(pack[slot])
            pack[top + 1 : slot + 1] = pack[top:slot].copy()
            pack[top] = image
            top += 1
            group.append(image)
        yield rng.permutation(np.array(group, dtype=np.int64))


def _first_fit(rule: _Distinct | _Apart, pack: np.ndarray, start: int, group: list[int], need: int) -> int | None:
    """Place in the pack, from `start` on, of the first image that fits."""
    chunk = _CHUNK
    while start < len(pack):
        fits = rule.fits(pack[start : start + chunk], group, need)
        if fits.any():
            return start + int(fits.argmax())
        start += chunk
        chunk *= 4
    return None
