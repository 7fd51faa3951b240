"""Metrics of the RARL paper over a model's answers, failures counted instead of dropped.

One image: the task's metric and the mean absolute error (MAE). Several images: mean Kendall τ between the listed order
and the true values, as the accuracy reward computes it. Every metric comes twice: over the readable answers, and
strictly, where an unreadable answer scores the worst value there is.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from transformers import LogitsProcessorList

from gor_head.metrics import METRICS
from rarl.answer import parse_answer
from rarl.evaluation.codes import Decode, chosen_decode, code_processors, interval_ends, sorted_by_reasoning
from rarl.evaluation.decoding import Decoded, choose_answers, sampled_medians
from rarl.evaluation.generate import generate_answers
from rarl.evaluation.reports import Constant, IntervalScores, Report, Scores
from rarl.inputs import tokenizer_of
from rarl.rewards import accuracy_reward
from rarl.task import OrdinalTask, get_task


def mean(numbers: Sequence[float]) -> float | None:
    """Arithmetic mean, `None` of nothing; does not overflow, however wild a prediction."""
    return math.fsum(number / len(numbers) for number in numbers) if numbers else None


def farthest_end(value: float, task: OrdinalTask) -> float:
    """The end of the task's range that is farther from `value`: the worst prediction of it."""
    return task.minimum if value - task.minimum > task.maximum - value else task.maximum


def metric_names(task: OrdinalTask) -> list[str]:
    """One-image metrics of a task: MAE always, and the task's own."""
    return list(dict.fromkeys(["mae", task.metric]))


