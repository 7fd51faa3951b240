"""Value tokens in a language model: ids in its tokenizer, rows in its embedding and head, and the LoRA settings that
train just these rows."""

from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor, nn
from transformers import AddedToken

from gor_head.text import CLOSE, OPEN, token_names
from gor_head.vocabulary import EOS, FIRST_VALUE, PAD, CoDiVocabulary


@dataclass(frozen=True)
class ValueTokens:
    """Where the tokens of a vocabulary stand in a language model.

    Args:
        vocabulary: The vocabulary.
        open_id: Id of `<gor>`.
        close_id: Id of `</gor>`, the end of a code.
        ids: Ids of the value tokens, by ascending value, `[V]`.
    """

    vocabulary: CoDiVocabulary
    open_id: int
    close_id: int
    ids: tuple[int, ...]

    @classmethod
    def of(cls, processor: Any, vocabulary: CoDiVocabulary) -> "ValueTokens":
        """The tokens of a vocabulary in a processor (or tokenizer) that has them.

        Raises:
            ValueError: If a token is missing: the processor is not the one that was saved with the adapter.
        """
        tokenizer = getattr(processor, "tokenizer", processor)
        known = tokenizer.get_vocab()
        names = [OPEN, CLOSE, *token_names(vocabulary)]
        missing = [name for name in names if name not in known]
        if missing:
            raise ValueError(
                f"processor: {len(missing)} of {len(names)} value tokens are missing, such as {missing[0]!r}; wanted "
                "the processor that attach made, or that was saved beside the adapter."
            )
        open_id, close_id, *ids = (known[name] for name in names)
        return cls(vocabulary, open_id, close_id, tuple(ids))

    @property
    def all_ids(self) -> list[int]:
        """Ids of all tokens, tags included, ascending: the rows that are trained."""
        return sorted([self.open_id, self.close_id, *self.ids])

    def code_ids(self, size: int, device: torch.device | str = "cpu") -> Tensor:
        """Id in the vocabulary of each id of the model: EOS for `</gor>`, PAD for what is no value token, `[size]`."""
        table = torch.full((size,), PAD, dtype=torch.int64)
        table[self.close_id] = EOS
        table[torch.tensor(self.ids, dtype=torch.int64)] = torch.arange(FIRST_VALUE, FIRST_VALUE + len(self.ids))
        return table.to(device)

    def lora_settings(self, model: nn.Module) -> dict[str, Any]:
        """Arguments of `peft.LoraConfig` that train the rows of these tokens: input rows, and output rows if untied."""
        inputs, outputs = _names(model)
        if _is_tied(model):
            return {"trainable_token_indices": {inputs: self.all_ids}}
        return {"trainable_token_indices": {inputs: self.all_ids, outputs: self.all_ids}}


def check_lora(model: Any, config: Any) -> None:
    """Refuse LoRA settings that train the input or output matrix of a model beside the rows of value tokens in it.

    PEFT wraps a module once: other ways to train these matrices end in its errors, in a forward pass or a merge.

    Args:
        model: A model of transformers; a `PeftModel` counts as its base.
        config: The `peft.LoraConfig`; of another kind of adapter nothing is asked.

    Raises:
        ValueError: If `modules_to_save` or `target_modules` has one of the two.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    matrices = (base.get_input_embeddings(), base.get_output_embeddings())
    for name in [name for name, module in base.named_modules() if module in matrices]:
        saved = any(name.endswith(end) for end in getattr(config, "modules_to_save", None) or ())
        adapted = getattr(config, "target_modules", None) and check_target_module_exists(config, name)
        if saved or adapted:
            setting = "modules_to_save" if saved else "target_modules"
            raise ValueError(
                f"{setting}: {name} holds the rows of value tokens, which LoRA trains by themselves; wanted "
                f"{setting} without it, got {getattr(config, setting)}."
            )


def add_tokens(processor: Any, vocabulary: CoDiVocabulary) -> ValueTokens:
    """Add the tokens of a vocabulary to a processor (or tokenizer) in place; those that it has stay as they are.

    Raises:
        ValueError: If the vocabulary has an offset or no value token, or the processor has value tokens of another one.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    names = [OPEN, CLOSE, *token_names(vocabulary)]
    if len(names) == 2:
        raise ValueError("vocabulary: wanted at least 1 value token, got none; all labels were zero.")
    present = [name for name in names if name in tokenizer.get_vocab()]
    if present and len(present) < len(names):
        raise ValueError(
            f"processor: has value tokens of another vocabulary, such as {present[-1]!r}; wanted none, or all "
            f"{len(names)} of this one."
        )
    # Not special: `skip_special_tokens=True` must not remove them from an answer. `<gor>` takes the blank before it
    # along: a blank of its own costs a token, and where blanks go with the digits after them nobody has trained it.
    added = [AddedToken(name, special=False, normalized=False, lstrip=name == OPEN) for name in names]
    tokenizer.add_tokens(added)
    return ValueTokens.of(tokenizer, vocabulary)


