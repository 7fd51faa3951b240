"""Token ids that stand for pixels in a prompt and must never be generated."""

from typing import Any

VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")


def vision_token_ids(processor: Any) -> list[int]:
    """Ids of the vision tokens that a processor's (or tokenizer's) vocabulary holds, ascending.

    A sampled image pad would make the number of image tokens differ from the number of image features, which ends the
    run. Pass the ids as `suppress_tokens` to `generate`.

    Raises:
        ValueError: If the vocabulary holds none of them, since such a processor is not one of the Qwen-VL family.
    """
    vocabulary = getattr(processor, "tokenizer", processor).get_vocab()
    ids = sorted(vocabulary[token] for token in VISION_TOKENS if token in vocabulary)
    if not ids:
        raise ValueError(f"The tokenizer knows none of {', '.join(VISION_TOKENS)}; a Qwen-VL processor is wanted.")
    return ids
