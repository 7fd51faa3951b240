"""Token ids that stand for pixels in a prompt and must never be generated."""

import re
from typing import Any

from rarl.inputs import tokenizer_of

QWEN_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
FIELD = re.compile(r"(\w+_)?(image|video|audio|vision|boi|eoi|boa|eoa)(_\w+)?_token(_ids?|_index)?")
"""Names by which configurations, processors and tokenizers of transformers call such tokens."""
TILE = re.compile(r"<row_\d+_col_\d+>|<global-img>|<fake_token_around_image>")
"""Tokens between the tiles of an image of the Idefics family, which no field lists."""


def _field(owner: Any, name: str) -> Any:
    try:
        return getattr(owner, name, None)
    except Exception:  # a property of a processor that lacks what it reads
        return None


def vision_token_ids(processor: Any, config: Any = None) -> list[int]:
    """Ids of the tokens that stand for images, video and sound, or surround them, ascending; empty if there are none.

    A sampled image token would make the number of image tokens differ from the number of image features, which ends the
    run. Pass the ids as `suppress_tokens` to `generate`.

    The names are those of the model's configuration (`image_token_id`, `boi_token_index` and the like), of the
    processor, and of its tokenizer's special tokens, for any family. Tokens that end or pad a text are never among
    them.

    Args:
        processor: Processor or tokenizer.
        config: Configuration of the model, if it is at hand.
    """
    tokenizer = tokenizer_of(processor)
    vocabulary = tokenizer.get_vocab()
    found: list[Any] = [token for token in vocabulary if token in QWEN_TOKENS or TILE.fullmatch(token)]
    fields = {} if config is None else config.to_dict()
    found += [value for name, value in fields.items() if FIELD.fullmatch(name)]
    found += [value for name, value in tokenizer.special_tokens_map.items() if FIELD.fullmatch(name)]
    found += [_field(processor, name) for name in dir(processor) if FIELD.fullmatch(name)]
    flat = [leaf for value in found for leaf in (value if isinstance(value, (list, tuple)) else [value])]
    ids = {vocabulary.get(leaf) if isinstance(leaf, str) else leaf for leaf in flat}
    plain = {getattr(tokenizer, f"{name}_token_id", None) for name in ("eos", "bos", "pad", "unk")}
    return sorted(token_id for token_id in ids - plain if type(token_id) is int and token_id >= 0)
