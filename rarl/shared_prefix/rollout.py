"""Sample the answers to a prompt after encoding it once.

Plain generation lays out G rows for a group and encodes its prompt, images and all, G times. Here each distinct prompt
is encoded once, its key-value cache is repeated for its answers, and answers that have ended leave the batch. Tokens
come from the same distributions: greedy answers are those of plain generation.

All of it is the public `generate` of transformers, so every setting that looks at the whole text so far (temperature,
top-p, repetition penalty, suppressed tokens …) works as it does there;
[`unsupported_settings`][rarl.shared_prefix.rollout.unsupported_settings] names those that do not. See
`docs/shared_prefix.md`.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation import GenerationMode

from rarl.shared_prefix.support import innermost

ENDED_SHARE = 0.25
"""Share of a batch that has to end before its answers leave it: each time costs a copy of the cache that remains."""

NEUTRAL: dict[str, Any] = {
    "num_return_sequences": 1,
    "use_cache": True,
    "cache_implementation": None,
    "prefill_chunk_size": None,
    "token_healing": False,
    "max_time": None,
    "stop_strings": None,
    "guidance_scale": 1,
    "min_new_tokens": 0,
    "begin_suppress_tokens": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
}
"""Settings that count from where a call of `generate` begins, or own its cache, and the value that does nothing;
`None` never does anything."""


def unsupported_settings(settings: GenerationConfig, defaults: GenerationConfig) -> str | None:
    """Why generation cannot encode each prompt once, in a few words; `None` if it can.

    Args:
        settings: What is passed to `generate`.
        defaults: The model's own, which hold for whatever `settings` leaves `None`.
    """
    given = {name: value for name, value in settings.to_dict().items() if value is not None}
    whole = _changed(defaults, **given)
    if settings.max_new_tokens is None:
        return "generation has no max_new_tokens"
    mode = whole.get_generation_mode()
    if mode not in (GenerationMode.SAMPLE, GenerationMode.GREEDY_SEARCH):
        return f"generation is {mode.value}"
    for name, neutral in NEUTRAL.items():
        value = getattr(whole, name, None)
        if value is not None and value != neutral:
            return f"generation has {name}={value!r}"
    return None


class SomeEnded(StoppingCriteria):
    """Stops a whole batch once a share of its answers has ended.

    Args:
        eos_token_ids: Tokens that end an answer.
        share: Share of the batch that has to end.
    """

    def __init__(self, eos_token_ids: torch.Tensor, share: float) -> None:
        self.eos_token_ids, self.share = eos_token_ids, share
        self.ended: torch.Tensor | bool = False

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:  # type: ignore[override]
        self.ended = self.ended | torch.isin(input_ids[:, -1], self.eos_token_ids)
        enough: Any = self.ended.float().mean() >= self.share
        return enough.expand(len(input_ids))


def _changed(settings: GenerationConfig, **changes: Any) -> GenerationConfig:
    changed = copy.deepcopy(settings)
    changed.update(**changes)
    return changed


@torch.no_grad()
def sample_answers(
    model: Any,
    prompts: dict[str, torch.Tensor],
    index: torch.Tensor,
    *,
    settings: GenerationConfig,
    eos_token_ids: Sequence[int],
    logits_processors: Sequence[LogitsProcessor] = (),
) -> list[list[int]]:
    """Token ids of answers, each up to and with its end token.

    Args:
        model: Model as it is generated with, inside PEFT or not; on one process, or whole on each of them.
        prompts: Inputs of `generate` for distinct prompts: `input_ids` and `attention_mask` `[d, p]` (padded on the
            left, at least two tokens each), fields of the same shape, and images of all of them in a row.
        index: For each answer its prompt, `[b]`.
        settings: Settings of generation; see [`unsupported_settings`][rarl.shared_prefix.rollout.unsupported_settings].
        eos_token_ids: Tokens that end an answer, those of the settings.
        logits_processors: Further ones, which look at nothing but the text so far.
    """
    base_model = innermost(model)
    ids, mask = prompts["input_ids"], prompts["attention_mask"]
    # The last token stays out of the cache: `generate` goes on from it, so it must not have been encoded yet.
    shared = {name: field[:, :-1] if field.shape == ids.shape else field for name, field in prompts.items()}
    first = _changed(settings, max_new_tokens=1, min_length=0, return_dict_in_generate=True)
    stop = torch.tensor(list(eos_token_ids), device=ids.device)
    limit = settings.max_new_tokens or 0
    answers: list[list[int]] = [[] for _ in index]
    try:
        # Its one token is not used, nor are its random numbers. Every process has the whole model and its own number of
        # steps, so none waits for the others.
        with torch.random.fork_rng([ids.device] if ids.is_cuda else []):
            cache = model.generate(**shared, generation_config=first, synced_gpus=False).past_key_values
        # Offsets of multimodal positions are state of the model, one for each row of the batch.
        offsets = getattr(base_model, "rope_deltas", None)
        rows, going = torch.arange(len(index), device=ids.device), index.to(ids.device)
        ids, mask, done = ids[going], mask[going], 0
        while True:
            cache.batch_select_indices(going)
            if offsets is not None:
                offsets = base_model.rope_deltas = offsets[going]
            start = ids.shape[1]
            ids = model.generate(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=cache,
                generation_config=_changed(settings, max_new_tokens=limit - done),
                logits_processor=LogitsProcessorList(logits_processors),
                stopping_criteria=StoppingCriteriaList([SomeEnded(stop, ENDED_SHARE)]),
                synced_gpus=False,
            )
            new = ids[:, start:]
            is_end = torch.isin(new, stop)
            lengths = torch.where(is_end.any(dim=1), is_end.int().argmax(dim=1) + 1, new.shape[1])
            for row, tokens, length in zip(rows.tolist(), new.tolist(), lengths.tolist(), strict=True):
                answers[row] += tokens[:length]
            done += new.shape[1]
            going = (~is_end.any(dim=1)).nonzero()[:, 0]
            if done >= limit or not len(going):
                return answers
            rows, ids = rows[going], ids[going]
            mask = torch.cat([mask[going], mask.new_ones(len(going), new.shape[1])], dim=1)
    finally:
        if hasattr(base_model, "rope_deltas"):
            base_model.rope_deltas = None  # they are wrong for any batch to come
