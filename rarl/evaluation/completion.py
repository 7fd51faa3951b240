"""What a language model knows of texts without being asked for a number: which of two words it goes on with.

A text is put into a sentence, such as `Review: "…" Sentiment:`, and the model's log-probability of one word behind it
is compared with that of another. That is a score without a unit; a monotone map to values is fitted on labelled texts.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from sklearn.isotonic import IsotonicRegression

from rarl.inputs import check_length, tokenizer_of
from rarl.prompt import quote


def completion_scores(
    model: Any,
    processor: Any,
    texts: Sequence[str],
    *,
    sentence: str = "Review: {text}\nSentiment:",
    words: tuple[str, str] = (" positive", " negative"),
    batch_size: int = 50,
    progress: bool = True,
) -> np.ndarray:
    """Log-probability of the first word minus that of the second, behind each text, float64 `[n]`.

    Args:
        model: A language model, or one that sees images, too; in evaluation mode.
        processor: Its tokenizer or processor.
        texts: The texts; they are quoted, see [`quote`][rarl.prompt.quote].
        sentence: What the model reads, with `{text}` in it.
        words: The two words, of one token each.
        batch_size: Texts per batch.
        progress: Show a progress bar; only on a terminal.

    Raises:
        ValueError: If a word has several tokens, the sentence has no place for the text, or a text is longer than the
            model's context.
    """
    tokenizer = tokenizer_of(processor)
    if "{text}" not in sentence:
        raise ValueError(f"sentence: wanted one with {{text}}, got {sentence!r}.")
    ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    for word, tokens in zip(words, ids, strict=True):
        if len(tokens) != 1:
            raise ValueError(f"words: wanted words of one token, got {word!r} of {len(tokens)}.")
    context = model.config.get_text_config().max_position_embeddings
    console = Console(stderr=True)
    scores: list[float] = []
    starts = range(0, len(texts), batch_size)
    for start in track(starts, "Reading", console=console, disable=not (progress and console.is_terminal)):
        batch = [sentence.replace("{text}", quote(text)) for text in texts[start : start + batch_size]]
        inputs = tokenizer(batch, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        lengths = inputs["attention_mask"].sum(dim=1).numpy()
        check_length(lengths, lambda row, start=start: f"text {start + row}", context, max_new_tokens=1)  # type: ignore[misc]
        with torch.no_grad():
            logits = model(**inputs.to(model.device), logits_to_keep=1).logits[:, -1].double()
        scores += (logits[:, ids[0][0]] - logits[:, ids[1][0]]).tolist()
    return np.array(scores)


def fitted_values(scores: Any, values: Any, of: Any) -> np.ndarray:
    """Values of scores: isotonic regression fitted on scores whose values are known.

    Args:
        scores: Scores with known values, float `[n]`.
        values: Their values, float `[n]`.
        of: Scores of which values are wanted, float `[m]`.
    """
    found = IsotonicRegression(out_of_bounds="clip").fit(np.asarray(scores), np.asarray(values)).predict(np.asarray(of))
    return np.asarray(found, dtype=np.float64)
