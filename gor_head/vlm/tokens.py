"""Value tokens in a language model: ids in its tokenizer, rows in its embedding and head, and the LoRA settings that
train just these rows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor, nn
from transformers import AddedToken

from gor_head.numbers import write_number
from gor_head.text import OPEN, end_name, token_names
from gor_head.vocabulary import EOS, FIRST_VALUE, PAD, CoDiVocabulary

Context = tuple[str, str]
"""What stands before and behind a number in a text that a model writes."""

CONTEXTS: tuple[Context, ...] = (('"value": ', "}"),)
"""Where numbers stand, if nothing else is said."""


@dataclass(frozen=True)
class ValueTokens:
    """Where the tokens of a vocabulary stand in a language model.

    Args:
        vocabulary: The vocabulary.
        open_id: Id of `<gor>`; `None` of a tagless vocabulary.
        end_id: Id of what adds nothing: `</gor>`, the end of a code, or the number `<=0>` of a tagless vocabulary.
        ids: Ids of the value tokens, by ascending value, `[V]`.
    """

    vocabulary: CoDiVocabulary
    open_id: int | None
    end_id: int
    ids: tuple[int, ...]

    @classmethod
    def of(cls, processor: Any, vocabulary: CoDiVocabulary) -> "ValueTokens":
        """The tokens of a vocabulary in a processor (or tokenizer) that has them.

        Raises:
            ValueError: If a token is missing: the processor is not the one that was saved with the adapter.
        """
        tokenizer = getattr(processor, "tokenizer", processor)
        known = tokenizer.get_vocab()
        names = _all_names(vocabulary)
        missing = [name for name in names if name not in known]
        if missing:
            raise ValueError(
                f"processor: {len(missing)} of {len(names)} value tokens are missing, such as {missing[0]!r}; wanted "
                "the processor that attach made, or that was saved beside the adapter."
            )
        end_id, *ids = (known[name] for name in names if name != OPEN)
        return cls(vocabulary, None if vocabulary.tagless else known[OPEN], end_id, tuple(ids))

    @property
    def all_ids(self) -> list[int]:
        """Ids of all tokens, tags included, ascending: the rows that are trained."""
        return sorted([*self.columns, *(() if self.open_id is None else (self.open_id,))])

    @property
    def columns(self) -> list[int]:
        """Ids of what a number is written with, in the order of the vocabulary: what adds nothing, then by value."""
        return [self.end_id, *self.ids]

    def code_ids(self, size: int, device: torch.device | str = "cpu") -> Tensor:
        """Id in the vocabulary of each id of the model, EOS for `end_id`, PAD for what is no value token, `[size]`."""
        table = torch.full((size,), PAD, dtype=torch.int64)
        table[torch.tensor(self.columns)] = torch.arange(EOS, FIRST_VALUE + len(self.ids))
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
    names = _all_names(vocabulary)
    if not len(vocabulary.tokens):
        raise ValueError("vocabulary: wanted at least 1 value token, got none; all labels were zero.")
    present = [name for name in names if name in tokenizer.get_vocab()]
    if present and len(present) < len(names):
        raise ValueError(
            f"processor: has value tokens of another vocabulary, such as {present[-1]!r}; wanted none, or all "
            f"{len(names)} of this one."
        )
    if present:
        return ValueTokens.of(
            tokenizer, vocabulary
        )  # as they were saved: adding them again would change what they strip
    # Not special: `skip_special_tokens=True` must not remove them from an answer. What begins a number takes the blank
    # before it along: a blank of its own costs a token, and where blanks go with the digits after them nobody has
    # trained it.
    added = [
        AddedToken(name, special=False, normalized=False, lstrip=vocabulary.tagless or name == OPEN) for name in names
    ]
    tokenizer.add_tokens(added)
    return ValueTokens.of(tokenizer, vocabulary)


def attach(
    model: Any, processor: Any, vocabulary: CoDiVocabulary, contexts: Sequence[Context] = CONTEXTS
) -> ValueTokens:
    """Add the tokens of a vocabulary to a model and its processor, in place.

    Ids follow those of the tokenizer. Rows that the model has beyond its tokenizer (Qwen2.5-VL has over 270) are used
    first; the matrices grow only if these do not suffice, and never shrink. A row is the mean of the rows of the tokens
    that its value is written with where numbers stand (with the blank before it, which many tokenizers fuse with what
    follows), moved a little along one fixed direction by the logarithm of the value, so that near values begin near
    each other. `<gor>` begins as the mean of what numbers begin with, so that it is likely where a number is, `</gor>`
    as what follows a number. Output rows likewise where they are not tied to the input.

    Args:
        model: A causal or image-text model of transformers.
        processor: The processor or tokenizer of the model; it may have the tokens already, by
            [`add_tokens`][gor_head.vlm.tokens.add_tokens].
        vocabulary: Without an offset.
        contexts: Where numbers stand in the answers that the model will write: what is before and behind them.

    Returns:
        The tokens; `lora_settings` trains them.

    Raises:
        ValueError: As [`add_tokens`][gor_head.vlm.tokens.add_tokens]; or if the tokenizer has no offsets of its tokens
            in a text.
    """
    tokens = add_tokens(processor, vocabulary)
    grow(model, max(tokens.all_ids) + 1)
    matrices = [model.get_input_embeddings().weight]
    if not _is_tied(model):
        matrices.append(model.get_output_embeddings().weight)
    examples = _examples(getattr(processor, "tokenizer", processor), tokens, contexts)
    for matrix in matrices:
        _initialize(matrix, examples, tokens)
    return tokens


def grow(model: Any, size: int) -> None:
    """Give a model's matrices at least `size` rows; more than that stay as they are."""
    # By the configuration: under ZeRO-3 a process holds a part of the matrix only.
    if model.config.get_text_config().vocab_size < size:
        model.resize_token_embeddings(size, mean_resizing=False)


