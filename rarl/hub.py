"""Model card of an adapter, and its way to the Hub."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HTTPError

from gor_head.metrics import METRICS
from gor_head.vlm.checkpoint import public_name
from rarl.evaluation.reports import Report
from rarl.task import OrdinalTask, get_task

TAGS = ["rarl", "trl", "grpo", "ordinal-regression"]
STAGES = {
    "sft": "supervised fine-tuning on the same prompts (the baseline)",
    "gor_sft": "supervised fine-tuning on answers in value tokens",
    "levels_sft": "supervised fine-tuning on five words (the baseline that is read as an expectation)",
    "gor_dpo": "preference optimisation (DPO) on the model's own beam candidates, after supervised fine-tuning",
    "stage1": "stage 1: one image a prompt, regression and format rewards",
    "stage2": "stage 2: one to eight images a prompt, all rewards and response mutation",
}

# What makes up an adapter. A whitelist: an output folder also holds the reference adapter (`ref/`), checkpoints with
# optimizer states, and pickled training arguments, none of which belong on the Hub.
ADAPTER_FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "README.md",
    "report.json",
    "task.json",
    "vocabulary.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


def _rows(report: Report) -> list[tuple[str, str, float, str]]:
    """(metric type, readable name, value, value for people) of every metric that the report defines."""
    found = [(metric, name, metric.label, report.readable.metrics.get(name)) for name, metric in METRICS.items()]
    kendall = METRICS["kendall"]
    found += [
        (kendall, f"kendall_tau_{count}", f"{kendall.title}, {count} images", tau)
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
    results = [
        EvalResult(
            task_type="image-text-to-text",
            dataset_type=task.name,
            dataset_name=task.name,
            metric_type=kind,
            metric_name=label,
            metric_value=round(value, 4),
        )
        for kind, label, value, _ in rows
    ]
    data = ModelCardData(
        base_model=base if "/" in base else None,
        library_name="peft",
        pipeline_tag="image-text-to-text",
        tags=TAGS,
        model_name=name if results else None,
        eval_results=results or None,
    )
    text = [
        f"# {name}",
        f"A LoRA adapter of `{base}` that judges the {task.rule} of images ({task.value_range}): one value an image, "
        "and with several images their ascending order.",
        f"Trained by {STAGES[stage]}, after *Ranking-Aware Reinforcement Learning for Ordinal Ranking* (RARL).",
    ]
    if report and rows:
        lines = [
            "| metric | value |",
            "|---|---|",
            *(f"| {label} | {shown} |" for _, label, _, shown in rows),
        ]
        text += ["## Results", "\n".join(lines)]
        text += [f"Over readable answers; {report.failure_rate:.1%} of all answers were unreadable."]
    use = f"```bash\nrarl predict --model {base} --adapter <this repository> first.jpg second.jpg\n```"
    if stage == "levels_sft":
        use = "Its answers are words: `rarl.levels.expected_values` reads them as numbers."
    text += ["## Use", use]
    return ModelCard(f"---\n{data}\n---\n\n" + "\n\n".join(text) + "\n")


def write_model_card(
    output_dir: str | Path, base_model: str, task: str | OrdinalTask, *, stage: str, report: Report | None = None
) -> Path:
    """Write [`model_card`] as `README.md` into an existing folder, and return its path."""
    path = Path(output_dir) / "README.md"
    path.write_text(model_card(base_model, task, stage, report=report).content, encoding="utf-8", errors="replace")
    return path


def adapter_files(folder: str | Path) -> list[str]:
    """Names of the files in `folder` that belong to its `default` adapter, in the order of `ADAPTER_FILES`.

    Raises:
        FileNotFoundError: If `adapter_config.json` or `adapter_model.safetensors` is missing.
    """
    folder = Path(folder)
    for wanted in ADAPTER_FILES[:2]:
        if not (folder / wanted).is_file():
            raise FileNotFoundError(f"{folder} holds no {wanted}; a LoRA adapter saved as safetensors is wanted.")
    return [name for name in ADAPTER_FILES if (folder / name).is_file()]


def create_repository(repo_id: str, private: bool | None = True, token: str | None = None) -> str:
    """Create a model repository if it is missing, and return its `user/name`.

    Done before a training run, it shows a missing token or an unreachable Hub while nothing is lost.

    Args:
        repo_id: `user/name`, or `name` in the user's own namespace.
        private: Whether a new repository is private; `None` is the Hub's default. An existing one stays as it is.
        token: The token that `hf auth login` stored if not given.

    Raises:
        OSError: If the Hub does not allow it or cannot be reached.
    """
    try:
        return HfApi(token=token).create_repo(repo_id, private=private, exist_ok=True).repo_id
    except (HTTPError, OSError) as error:
        raise OSError(f"There is no writing to the repository {repo_id!r}: {error}") from error


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
    folder = Path(folder)
    sources: dict[str, Path | bytes] = {name: folder / name for name in adapter_files(folder)}
    config: dict[str, Any] = json.loads((folder / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
    base = config.get("base_model_name_or_path")
    if base and public_name(base) != base:
        config["base_model_name_or_path"] = public_name(base)
        sources[ADAPTER_FILES[0]] = json.dumps(config, indent=2, sort_keys=True).encode()
    repo = create_repository(repo_id, private, token)
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=source) for name, source in sources.items()]
    try:
        return HfApi(token=token).create_commit(repo, operations, commit_message=commit_message)
    except (HTTPError, OSError) as error:
        raise OSError(f"The adapter in {folder} could not be pushed to {repo!r}, and stays there: {error}") from error
