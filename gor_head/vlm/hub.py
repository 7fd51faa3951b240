"""An adapter's way to the Hub, with value tokens or without: which files are its, under which name, in one commit."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HTTPError

from gor_head.vocabulary import VOCABULARY_FILE

ADAPTER_CONFIG = "adapter_config.json"
CARD_FILE = "README.md"

# What makes up an adapter. A whitelist: an output folder also holds the reference adapter (`ref/`), checkpoints with
# optimizer states, and pickled training arguments, none of which belong on the Hub.
ADAPTER_FILES = (
    ADAPTER_CONFIG,
    "adapter_model.safetensors",
    CARD_FILE,
    "report.json",
    "task.json",
    VOCABULARY_FILE,
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


def public_name(base_model: str) -> str:
    """A model's name for a card: a Hub id as it is, of a local path (or `tiny`) the last part only."""
    path = Path(base_model)
    is_local = path.is_absolute() or path.exists() or base_model.startswith((".", "~")) or len(path.parts) > 2
    return path.name if is_local else base_model


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


def build_card(
    title: str,
    paragraphs: Sequence[str],
    *,
    base_model: str | None,
    tags: Sequence[str],
    results: Sequence[EvalResult] = (),
    **metadata: Any,
) -> ModelCard:
    """A model card: the metadata that the Hub reads, a heading, and paragraphs.

    Args:
        title: The heading.
        paragraphs: Markdown, each of them set off by an empty line.
        base_model: Public name of an adapter's base model, see [`public_name`][gor_head.vlm.hub.public_name]; `None`
            for a plain model.
        tags: Tags of the Hub.
        results: Figures that the Hub shows beside the card.
        metadata: What else `ModelCardData` takes, such as `pipeline_tag`.
    """
    data = ModelCardData(
        base_model=base_model if base_model and "/" in base_model else None,
        library_name="transformers" if base_model is None else "peft",
        tags=list(tags),
        model_name=title if results else None,
        eval_results=list(results) or None,
        **metadata,
    )
    return ModelCard(f"---\n{data}\n---\n\n" + "\n\n".join([f"# {title}", *paragraphs]) + "\n")


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


def push_files(
    folder: str | Path,
    names: Sequence[str],
    repo_id: str,
    *,
    private: bool | None = True,
    commit_message: str = "Upload the adapter",
    token: str | None = None,
) -> CommitInfo:
    """Upload some files of a folder in one commit; the repository is created if missing.

    If an adapter names its base model by a local path, the uploaded `adapter_config.json` names the last part of it.

    Args:
        folder: Where the files lie.
        names: Which of them leave the machine; see [`adapter_files`][gor_head.vlm.hub.adapter_files].
        repo_id: `user/name` on the Hub.
        private: Whether a new repository is private; an existing one stays as it is.
        commit_message: First line of the commit.
        token: The token that `hf auth login` stored if not given.

    Raises:
        OSError: If the Hub does not take it or cannot be reached; the folder stays as it is.
    """
    folder = Path(folder)
    sources: dict[str, Path | bytes] = {name: folder / name for name in names}
    if ADAPTER_CONFIG in sources:
        config: dict[str, Any] = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        base = config.get("base_model_name_or_path")
        if base and public_name(base) != base:
            config["base_model_name_or_path"] = public_name(base)
            sources[ADAPTER_CONFIG] = json.dumps(config, indent=2, sort_keys=True).encode()
    repo = create_repository(repo_id, private, token)
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=source) for name, source in sources.items()]
    try:
        return HfApi(token=token).create_commit(repo, operations, commit_message=commit_message)
    except (HTTPError, OSError) as error:
        raise OSError(f"The adapter in {folder} could not be pushed to {repo!r}, and stays there: {error}") from error
