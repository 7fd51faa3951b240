"""What is compared: rows, each one training run or one reading of another row's model, and settings, the data."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        label: What it is called in the table.
        recipe: Script of `recipes/` that trains it, without `.py`; `None` if nothing is trained.
        flags: Its arguments, over those of its configuration.
        start: Row whose adapter training starts from, or that is evaluated if nothing is trained; `None` for the model
            itself.
        prompts_of: Recipes whose prompts are added up for this row's `num_prompts`.
        steps_of: Recipes whose steps are added up for this row's `max_steps`.
        decode: How a row that trains nothing reads numbers, as [`evaluate`][rarl.evaluation.protocol.evaluate] has it;
            `None` for its default: medians of value tokens, digits greedily.
        as_recipe: Recipe whose arguments in a setting, and whose longest completion, it has, if not its own.
    """

    label: str
    recipe: str | None = None
    flags: tuple[str, ...] = ()
    start: str | None = None
    prompts_of: tuple[str, ...] = ()
    steps_of: tuple[str, ...] = ()
    decode: str | None = None
    as_recipe: str | None = None


@dataclass(frozen=True)
class Setting:
    """Data to compare on.

    Args:
        label: What it is called in the table.
        flags: Arguments of every recipe.
        of_recipe: Further arguments of single recipes.
        resolution: Distance of two legal numbers where distributions of numbers are read; `None` for that of the task.
    """

    label: str
    flags: tuple[str, ...]
    of_recipe: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    resolution: float | None = None


ALL_REWARDS = ("--rewards", "regression", "length", "consistency", "accuracy", "format")
BOTH_STAGES = ("rarl_stage1", "rarl_stage2")

DIGIT_ROWS: dict[str, Row] = {
    "cold_start": Row("cold start"),
    "few_shot": Row("few-shot", flags=("--shots", "2")),
    "sft": Row("SFT", "sft"),
    "sft_all": Row("SFT, all prompts", "sft", prompts_of=("sft", "rarl_stage2")),
    "sft_sampled": Row("SFT, median of 15 samples", start="sft", decode="sampled_median"),
    "sft_mode": Row("SFT, mode of its distribution, sorted", start="sft", decode="mode"),
    "sft_median": Row("SFT, median of its distribution, sorted", start="sft", decode="median"),
    "sft_mean": Row("SFT, mean of its distribution, sorted", start="sft", decode="mean"),
    "stage1": Row("RARL stage 1", "rarl_stage1"),
    "stage1_plain": Row("stage 1, without RMO", "rarl_stage1", ("--rmo", "false")),
    "stage1_virtual": Row("stage 1, virtual rewards", "rarl_stage1", ("--rmo", "false", "--virtual_rewards", "4")),
    "stage1_dynamic": Row("stage 1, dynamic sampling", "rarl_stage1", ("--rmo", "false", "--dynamic_sampling", "3")),
    "stage1_apart": Row(
        "stage 1, leave-one-out", "rarl_stage1", ("--rmo", "false", "--advantage_baseline", "leave_one_out")
    ),
    "stage2_regression": Row(
        "stage 1 → 2, regression only", "rarl_stage2", ("--rewards", "regression", "format"), start="stage1"
    ),
    "stage2_ranking": Row(
        "stage 1 → 2, ranking only",
        "rarl_stage2",
        ("--rewards", "length", "consistency", "accuracy", "format"),
        start="stage1",
    ),
    "stage2_plain": Row("stage 1 → 2, without RMO", "rarl_stage2", ("--rmo", "false"), start="stage1"),
    "stage2": Row("stage 1 → 2", "rarl_stage2", start="stage1"),
    "one_stage": Row(
        "one stage",
        "rarl_stage1",
        ("--num_images", "1", "2", "4", "8", *ALL_REWARDS),
        prompts_of=BOTH_STAGES,
        steps_of=BOTH_STAGES,
        as_recipe="rarl_stage2",
    ),
    "sft_rarl_plain": Row("SFT → RARL, without RMO", "rarl_stage2", ("--rmo", "false"), start="sft"),
    "sft_rarl": Row("SFT → RARL", "rarl_stage2", start="sft"),
    "sft_item": Row("SFT → RARL, credit an item", "rarl_stage2", ("--credit", "item"), start="sft"),
    "sft_exact": Row("SFT → RARL, credit exact", "rarl_stage2", ("--credit", "exact"), start="sft"),
    "sft_rarl_median": Row("SFT → RARL, median, sorted", start="sft_rarl", decode="median"),
    "sft_exact_median": Row("SFT → RARL, credit exact, median, sorted", start="sft_exact", decode="median"),
}
"""Rows that write digits, by name: those of a comparison for which none are named."""