def _all_names(vocabulary: CoDiVocabulary) -> list[str]:
    """Texts of all tokens: the opening tag if there is one, what adds nothing, then by ascending value."""
    return [*(() if vocabulary.tagless else (OPEN,)), end_name(vocabulary), *token_names(vocabulary)]


def number_tokens(tokenizer: Any, number: str, context: Context) -> tuple[list[int], list[int]]:
    """Tokens that a number is written with in a context, the blank before it included, and the tokens behind it.

    Args:
        tokenizer: A tokenizer of transformers.
        number: The number as text.
        context: What stands before and behind it.

    Raises:
        ValueError: If the tokenizer has no offsets of its tokens in a text.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"processor: wanted a fast tokenizer, which says where its tokens stand, got {type(tokenizer).__name__}."
        )
    before, behind = context
    text, start, end = before + number + behind, len(before.rstrip()), len(before + number)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    inside, after = [], []
    for token, (low, high) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        if high > start and low < end:
            inside.append(token)
        elif low >= end:
            after.append(token)
    return inside, after


def _examples(tokenizer: Any, tokens: ValueTokens, contexts: Iterable[Context]) -> dict[int, list[int]]:
    """Tokens whose rows each token of a vocabulary starts from."""
    columns = tokens.columns if tokens.open_id is None else tokens.ids
    values = tokens.vocabulary.values[-len(columns) :].tolist()
    like: dict[int, list[int]] = {token: [] for token in tokens.all_ids}
    for context in contexts:
        for token, value in zip(columns, values, strict=True):
            inside, after = number_tokens(tokenizer, write_number(value), context)
            like[token] += inside
            if tokens.open_id is not None:
                like[tokens.open_id].append(inside[0])
                like[tokens.end_id] += after[:1]
    return like


@torch.no_grad()
def _initialize(matrix: Tensor, examples: dict[int, list[int]], tokens: ValueTokens) -> None:
    """Rows by value: mean of the examples' rows, plus a fixed random direction times the logarithm of the value."""
    scale = matrix[: min(tokens.all_ids)].float().std()
    values = torch.from_numpy(tokens.vocabulary.values[FIRST_VALUE:]).log()
    spread = (values - values.mean()) / values.std(correction=0).clamp(min=1.0)
    heights = dict(zip(tokens.ids, (0.1 * spread).tolist(), strict=True))
    direction = torch.randn(matrix.shape[1], generator=torch.Generator().manual_seed(0)).to(matrix.device) * scale
    rows = {token: matrix[like].float().mean(dim=0) for token, like in examples.items()}
    for token, row in rows.items():
        matrix[token] = (row + heights.get(token, 0.0) * direction).to(matrix.dtype)


def _is_tied(model: Any) -> bool:
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def _names(model: nn.Module) -> tuple[str, str]:
    """Last parts of the names of the input and the output matrix's modules."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[operator]
    found = {module: name.rpartition(".")[2] for name, module in model.named_modules() if module in (inputs, outputs)}
    return found[inputs], found[outputs]
