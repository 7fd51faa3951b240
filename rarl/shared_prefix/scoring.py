"""Log-probabilities and entropies of answers, each distinct prompt encoded once."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from gor_head.vlm.logits import CodeMask
from rarl.shared_prefix.calls import cut_groups, plan_calls, split_calls
from rarl.shared_prefix.flex import block_mask, take_block_masks
from rarl.shared_prefix.groups import Images, find_groups, join_images
from rarl.shared_prefix.layout import NO_TEXT_LAST, Group, image_blocks, masks, pack_groups, prompt_positions


def prompt_groups(
    base_model: Any,
    input_ids: torch.Tensor,
    *,
    attention_mask: torch.Tensor,
    completion_length: int,
    images: Sequence[Images | None] | None = None,
    mm_token_type_ids: torch.Tensor | None = None,
    token_type_ids: torch.Tensor | None = None,
) -> list[Group]:
    """The groups of a batch, with their prompts and positions; arguments and errors are those of
    [`answer_log_probs`][rarl.shared_prefix.scoring.answer_log_probs]."""
    if mm_token_type_ids is not None and mm_token_type_ids[:, -completion_length:].any():
        raise ValueError("Answers must be text to share a prompt, image tokens are seen in one.")
    prompt_mask = attention_mask[:, :-completion_length].bool()
    groups = []
    for rows in find_groups(input_ids, attention_mask, completion_length, images=images):
        first = rows[0]
        is_token = prompt_mask[first]
        prompt = input_ids[first, :-completion_length][is_token]
        types = None if mm_token_type_ids is None else mm_token_type_ids[first, :-completion_length][is_token]
        prompt_images = (images[first] if images is not None else None) or {}
        if prompt_images and int(prompt[-1]) == getattr(base_model.config, "image_token_id", -1):
            raise ValueError(NO_TEXT_LAST)
        positions = prompt_positions(base_model, prompt, types, grid=prompt_images.get("image_grid_thw"))
        seen = None if token_type_ids is None else token_type_ids[first, :-completion_length][is_token]
        groups.append(Group(tuple(rows), prompt, positions, None if seen is None else image_blocks(seen)))
    return groups


def answer_log_probs(
    model: Any,
    base_model: Any,
    input_ids: torch.Tensor,
    *,
    attention_mask: torch.Tensor,
    completion_length: int,
    dtype: torch.dtype,
    images: Sequence[Images | None] | None = None,
    mm_token_type_ids: torch.Tensor | None = None,
    token_type_ids: torch.Tensor | None = None,
    budget: int | None = None,
    cost: float = 0.0,
    agree: Callable[[int], int] = lambda number: number,
    flex: bool = False,
    mask: CodeMask | None = None,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probabilities and entropies of answers, `[b, r]` each, every distinct prompt encoded once a call.

    Args:
        model: The model as TRL calls it, wrapped or not, with the fused head of `trl.trainer.utils.add_fused_lm_head`.
        base_model: The innermost model, which has `get_rope_index`; for a text model, any.
        input_ids: Prompts (padded on the left) and answers (padded on the right), `[b, p + r]`.
        attention_mask: 1 for tokens, `[b, p + r]`.
        completion_length: Width r of the answers.
        dtype: Type that attention computes in; of the additive mask.
        images: The images of each row; see [`split_images`][rarl.shared_prefix.groups.split_images].
        mm_token_type_ids: 0 for text, 1 for images, `[b, p + r]`.
        token_type_ids: 0 for text, 1 for images, `[b, p + r]`, for a model in which the tokens of an image see
            each other (Gemma 3).
        budget: The largest number of tokens in a call, padding included; see
            [`plan_calls`][rarl.shared_prefix.calls.plan_calls].
        cost: Work of a pair in attention, to cut groups where that is less; see
            [`cut_groups`][rarl.shared_prefix.calls.cut_groups].
        agree: Number of calls of this process → of all processes, the largest.
        flex: FlexAttention instead of the model's own under a dense mask; see
            [`rarl.shared_prefix.flex`][rarl.shared_prefix.flex].
        mask: The mask under which value tokens were sampled; the logits of all answer positions are in memory then.
        temperature: Temperature of the masked logits. (Those of the fused head have theirs.)

    Raises:
        ValueError: If a prompt ends in an image, or an answer holds one.
    """
    groups = prompt_groups(
        base_model,
        input_ids,
        attention_mask=attention_mask,
        completion_length=completion_length,
        images=images,
        mm_token_type_ids=mm_token_type_ids,
        token_type_ids=token_type_ids,
    )
    completion_ids = input_ids[:, -completion_length:]
    completion_mask = attention_mask[:, -completion_length:]
    lengths = completion_mask.sum(dim=1).tolist()
    calls = plan_calls(cut_groups(groups, lengths, cost), lengths, budget)
    calls = split_calls(calls, agree(len(calls))) if budget is not None else calls
    if flex:
        take_block_masks(base_model)
    contexts = None if mask is None else mask.contexts(input_ids, completion_length)
    log_probs, entropies = [], []
    for call in calls:
        pack = pack_groups(call, completion_ids, completion_mask)
        inputs: dict[str, Any] = {} if images is None else join_images([images[group.rows[0]] for group in call])
        inputs |= {
            "input_ids": pack.input_ids,
            "attention_mask": block_mask(pack.segment) if flex else masks(pack, base_model.config, dtype),
            "position_ids": pack.position_ids if len(pack.position_ids) > 1 else pack.position_ids[0],
        }
        if mask is None or contexts is None:
            outputs = model(shift_labels=pack.shift_labels, fused_lm_head=True, **inputs)
            log_probs.append(pack.scatter(outputs.log_probs, completion_ids.shape))
            if outputs.entropy is not None:
                entropies.append(pack.scatter(outputs.entropy, completion_ids.shape))
        else:
            columns = (pack.shift_labels != -100).any(dim=0).nonzero()[:, 0]
            labels = pack.shift_labels[:, columns]
            logits = model(logits_to_keep=columns, use_cache=False, **inputs).logits[labels != -100]
            before = contexts[pack.source_row, pack.source_column]
            each, entropy = masked_scores(logits / temperature, labels[labels != -100], before, mask=mask)
            log_probs.append(pack.place(each, completion_ids.shape))
            entropies.append(pack.place(entropy, completion_ids.shape))
    # Every answer is in one call, and 0 in all others.
    return sum_of(log_probs), sum_of(entropies) if entropies else None


def masked_scores(
    logits: torch.Tensor, labels: torch.Tensor, contexts: torch.Tensor, *, mask: CodeMask
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each label, and the entropy, among the tokens that may follow.

    Args:
        logits: Logits of the next token, divided by the temperature, `[m, V]`.
        labels: The next token, `[m]`.
        contexts: Ids before it, as many as the mask looks at, `[m, w]`.
        mask: The mask of the value tokens.

    Raises:
        ValueError: If a label may not follow: the answer was not sampled under the mask.
    """
    scores = mask.log_softmax(contexts, logits.float())
    each = scores.gather(1, labels[:, None])[:, 0]
    if torch.isinf(each).any():
        first = int(torch.isinf(each).nonzero()[0])
        raise ValueError(
            f"Token {int(labels[first])} after {contexts[first].tolist()} is no legal value token; with value_tokens, "
            "answers and references want legal codes."
        )
    entropy = -(scores.exp() * scores.masked_fill(torch.isinf(scores), 0.0)).sum(dim=1)
    return each, entropy.detach()


def sum_of(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sum of tensors of one shape; the tensor itself if there is one."""
    return tensors[0] if len(tensors) == 1 else torch.stack(list(tensors)).sum(dim=0)