def attach(model: Any, processor: Any, vocabulary: CoDiVocabulary) -> ValueTokens:
    """Add the tokens of a vocabulary to a model and its processor, in place.

    Ids follow those of the tokenizer. Rows that the model has beyond its tokenizer (Qwen2.5-VL has over 270) are used
    first; the matrices grow only if these do not suffice, and never shrink. A row is the mean of the rows of its
    value's digits, moved a little along one fixed direction by the logarithm of the value, so that near values begin
    near each other; `<gor>` begins as the mean of the digits, so that it is likely where a number is, `</gor>` as what
    follows a number. Output rows likewise where they are not tied to the input.

    Args:
        model: A causal or image-text model of transformers.
        processor: The processor or tokenizer of the model; it may have the tokens already, by
            [`add_tokens`][gor_head.vlm.tokens.add_tokens].
        vocabulary: Without an offset.

    Returns:
        The tokens; `lora_settings` trains them.

    Raises:
        ValueError: As [`add_tokens`][gor_head.vlm.tokens.add_tokens].
    """
    tokens = add_tokens(processor, vocabulary)
    grow(model, max(tokens.all_ids) + 1)
    matrices = [model.get_input_embeddings().weight]
    if not _is_tied(model):
        matrices.append(model.get_output_embeddings().weight)
    for matrix in matrices:
        _initialize(matrix, getattr(processor, "tokenizer", processor), tokens)
    return tokens


def grow(model: Any, size: int) -> None:
    """Give a model's matrices at least `size` rows; more than that stay as they are."""
    # By the configuration: under ZeRO-3 a process holds a part of the matrix only.
    if model.config.get_text_config().vocab_size < size:
        model.resize_token_embeddings(size, mean_resizing=False)


@torch.no_grad()
def _initialize(matrix: Tensor, tokenizer: Any, tokens: ValueTokens) -> None:
    """Rows by value: mean of the digits' rows, plus a fixed random direction times the logarithm of the value."""
    scale = matrix[: min(tokens.all_ids)].float().std()
    values = torch.from_numpy(tokens.vocabulary.values[FIRST_VALUE:]).log()
    spread = (values - values.mean()) / values.std(correction=0).clamp(min=1.0)
    direction = torch.randn(matrix.shape[1], generator=torch.Generator().manual_seed(0)).to(matrix.device)
    names = token_names(tokens.vocabulary)
    for name, height, token in zip(names, spread.tolist(), tokens.ids, strict=True):
        digits = tokenizer(name[2:-1], add_special_tokens=False)["input_ids"]
        matrix[token] = (matrix[digits].float().mean(dim=0) + 0.1 * height * scale * direction).to(matrix.dtype)
    # A number begins where a digit would have, and ends where what follows a number would.
    for token, text in ((tokens.open_id, "0123456789"), (tokens.close_id, ",}")):
        like = tokenizer(text, add_special_tokens=False)["input_ids"]
        matrix[token] = matrix[like].float().mean(dim=0).to(matrix.dtype)


def _is_tied(model: Any) -> bool:
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def _names(model: nn.Module) -> tuple[str, str]:
    """Last parts of the names of the input and the output matrix's modules."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[operator]
    found = {module: name.rpartition(".")[2] for name, module in model.named_modules() if module in (inputs, outputs)}
    return found[inputs], found[outputs]
