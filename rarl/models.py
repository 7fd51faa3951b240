"""Load a vision-language or language model, with a LoRA adapter on top if there is one."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError
from peft import PeftConfig
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
)

from gor_head.vlm import ValueTokens
from gor_head.vlm.checkpoint import add_adapter, check_rows
from gor_head.vocabulary import VOCABULARY_FILE
from rarl import tiny
from rarl.fetching import FETCHES, fetched
from rarl.inputs import tokenizer_of
from rarl.task import TASK_FILE, OrdinalTask, read_task


def check_folder(folder: str, wanted: str, hint: str) -> None:
    """Raise `FileNotFoundError` if `folder` is a local folder without the file `wanted`; a Hub id passes."""
    path = Path(folder)
    if path.is_dir() and not (path / wanted).is_file():
        names = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
        raise FileNotFoundError(f"{folder} holds no {wanted} ({hint}); it holds {names}.")


def check_adapter(adapter: str) -> None:
    """Raise an error if there is no LoRA adapter in a folder or under an id of the Hub.

    Raises:
        FileNotFoundError: If a local folder holds none.
        ValueError: If it is neither a folder nor to be had from the Hub.
    """
    check_folder(adapter, "adapter_config.json", "a LoRA adapter saved by PEFT is wanted")
    if not Path(adapter).is_dir():
        try:
            PeftConfig.from_pretrained(adapter)
        except (ValueError, OSError) as error:
            raise ValueError(f"{adapter} is no folder of a LoRA adapter, nor one of the Hub: {error}") from None


def resolve_model(model_name_or_path: str | None) -> str:
    """Folder or Hub id of a model; `"tiny"`, and none given, is the built-in one, and a name of
    [`FETCHES`][rarl.fetching.FETCHES] what was fetched.

    Raises:
        FileNotFoundError: If it is a local folder without a model, or was not fetched yet.
    """
    name = tiny.path() if model_name_or_path in (None, "tiny") else str(model_name_or_path)
    if name in FETCHES and FETCHES[name].kind == "model":
        name = str(fetched(name))
    check_folder(name, "config.json", "a model is wanted; a LoRA adapter goes on top of one")
    return name


def trained_task(folder_or_id: str) -> OrdinalTask | None:
    """What an adapter or model trained by a recipe judges: the `task.json` beside it, in a folder or on the Hub.

    `None` for a model that no recipe trained.

    Raises:
        FileNotFoundError: If the task has value tokens and its vocabulary is not there.
    """
    folder = Path(folder_or_id)
    if not folder.is_dir() and folder_or_id != "tiny":
        try:
            folder = Path(hf_hub_download(folder_or_id, TASK_FILE)).parent
        except (HFValidationError, EntryNotFoundError, RepositoryNotFoundError):
            return None
        with suppress(EntryNotFoundError):  # a task in digits has none
            hf_hub_download(folder_or_id, VOCABULARY_FILE)
    return read_task(folder) if (folder / TASK_FILE).is_file() else None


def model_class(config: Any) -> Any:
    """The class of transformers that loads a model of this configuration: with images if it sees any, else of text."""
    sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return AutoModelForImageTextToText if sees else AutoModelForCausalLM


def check_kind(path: str, task: OrdinalTask) -> None:
    """Refuse to judge images with a model that sees none.

    Raises:
        ValueError: Names the model and the task.
    """
    config = AutoConfig.from_pretrained(path)
    if task.kind == "image" and model_class(config) is AutoModelForCausalLM:
        raise ValueError(
            f"Task {task.name!r} judges images, but {path} is a language model ({config.model_type}); wanted one that "
            "sees images, or texts to judge."
        )


def load_processor(path: str, adapter: str | None = None, **kwargs: Any) -> Any:
    """Processor of a model (a language model's is its tokenizer), or that of an adapter whose task has value tokens:
    only that one knows them.

    Args:
        path: Folder or Hub id of the model.
        adapter: Folder or Hub id of an adapter on top.
        kwargs: Further arguments of `AutoProcessor.from_pretrained`.

    Raises:
        ValueError: If the adapter has rows of value tokens that are not those of its task and its processor.
    """
    task = None if adapter is None else trained_task(adapter)
    has_tokens = task is not None and task.vocabulary is not None
    processor = AutoProcessor.from_pretrained(adapter if has_tokens else path, **kwargs)
    tokenizer = tokenizer_of(processor)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # as TRL's trainers do
    if adapter is not None:
        check_rows(
            adapter, ValueTokens.of(processor, task.codi_vocabulary) if task is not None and has_tokens else None
        )
    return processor


def load_model(
    model_name_or_path: str, adapter: str | None = None, dtype: torch.dtype | str = "auto"
) -> tuple[Any, Any]:
    """A model in evaluation mode and its processor, on the GPU if there is one.

    Args:
        model_name_or_path: Folder or Hub id; `"tiny"` is the built-in tiny model.
        adapter: Folder or Hub id of a LoRA adapter; `None` for the plain model.
        dtype: Type of the base model's weights; `"auto"` is the type that they were saved in.

    Returns:
        The model (a `PeftModel` with an adapter) and its processor. No code from the Hub is ever run.

    Raises:
        FileNotFoundError: If a local folder lacks `config.json` or, for an adapter, `adapter_config.json`.
        OSError: If the model is neither a folder nor to be had from the Hub.
    """
    name = resolve_model(model_name_or_path)
    if adapter is not None:
        check_adapter(adapter)
    processor = load_processor(name, adapter)
    model: Any = model_class(AutoConfig.from_pretrained(name)).from_pretrained(name, dtype=dtype)
    if adapter is not None:
        model = add_adapter(model, processor, adapter)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), processor
