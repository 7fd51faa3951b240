"""A model with value tokens, its processor and its vocabulary in one folder or Hub repository."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import transformers
from huggingface_hub import CommitInfo, ModelCard, snapshot_download
from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import AutoConfig, AutoProcessor

from gor_head.numbers import write_number
from gor_head.vlm.hub import ADAPTER_CONFIG, CARD_FILE, build_card, public_name, push_files
from gor_head.vlm.tokens import ValueTokens, check_lora, grow
from gor_head.vocabulary import FIRST_VALUE, VOCABULARY_FILE, CoDiVocabulary


def save_pretrained(model: Any, processor: Any, vocabulary: CoDiVocabulary, directory: str | Path) -> None:
    """Write a model (or its adapter, if peft has wrapped it), its processor and `vocabulary.json` into a directory.

    Args:
        model: A model with value tokens; see [`attach`][gor_head.vlm.tokens.attach].
        processor: The processor or tokenizer of the model.
        vocabulary: The vocabulary whose tokens the model has.
        directory: The directory, which is made if it is absent.

    Raises:
        ValueError: If the processor lacks the tokens of the vocabulary.
    """
    ValueTokens.of(processor, vocabulary)
    # peft would add the whole matrix where it has grown; the rows that were trained are in the adapter.
    options = {"save_embedding_layers": False} if isinstance(model, PeftModel) else {}
    model.save_pretrained(directory, **options)
    processor.save_pretrained(directory)
    vocabulary.save_pretrained(directory)


def push_to_hub(
    model: Any,
    processor: Any,
    vocabulary: CoDiVocabulary,
    repo_id: str,
    *,
    private: bool | None = True,
    commit_message: str = "Upload the adapter and its vocabulary",
    token: str | None = None,
) -> CommitInfo:
    """Upload what [`save_pretrained`][gor_head.vlm.checkpoint.save_pretrained] writes in one commit; the repository is
    created if missing.

    An adapter of a base model in a local folder is pushed with the folder's name only: give that base to
    [`load`][gor_head.vlm.checkpoint.load].

    Args:
        model: A model with value tokens, as for `save_pretrained`.
        processor: The processor of the model, as for `save_pretrained`.
        vocabulary: The vocabulary of the model, as for `save_pretrained`.
        repo_id: `user/name` on the Hub.
        private: Whether a new repository is private; an existing one stays as it is.
        commit_message: First line of the commit.
        token: The token that `hf auth login` stored if not given.

    Raises:
        ValueError: If the processor lacks the tokens of the vocabulary.
        OSError: If the Hub does not take it or cannot be reached.
    """
    with TemporaryDirectory() as folder:
        save_pretrained(model, processor, vocabulary, directory=folder)
        is_adapter = (Path(folder) / ADAPTER_CONFIG).is_file()
        base = PeftConfig.from_pretrained(folder).base_model_name_or_path if is_adapter else None
        card = _card(None if base is None else public_name(base), vocabulary).content
        (Path(folder) / CARD_FILE).write_text(card, encoding="utf-8", errors="replace")
        paths = (path.relative_to(folder) for path in Path(folder).rglob("*") if path.is_file())
        files = sorted(path.as_posix() for path in paths if path.parts[0] != "ref")  # without the frozen reference
        try:
            return push_files(folder, files, repo_id, private=private, commit_message=commit_message, token=token)
        except OSError as error:  # names a folder that is gone by now
            raise OSError(f"The model could not be pushed to {repo_id!r}: {error.__cause__ or error}") from error


def _card(base: str | None, vocabulary: CoDiVocabulary) -> ModelCard:
    """Card of a model (`base` is `None`) or of an adapter, by the public name of its base model."""
    values = ", ".join(write_number(value) for value in vocabulary.values[FIRST_VALUE:])
    how = "in one token each: 0, " if vocabulary.tagless else "as sums of the tokens "
    paragraphs = [
        f"This {'model' if base is None else f'adapter of `{base}`'} writes numbers from 0 to "
        f"{write_number(vocabulary.largest)} {how}{values}.",
        '```python\nfrom gor_head.vlm import load\n\nmodel, processor, tokens = load("<this repository>")\n```',
    ]
    return build_card("Value tokens", paragraphs, base_model=base, tags=["gor", "ordinal-regression"])


def load(folder_or_id: str | Path, base_model: str | None = None, **kwargs: Any) -> tuple[Any, Any, ValueTokens]:
    """What [`save_pretrained`][gor_head.vlm.checkpoint.save_pretrained] or
    [`push_to_hub`][gor_head.vlm.checkpoint.push_to_hub] left: adapter on its base model, or plain model.

    Args:
        folder_or_id: Folder or Hub id.
        base_model: Folder or Hub id of the base model; by default the one that the adapter names.
        kwargs: Further arguments of the model's `from_pretrained`, such as `dtype`.

    Returns:
        The model in evaluation mode (a `PeftModel` for an adapter), its processor, and its value tokens.

    Raises:
        FileNotFoundError: If there is no vocabulary.
        ValueError: If the processor lacks its tokens, or the model or adapter has other rows.
    """
    folder = str(folder_or_id)
    if not Path(folder).is_dir():
        folder = snapshot_download(folder)
    if not (Path(folder) / VOCABULARY_FILE).is_file():
        raise FileNotFoundError(
            f"{folder_or_id}: no {VOCABULARY_FILE}; wanted what gor_head.vlm.save_pretrained wrote, the vocabulary "
            "beside the model or adapter."
        )
    processor = AutoProcessor.from_pretrained(folder)
    tokens = ValueTokens.of(processor, CoDiVocabulary.from_pretrained(folder))
    if not (Path(folder) / ADAPTER_CONFIG).is_file():
        model = _load_plain(folder, **kwargs)
        _check_size(model, tokens, str(folder_or_id))
        return model.eval(), processor, tokens
    check_rows(folder, tokens)
    base = base_model or PeftConfig.from_pretrained(folder).base_model_name_or_path
    model = _load_plain(str(base), **kwargs)
    return add_adapter(model, processor, folder).eval(), processor, tokens


def add_adapter(model: Any, processor: Any, adapter: str | Path, **kwargs: Any) -> PeftModel:
    """A saved adapter on its base model, which first gets a row for every token of the adapter's processor.

    Args:
        model: The base model; changed in place.
        processor: The processor (or tokenizer) that was saved with the adapter, or the model's own for an adapter
            without value tokens.
        adapter: Folder or Hub id.
        kwargs: Further arguments of `PeftModel.from_pretrained`, such as `is_trainable`.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    grow(model, max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1))
    return PeftModel.from_pretrained(model, str(adapter), **kwargs)


