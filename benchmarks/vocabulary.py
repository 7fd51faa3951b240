"""Time and memory of building a vocabulary from millions of labels and encoding them, beside label-by-label Python.

The labels are log-normal watch times in whole milliseconds. The other way is the same algorithm without arrays:
quantiles by sorting the residuals of all labels, a greedy code for every label, CoDi counted in loops, and all labels
encoded anew for every token that pruning tries. It runs on fewer labels, and its time is scaled up in proportion; that
favours it, for sorting is slower than that. Both must give the same vocabulary and the same codes on those labels.
"""

import argparse
import gc
import itertools
import json
import math
import statistics
import time
import tracemalloc
from bisect import bisect_right
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from gor_head import EOS, PAD, CoDiVocabulary
from gor_head.construction.closure import CLOSURE_ROUNDS
from gor_head.construction.quantile import MAX_ROUNDS
from gor_head.output import replace_unprintable
from gor_head.vocabulary import FIRST_VALUE

NAIVE_LABELS = 1_000_000
REPEATS = 3
"""Timed calls of ours; the median is reported."""

Q, TOLERANCE, BETA, MAX_LENGTH = 0.9, 0.005, 0.7, 16
"""Settings of both ways: the defaults of [`CoDiVocabulary.fit`][gor_head.vocabulary.CoDiVocabulary.fit]."""

Code = list[int]
Report = Callable[[str], None]


def make_labels(count: int, seed: int = 0) -> NDArray[np.int64]:
    """Watch times in milliseconds: median 8 s, the longest of 12.5 million about a quarter of an hour, `[count]`."""
    return np.rint(np.random.default_rng(seed).lognormal(math.log(8000), 0.9, count)).astype(np.int64)


def fit_and_encode(labels: NDArray[np.int64]) -> tuple[CoDiVocabulary, NDArray[np.signedinteger]]:
    """Our way: the vocabulary, and ids `[n, L]`."""
    vocabulary = CoDiVocabulary.fit(labels, q=Q, tolerance=TOLERANCE, beta=BETA, max_length=MAX_LENGTH, resolution=1.0)
    return vocabulary, vocabulary.encode(labels)


def naive_code(label: int, tokens: list[int]) -> Code:
    """Token values of one label, largest first; `tokens` ascend."""
    code: Code = []
    slack, left = math.floor(label * TOLERANCE), label
    while left > slack and len(code) < MAX_LENGTH:
        position = bisect_right(tokens, left)
        if not position:
            break
        code.append(tokens[position - 1])
        left -= tokens[position - 1]
    return code


def naive_covers(label: int, code: Code) -> bool:
    return label - sum(code) <= math.floor(label * TOLERANCE)


def naive_quantile(numbers: list[int]) -> int:
    return sorted(numbers)[max(1, math.ceil(Q * len(numbers) - 1e-9)) - 1]


def naive_tail(tokens: list[int], largest: int) -> list[int]:
    """Tokens, ascending, with doublings of the largest if it takes too many of it to reach the largest label."""
    tokens = sorted(tokens)
    if largest > MAX_LENGTH * tokens[-1]:
        while 2 * tokens[-1] <= largest:
            tokens.append(2 * tokens[-1])
    return tokens


def naive_initial(labels: list[int], report: Report) -> list[int]:
    """Algorithm 2, and closure."""
    largest = max(labels)
    if largest == min(labels):
        return [largest] if largest else []
    residuals, found = list(labels), set[int]()
    tokens: list[int] = []
    for number in range(MAX_ROUNDS):
        report(f"algorithm 2, round {number + 1}")
        value = naive_quantile(residuals) or naive_quantile([left for left in residuals if left])
        found.add(value)
        residuals = [left - value if left >= value else left for left in residuals]
        error = max(left / label for left, label in zip(residuals, labels, strict=True) if label)
        tokens = naive_tail(list(found), largest)
        if error <= TOLERANCE or all(naive_covers(label, naive_code(label, tokens)) for label in labels):
            break
    return naive_closure(tokens, labels, report)


def naive_closure(tokens: list[int], labels: list[int], report: Report) -> list[int]:
    """Tokens until every label is covered: the smallest residuals one by one, at last the labels themselves."""
    for number in itertools.count():
        report(f"closure, round {number + 1}")
        codes = [naive_code(label, tokens) for label in labels]
        missed = [(label, code) for label, code in zip(labels, codes, strict=True) if not naive_covers(label, code)]
        if not missed:
            break
        ended = [label - sum(code) for label, code in missed if len(code) < MAX_LENGTH]
        before_last = [label - sum(code[:-1]) for label, code in missed]
        wanted = [min(ended or before_last)] if number < CLOSURE_ROUNDS else [label for label, _ in missed]
        tokens = sorted({*tokens, *wanted})
    return tokens


