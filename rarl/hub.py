"""Model card of an adapter, and its way to the Hub."""

from pathlib import Path

from huggingface_hub import CommitInfo, EvalResult, ModelCard

from gor_head.metrics import METRICS
from gor_head.vlm.hub import CARD_FILE, adapter_files, build_card, public_name, push_files
from rarl.evaluation.reports import Report
from rarl.task import OrdinalTask, get_task

TAGS = ["rarl", "trl", "grpo", "ordinal-regression"]
STAGES = {
    "sft": "supervised fine-tuning on the same prompts (the baseline)",
    "gor_sft": "supervised fine-tuning on answers in value tokens",
    "levels_sft": "supervised fine-tuning on words (the baseline that is read as an expectation)",
    "expected_error": "supervised fine-tuning on the expected error of the numbers",
    "gor_dpo": "preference optimisation (DPO) on the model's own answers, after supervised fine-tuning",
    "stage1": "stage 1: one item a prompt, regression and format rewards",
    "stage2": "stage 2: one to eight items a prompt, all rewards and response mutation",
}


def _rows(report: Report) -> list[tuple[str, str, float, str]]:
    """(metric type, readable name, value, value for people) of every metric that the report defines."""
    found = [(metric, name, metric.label, report.readable.metrics.get(name)) for name, metric in METRICS.items()]
    kendall = METRICS["kendall"]
    found += [
        (kendall, f"kendall_tau_{count}", f"{kendall.title}, {count} items", tau)
        for count, tau in report.readable.tau.items()
    ]
    return [(kind, label, value, metric.show(value)) for metric, kind, label, value in found if value is not None]


def model_card(base_model: str, task: str | OrdinalTask, stage: str, *, report: Report | None = None) -> ModelCard:
    """Card of a LoRA adapter: what it was trained from and for, and how well it does.

    Args:
        base_model: Hub id of the base model; of a local path only the last part is named.
        task: The task, or its name.
        stage: A key of `STAGES`.
        report: What `rarl evaluate` wrote; without it the card has no metrics.

    Raises:
        ValueError: If the stage is unknown, or the report is of another task.
    """
    task = get_task(task)
    if stage not in STAGES:
        raise ValueError(f"Unknown stage {stage!r}; wanted one of {', '.join(STAGES)}.")
    if report is not None and report.task != task.name:
        raise ValueError(f"The report is of task {report.task!r}, the card of task {task.name!r}.")
    base = public_name(base_model)
    rows = _rows(report) if report else []
    name = f"rarl-{task.name}-{stage}"
    article, example = ("an", "first.jpg second.jpg") if task.kind == "image" else ("a", '"a text" "another text"')
    pipeline = "image-text-to-text" if task.kind == "image" else "text-generation"
    results = [
        EvalResult(
            task_type=pipeline,
            dataset_type=task.name,
            dataset_name=task.name,
            metric_type=kind,
            metric_name=label,
            metric_value=round(value, 4),
        )
        for kind, label, value, _ in rows
    ]
    paragraphs = [
        f"A LoRA adapter of `{base}` that judges the {task.rule} of {task.kind}s ({task.value_range}): one value "
        f"{article} {task.kind}, and with several {task.kind}s their ascending order.",
        f"Trained by {STAGES[stage]}, after *Ranking-Aware Reinforcement Learning for Ordinal Ranking* (RARL).",
    ]
    if report and rows:
        lines = [
            "| metric | value |",
            "|---|---|",
            *(f"| {label} | {text} |" for _, label, _, text in rows),
        ]
        paragraphs += ["## Results", "\n".join(lines)]
        paragraphs += [f"Over readable answers; {report.failure_rate:.1%} of all answers were unreadable."]
    use = f"```bash\nrarl predict --model {base} --adapter <this repository> {example}\n```"
    if stage == "levels_sft":
        use = "Its answers are words: `rarl.levels.expected_values` reads them as numbers."
    paragraphs += ["## Use", use]
    return build_card(name, paragraphs, base_model=base, tags=TAGS, results=results, pipeline_tag=pipeline)


def write_model_card(
    output_dir: str | Path, base_model: str, task: str | OrdinalTask, *, stage: str, report: Report | None = None
) -> Path:
    """Write [`model_card`][rarl.hub.model_card] as `README.md` into an existing folder, and return its path."""
    path = Path(output_dir) / CARD_FILE
    path.write_text(model_card(base_model, task, stage, report=report).content, encoding="utf-8", errors="replace")
    return path


def push_adapter(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = True,
    commit_message: str = "Upload the adapter",
    token: str | None = None,
) -> CommitInfo:
    """Upload the `default` adapter of a training output folder in one commit; the repository is created if missing.

    Only the files named in `ADAPTER_FILES` leave the machine. If the adapter names its base model by a local path, the
    uploaded `adapter_config.json` names the last part of it.

    Args:
        folder: Output folder of a training run.
        repo_id: `user/name` on the Hub.
        private: Whether a new repository is private; an existing one stays as it is.
        commit_message: First line of the commit.
        token: The token that `hf auth login` stored if not given.

    Raises:
        FileNotFoundError: If the folder holds no adapter.
        OSError: If the Hub does not take it or cannot be reached; the folder stays as it is.
    """
    return push_files(
        folder, adapter_files(folder), repo_id, private=private, commit_message=commit_message, token=token
    )