def merge(model: Any) -> Any:
    """The plain model of a `PeftModel`, the adapter's weights and token rows in its own; the adapter is gone.

    Save it with [`save_pretrained`][gor_head.vlm.checkpoint.save_pretrained], and
    [`load`][gor_head.vlm.checkpoint.load] gives it back; it goes on as any other model would, under ZeRO-3 too. Where
    one matrix is input and output, and LoRA has changed one of the two, they are two from here on.

    Raises:
        ValueError: If LoRA has changed a matrix with trained token rows in it, see
            [`check_lora`][gor_head.vlm.tokens.check_lora].
    """
    for config in model.peft_config.values():
        if config.trainable_token_indices:
            check_lora(model, config)
    _untie(model.get_base_model())
    return model.merge_and_unload()


def _untie(model: Any) -> None:
    """Give a model an output matrix of its own, if LoRA has changed one of its two uses: merged into the common one it
    would change both."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    is_adapted = any(isinstance(one, BaseTunerLayer) for one in (inputs, outputs))
    if not is_adapted or outputs is None or inputs.weight is not outputs.weight:
        return
    layer: Any = outputs.get_base_layer() if isinstance(outputs, BaseTunerLayer) else outputs
    layer.weight = nn.Parameter(layer.weight.detach().clone())
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False


def check_rows(adapter: str, tokens: ValueTokens | None) -> None:
    """Check that an adapter trained the rows of these value tokens, or of none.

    Raises:
        ValueError: If it trained others: its vocabulary is missing, or is another one.
    """
    trained = getattr(PeftConfig.from_pretrained(adapter), "trainable_token_indices", None)
    lists = trained.values() if isinstance(trained, dict) else [trained or []]
    wanted = [] if tokens is None else tokens.all_ids
    for ids in lists:
        if sorted(ids) != wanted:
            raise ValueError(
                f"{adapter}: the adapter has rows of {_some(ids)}, but its vocabulary has {_some(wanted)}; wanted the "
                f"{VOCABULARY_FILE} and the processor that were saved with it."
            )


def _some(ids: list[int]) -> str:
    return f"{len(ids)} tokens ({min(ids)} to {max(ids)})" if ids else "no tokens"


def _check_size(model: Any, tokens: ValueTokens, name: str) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if rows <= max(tokens.all_ids):
        raise ValueError(
            f"{name}: the model has {rows} rows, but value tokens have ids up to {max(tokens.all_ids)}; wanted a "
            "model that they were attached to."
        )


def _load_plain(folder_or_id: str, **kwargs: Any) -> Any:
    """A model of transformers, text-only or not, by the architecture that its configuration names."""
    architecture = (AutoConfig.from_pretrained(folder_or_id).architectures or ["AutoModelForCausalLM"])[0]
    return getattr(transformers, architecture).from_pretrained(folder_or_id, **kwargs)