def naive_codi(codes: list[Code], tokens: list[int]) -> dict[int, float]:
    """Equation 5 for each token."""
    coverage, users = dict.fromkeys(tokens, 0.0), dict.fromkeys(tokens, 0)
    for code in codes:
        for token in code:
            coverage[token] += 1 / len(code)
        for token in set(code):
            users[token] += 1
    total = len(codes)
    return {token: coverage[token] / total * math.log(total / (users[token] + 1)) for token in tokens}


def naive_prune(tokens: list[int], labels: list[int], report: Report) -> list[int]:
    """Algorithm 1 with rollback; a trial ends at the first label that is missed."""
    scores = naive_codi([naive_code(label, tokens) for label in labels], tokens)
    smallest = max(1, math.ceil(BETA * len(tokens)))
    for number, candidate in enumerate(sorted(tokens, key=lambda token: (round(scores[token], 12), -token)), 1):
        if len(tokens) <= smallest:
            break
        report(f"algorithm 1, token {number} of {len(scores)}")
        rest = [token for token in tokens if token != candidate]
        if all(naive_covers(label, naive_code(label, rest)) for label in labels):
            tokens = rest
    return tokens


def naive_fit_and_encode(labels: list[int], report: Report = lambda _: None) -> tuple[list[int], list[Code]]:
    """The other way: token values, ascending, and ids of each label, EOS included."""
    tokens = naive_prune(naive_initial(labels, report), labels, report)
    report("encoding")
    ids = {token: number for number, token in enumerate(tokens, FIRST_VALUE)}
    return tokens, [[ids[token] for token in naive_code(label, tokens)] + [EOS] for label in labels]


def same(vocabulary: CoDiVocabulary, ids: NDArray[np.signedinteger], tokens: list[int], codes: list[Code]) -> bool:
    """Whether both ways gave the same tokens and the same codes."""
    width = ids.shape[1]
    padded = [code + [PAD] * (width - len(code)) for code in codes]
    return vocabulary.tokens.tolist() == tokens and ids.tolist() == padded


def measure(count: int, naive_count: int, report: Report = lambda _: None) -> dict[str, float | int | bool]:
    """All figures; memory is the most that is held at once beyond the labels, the codes included."""
    labels = make_labels(count)
    times = []
    for number in range(1, REPEATS + 1):
        report(f"{count:,} labels, ours, {number} of {REPEATS}")
        start = time.perf_counter()
        vocabulary, ids = fit_and_encode(labels)
        times.append(time.perf_counter() - start)
        width = ids.shape[1]
        del ids
    gc.collect()
    seconds = statistics.median(times)
    report(f"{count:,} labels, ours, memory")
    tracemalloc.start()  # slows the call down, so it is one of its own
    fit_and_encode(labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    few = labels[:naive_count]
    numbers = few.tolist()
    start = time.perf_counter()
    tokens, codes = naive_fit_and_encode(numbers, lambda what: report(f"{len(few):,} labels, one by one: {what}"))
    naive_seconds = time.perf_counter() - start
    scaled = naive_seconds * count / len(few)
    return {
        "labels": count,
        "distinct_labels": vocabulary.summary()["distinct_labels"],
        "initial_tokens": vocabulary.summary()["before"]["size"],
        "tokens": len(vocabulary.tokens),
        "code_width": width,
        "seconds": round(seconds, 3),
        "peak_mb": round(peak / 1e6, 1),
        "naive_labels": len(few),
        "naive_measured_seconds": round(naive_seconds, 3),
        "naive_seconds": round(scaled, 3),
        "speedup": round(scaled / seconds, 1),
        "identical": same(*fit_and_encode(few), tokens, codes),
    }


def figures_table(figures: dict[str, float | int | bool]) -> Table:
    """The figures of [`measure`][benchmarks.vocabulary.measure]."""
    table = Table(title=f"{figures['labels']:,} labels, {figures['distinct_labels']:,} distinct: vocabulary and codes")
    table.add_column("")
    table.add_column("seconds", justify="right")
    table.add_column("peak, MB", justify="right")
    table.add_row("CoDiVocabulary", f"{figures['seconds']:.2f}", f"{figures['peak_mb']:,.0f}")
    table.add_row("label by label", f"{figures['naive_seconds']:,.0f}", "")
    outcome = "same" if figures["identical"] else "DIFFERENT"
    table.caption = (
        f"{figures['speedup']:,.0f} times faster; label by label scaled from {figures['naive_measured_seconds']:.1f} s "
        f"for {figures['naive_labels']:,} labels, on which both give the {outcome} tokens and codes"
    )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Time and memory of building a vocabulary and encoding its labels.", allow_abbrev=False
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--labels", type=int, default=12_500_000, help="number of labels")
    parser.add_argument("--naive-labels", type=int, default=NAIVE_LABELS, help="labels for the other way, at most")
    arguments = parser.parse_args()
    for name in ("labels", "naive_labels"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(arguments, name)}")
    with Console(stderr=True).status("") as status:
        figures = measure(arguments.labels, arguments.naive_labels, status.update)
    if arguments.json:
        print(json.dumps(figures))
        return
    Console().print(figures_table(figures))


if __name__ == "__main__":
    replace_unprintable()
    main()
