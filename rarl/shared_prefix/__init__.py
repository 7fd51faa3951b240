"""Encode each prompt once: one row for a prompt and all answers to it.

A group of G answers shares its prompt. Where plain GRPO lays out G rows of prompt and answer, here one row holds
`prompt[:-1]` and then, for each answer, `[prompt[-1], *answer[:-1]]`. The mask is causal, and a token of an answer sees
the prompt and its own answer only; the position ids of every answer go on from the prompt. Log-probabilities and
gradients are those of the plain layout, up to rounding; the work is `P + G·R` tokens instead of `G·(P + R)`, and the
vision tower runs once a prompt.

Grouping, layout and planning are pure functions of tensors, and nothing here knows a trainer, so any that samples
groups can use it; see `docs/shared_prefix.md`.
"""

from rarl.shared_prefix.calls import attention_cost, cut_groups, plan_calls, split_calls
from rarl.shared_prefix.groups import (
    find_groups,
    join_images,
    same_prompts,
    share_images,
    shuffled_groups,
    split_images,
)
from rarl.shared_prefix.image_memo import images_processed_once
from rarl.shared_prefix.layout import Group, Pack, additive_mask, pack_groups, prompt_positions
from rarl.shared_prefix.rollout import sample_answers, unsupported_settings
from rarl.shared_prefix.scoring import answer_log_probs
from rarl.shared_prefix.support import MODEL_TYPES, innermost, unsupported, unsupported_model

__all__ = [
    "MODEL_TYPES",
    "Group",
    "Pack",
    "additive_mask",
    "answer_log_probs",
    "attention_cost",
    "cut_groups",
    "find_groups",
    "images_processed_once",
    "innermost",
    "join_images",
    "pack_groups",
    "plan_calls",
    "prompt_positions",
    "same_prompts",
    "sample_answers",
    "share_images",
    "shuffled_groups",
    "split_calls",
    "split_images",
    "unsupported",
    "unsupported_model",
    "unsupported_settings",
]