_RARL_FROM_TOKENS = ("--learning_rate", "2e-4", "--max_completion_length", "160")
_INTERVAL = ("--eval_interval", "0.8")

TOKEN_ROWS: dict[str, Row] = {
    "digits": Row("digits", "sft", prompts_of=("gor_sft",)),
    "digits_median": Row("digits, median", start="digits", decode="median"),
    "digits_raft": Row("digits → RAFT", "expected_error", ("--expected_error", "squared"), start="digits"),
    "digits_raft_mean": Row("digits → RAFT, mean", start="digits_raft", decode="mean"),
    "tokens_greedy": Row("value tokens, greedy", start="tokens", decode="greedy"),
    "tokens": Row("value tokens", "gor_sft", _INTERVAL),
    "tokens_codi": Row("value tokens of CoDi", "gor_sft", ("--gor_vocabulary", "codi")),
    "tokens_plain": Row("value tokens, likelihood only", "gor_sft", ("--number_weight", "0")),
    "tokens_grounded": Row("value tokens, rows first", "gor_sft", ("--grounding_steps", "60")),
    "tokens_distance": Row(
        "value tokens, Wasserstein loss", "gor_sft", ("--number_loss", "wasserstein", "--number_weight", "0.3")
    ),
    "tokens_more": Row(
        "value tokens → SFT",
        "gor_sft",
        ("--learning_rate", "1e-3"),
        start="tokens",
        prompts_of=("expected_error",),
        as_recipe="expected_error",
    ),
    "tokens_more_greedy": Row("value tokens → SFT, greedy", start="tokens_more", decode="greedy"),
    "tokens_error": Row("value tokens → expected error", "expected_error", _INTERVAL, start="tokens"),
    "tokens_error_greedy": Row("value tokens → expected error, greedy", start="tokens_error", decode="greedy"),
    "tokens_raft": Row("value tokens → RAFT", "expected_error", ("--expected_error", "squared"), start="tokens"),
    "tokens_dpo": Row("value tokens → DPO", "gor_dpo", start="tokens"),
    "tokens_dpo_greedy": Row("value tokens → DPO, greedy", start="tokens_dpo", decode="greedy"),
    "tokens_dpo_beams": Row("value tokens → DPO, beams", "gor_dpo", ("--candidates", "beams"), start="tokens"),
    "tokens_rarl": Row("value tokens → RARL", "rarl_stage2", _RARL_FROM_TOKENS, start="tokens"),
    "tokens_rarl_greedy": Row("value tokens → RARL, greedy", start="tokens_rarl", decode="greedy"),
}
"""Rows that compare value tokens with digits, by name. Value tokens are read as medians where nothing else is said, and
medians, of digits too, sort what is stated by code."""

ROWS = {**DIGIT_ROWS, **TOKEN_ROWS}
"""All rows by name: a new one is entered in one of the two."""

_FRACTIONS = {"rarl_stage1": ("--max_completion_length", "40"), "rarl_stage2": ("--max_completion_length", "144")}

_AREAS = ("--num_images", "1", "2")

SETTINGS: dict[str, Setting] = {
    "count_noisy": Setting("count, noisy labels (σ 2)", ("--task", "count", "--rater_noise", "2")),
    "count": Setting("count, exact labels", ("--task", "count")),
    "brightness_noisy": Setting(
        "brightness, noisy labels (σ 0.2)",
        ("--task", "brightness", "--rater_noise", "0.2", "--eval_max_new_tokens", "160"),
        _FRACTIONS,
    ),
    "brightness": Setting(
        "brightness, exact labels", ("--task", "brightness", "--eval_max_new_tokens", "160"), _FRACTIONS
    ),
    "area": Setting(
        "area, exact labels",
        ("--task", "area", "--size", "6400", "--eval_prompts", "400", "--eval_num_images", "1", "2")
        + ("--eval_max_new_tokens", "80"),
        {
            "sft": _AREAS,
            "gor_sft": (*_AREAS, "--num_prompts", "6400"),
            "expected_error": (*_AREAS, "--num_prompts", "3200"),
            "gor_dpo": _AREAS,
            "rarl_stage2": _AREAS,
        },
    ),
    "count_hard": Setting(
        "count, exact labels, hard start (δ 1, temperature 0.5)",
        ("--task", "count", "--task_tolerance", "1"),
        {"rarl_stage1": ("--temperature", "0.5"), "rarl_stage2": ("--temperature", "0.5")},
    ),
    "film_reviews": Setting(
        "film reviews, means of people's votes",
        ("--source", "table", "--table", "film-reviews/reviews.csv"),
        resolution=0.1,
    ),
}
"""All settings by name."""