def one_image_metrics(
    predictions: Sequence[float | None], values: Sequence[float], task: OrdinalTask
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Metrics of one-image prompts.

    Args:
        predictions: Predicted value per prompt, `None` where the answer is unreadable.
        values: True value per prompt.
        task: Gives the metrics and the range.

    Returns:
        The metrics over readable answers, and the strict ones, in which an unreadable answer counts as a prediction at
        the farthest end of the range (MAE, SRCC) or as wrong (accuracy). A metric that is not defined is `None`.
    """
    read = [(predicted, value) for predicted, value in zip(predictions, values, strict=True) if predicted is not None]
    worst = [
        farthest_end(value, task) if predicted is None else predicted
        for predicted, value in zip(predictions, values, strict=True)
    ]
    readable: dict[str, float | None] = {}
    strict: dict[str, float | None] = {}
    for name in metric_names(task):
        metric = METRICS[name]
        readable[name] = metric([value for _, value in read], [predicted for predicted, _ in read])
        strict[name] = metric(values, worst)
    return readable, strict


def order_scores(
    completions: Sequence[str], values: Sequence[Sequence[float]], task: OrdinalTask
) -> list[float | None]:
    """Kendall τ per prompt in −1..1 (the accuracy reward); `None` where all true values are tied."""
    return accuracy_reward(list(completions), values=[list(row) for row in values], task=task)


def score(
    completions: dict[int, list[str]],
    values: dict[int, list[list[float]]],
    task: str | OrdinalTask,
    *,
    constant: float | None = None,
) -> Report:
    """Report on completions, by the number of images of their prompts.

    Args:
        completions: Number of images → completion per prompt.
        values: Number of images → true values per prompt, in prompt order.
        task: The task, or its name.
        constant: A constant prediction to compare with, such as the median of the training labels. The report has it
            if there are one-image prompts.

    Raises:
        ValueError: If completions and values differ in number, or a row has a wrong number of values.
    """
    task = get_task(task)
    readable: dict[str, float | None] = dict.fromkeys(metric_names(task))
    strict = dict(readable)
    readable_tau: dict[int, float | None] = {}
    strict_tau: dict[int, float | None] = {}
    num_prompts: dict[int, int] = {}
    failures: dict[int, int] = {}
    reasons: dict[int, dict[str, int]] = {}
    tied: dict[int, int] = {}
    baseline = None
    for num_images in sorted(completions):
        texts, truths = completions[num_images], values[num_images]
        if len(texts) != len(truths):
            raise ValueError(f"{num_images}-image prompts: got {len(texts)} completions for {len(truths)} rows.")
        for row, truth in enumerate(truths):
            if len(truth) != num_images:
                raise ValueError(f"{num_images}-image prompts: row {row} has {len(truth)} values.")
        answers = [parse_answer(text, num_images) for text in texts]
        reasons[num_images] = dict(Counter(answer.reason for answer in answers if answer.reason is not None))
        num_prompts[num_images] = len(texts)
        failed = [not answer.readable for answer in answers]
        failures[num_images] = sum(failed)
        if num_images == 1:
            predictions = [answer.values()[0] for answer in answers]
            labels = [truth[0] for truth in truths]
            readable, strict = one_image_metrics(predictions, labels, task)
            if constant is not None:
                baseline = Constant(constant, METRICS["mae"](labels, [constant] * len(labels)))
        else:
            taus = order_scores(texts, truths, task)
            ordered = [(tau, bad) for tau, bad in zip(taus, failed, strict=True) if tau is not None]
            readable_tau[num_images] = mean([tau for tau, bad in ordered if not bad])
            strict_tau[num_images] = mean([-1.0 if bad else tau for tau, bad in ordered])
            tied[num_images] = len(taus) - len(ordered)
    prompts = sum(num_prompts.values())
    return Report(
        task=task.name,
        readable=Scores(readable, readable_tau),
        failure_rate=sum(failures.values()) / prompts if prompts else None,
        strict=Scores(strict, strict_tau),
        num_prompts=num_prompts,
        failures=failures,
        reasons=reasons,
        tied=tied,
        constant=baseline,
    )


def interval_report(
    low: Sequence[float | None], high: Sequence[float | None], values: Sequence[float], *, interval: float
) -> IntervalScores:
    """What intervals of one-image prompts are worth.

    Args:
        low: Lower end per prompt, `None` where it cannot be read.
        high: Upper end.
        values: True values.
        interval: Share of the distribution that they are meant to hold.
    """
    read = [(a, b, value) for a, b, value in zip(low, high, values, strict=True) if a is not None and b is not None]
    return IntervalScores(
        interval=interval,
        coverage=mean([float(a <= value <= b) for a, b, value in read]),
        width=mean([b - a for a, b, _ in read]),
        unreadable=len(values) - len(read),
    )


def evaluate(
    model: Any,
    processor: Any,
    datasets: dict[int, Any],
    *,
    task: str | OrdinalTask,
    batch_size: int = 8,
    max_new_tokens: int = 1024,
    progress: bool = True,
    constant: float | None = None,
    decode: Decode | None = None,
    interval: float | None = None,
    resolution: float | None = None,
    num_samples: int = 15,
    seed: int = 0,
) -> Report:
    """Let a model answer every row, and [`score`][rarl.evaluation.protocol.score] the answers; the report also has
    `tokens_per_answer`, `decode` and, with `"sampled_median"`, `unreadable_samples`.

    Args:
        model: Vision-language model or `PeftModel`.
        processor: The processor of the model.
        datasets: Number of images → `datasets.Dataset` of rows (`prompt`, `images`, `values`) with that many images.
        task: The task, or its name.
        batch_size: Prompts per batch.
        max_new_tokens: Longest completion in tokens; an answer cut off by it is unreadable.
        progress: Show a progress bar; only on a terminal.
        constant: A constant prediction to compare with, see [`score`][rarl.evaluation.protocol.score].
        decode: How numbers are read: `"greedy"`, which digits are by default; `"median"`, the exact median of each,
            which value tokens are by default (see [`code_processors`][rarl.evaluation.codes.code_processors] and
            [`sorted_by_reasoning`][rarl.evaluation.codes.sorted_by_reasoning]); `"mode"`, `"mean"` and
            `"sampled_median"`, see [`rarl.evaluation.decoding`][rarl.evaluation.decoding].
        interval: Share of the distribution, such as 0.9: the report also has the
            [`interval_report`][rarl.evaluation.protocol.interval_report] of one-image prompts. Its ends are answers
            whose first number is at that quantile of its distribution, and what follows from it at the median.
        resolution: Distance of two legal numbers, for modes and means, and medians of a task that writes digits; 1 for
            integer tasks, else 0.01, if not given.
        num_samples: Answers that are sampled for each prompt, for medians of samples.
        seed: Seed of these samples.

    Raises:
        ValueError: If there is no such way to read numbers, intervals are wanted of a task that writes digits or
            without one-image prompts, there is no such set of legal numbers, or a `resolution` is given where none is
            read.
    """
    task = get_task(task)
    if interval is not None and 1 not in datasets:
        raise ValueError(f"interval: wanted one-image prompts among the data, got {sorted(datasets)} images.")
    ends = [] if interval is None else interval_ends(interval)
    decode = chosen_decode(decode, task)
    end_processors = [code_processors(processor, task, "median", level=level, number=0) for level in ends]
    settings: dict[str, Any] = {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "progress": progress}

    def greedy(rows: Any, processors: Callable[[], LogitsProcessorList]) -> list[str]:
        return generate_answers(model, processor, rows, logits_processors=processors, **settings)

    def sorted_texts(texts: list[str], rows: Any) -> list[str]:
        if decode == "greedy":
            return texts
        return [sorted_by_reasoning(text, len(row), task) for text, row in zip(texts, rows["values"], strict=True)]

    as_written = decode == "greedy" or (decode == "median" and task.vocabulary is not None)
    if resolution is not None and (as_written or decode == "sampled_median"):
        raise ValueError(
            f"resolution: has no effect where numbers are read as the model writes them (decode {decode!r}); wanted "
            f"none, got {resolution}."
        )

    def answer(rows: Any) -> Decoded:
        if decode == "sampled_median":
            return sampled_medians(model, processor, rows, task=task, num_samples=num_samples, seed=seed, **settings)
        if decode == "greedy" or as_written:
            texts = greedy(rows, code_processors(processor, task, "greedy" if decode == "greedy" else "median"))
            return Decoded(sorted_texts(texts, rows), written=texts)
        return choose_answers(model, processor, rows, task=task, decode=decode, resolution=resolution, **settings)

    tokens: dict[int, float | None] = {}
    completions: dict[int, list[str]] = {}
    unreadable: dict[int, int] = {}
    values: dict[int, list[list[float]]] = {}
    for num_images, rows in datasets.items():
        decoded = answer(rows)
        completions[num_images] = texts = decoded.texts
        unreadable[num_images] = decoded.unreadable_samples
        tokens[num_images] = mean(
            [
                1.0 + len(tokenizer_of(processor)(text, add_special_tokens=False)["input_ids"])
                for text in decoded.written or texts
            ]
        )
        values[num_images] = [list(truth) for truth in rows["values"]]
    report = replace(
        score(completions, values, task, constant=constant),
        tokens_per_answer=tokens,
        unreadable_samples=unreadable if decode == "sampled_median" else None,
        decode=decode,
    )
    if interval is None:
        return report
    low, high = (
        [parse_answer(text, 1).values()[0] for text in sorted_texts(greedy(datasets[1], end), datasets[1])]
        for end in end_processors
    )
    truths = [truth for [truth] in values[1]]
    return replace(report, interval=interval_report(low, high, truths, interval=interval))
