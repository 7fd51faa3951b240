"""Only legal codes between `<gor>` and `</gor>`: a mask that is a pure function of the ids so far.

Outside the tags value tokens and `</gor>` are barred, all else is free. Inside, only value tokens that may follow the
begun code are allowed, and `</gor>`, which is its end; after `max_length` value tokens only that. Where every number is
a token of its own (a tagless vocabulary), every token may stand anywhere, and nothing is barred.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import LogitsProcessor

from gor_head.decoding.quantile import descend
from gor_head.intervals import UNBOUNDED, Intervals, Prefixes
from gor_head.vlm.tokens import ValueTokens
from gor_head.vocabulary import EOS, FIRST_VALUE, PAD


class CodeMask:
    """Which of the tokens of a vocabulary may come next.

    Args:
        tokens: Value tokens of the model.
        size: Width of the model's logits.
        device: Where ids and logits are.
    """

    def __init__(self, tokens: ValueTokens, size: int, device: torch.device | str = "cpu") -> None:
        highest = max(tokens.all_ids)
        if highest >= size:
            raise ValueError(f"model: {size} logits, but value tokens have ids up to {highest}; attach them first.")
        self.intervals = Intervals.of(tokens.vocabulary, device)
        self.tagless = tokens.open_id is None
        self.open_id = -1 if tokens.open_id is None else tokens.open_id
        self.code_ids = tokens.code_ids(size, device)
        self.columns = torch.tensor(tokens.columns, device=device)
        """Ids of the model for EOS and the value tokens, in the order of the vocabulary."""

    def __call__(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """What may follow.

        Args:
            ids: Ids so far, prompt included, `[n, t]`.

        Returns:
            Whether each row is inside a code, bool `[n]`; and which of `columns` are allowed, bool `[n, 1 + V]`.
        """
        if self.tagless:
            return ids.new_zeros(len(ids), dtype=torch.bool), ids.new_ones(
                len(ids), len(self.columns), dtype=torch.bool
            )
        inside, state = self.state(ids)
        legal = self.intervals.legal_tokens(state)[:, EOS:]
        return inside, legal & inside[:, None]

    def state(self, ids: Tensor) -> tuple[Tensor, Prefixes]:
        """Whether each row is inside a code, and the code's state.

        An open code of more than `max_length` tokens is one that was not written under this mask; it may only close.
        """
        if not ids.shape[1]:
            ids = self.columns[:1].expand(len(ids), 1)  # nothing yet is as good as a code that has ended
        # No begun code reaches further back.
        window = ids[:, -(self.intervals.max_length + 1) :]
        code = self.code_ids[window]
        opened = window == self.open_id
        # From the end, each place: how many `<gor>` have been seen, and how many tokens that are no values.
        after = opened.flip(1).cumsum(1).flip(1) == 0
        value = code >= FIRST_VALUE
        in_code = after & value
        broken = (after & ~value).any(dim=1)
        inside = opened.any(dim=1) & ~broken
        code = torch.where(in_code, code, PAD)
        # The recursion B' = min(B, above) − token of `Intervals.advance`, as a minimum over suffix sums.
        values = self.intervals.tokens[code]
        suffix = values.flip(1).cumsum(1).flip(1)
        above = torch.where(in_code, self.intervals.above[code], UNBOUNDED)
        width = (above - suffix).min(dim=1).values.clamp(min=0)
        length = in_code.sum(dim=1)
        width = torch.where(length > 0, width, UNBOUNDED)
        no = torch.zeros_like(inside)
        return inside, Prefixes(values.sum(dim=1), width, length, no, ~no)

    def apply(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `[n, size]` with −inf for what may not follow, changed in place: a copy of a large vocabulary's scores
        takes several times as long as the mask. (`generate` with `output_logits` then returns masked logits.)"""
        inside, allowed = self(ids)
        value_scores = scores[:, self.columns].masked_fill(~allowed, -torch.inf)
        scores[inside] = -torch.inf
        scores[:, self.columns] = value_scores
        return scores

    def log_softmax(self, ids: Tensor, logits: Tensor) -> Tensor:
        """Log-probabilities `[n, size]` of what may follow, −inf elsewhere; `logits` stay as they are."""
        inside, allowed = self(ids)
        barred = inside[:, None].repeat(1, logits.shape[1])
        barred[:, self.columns] = ~allowed
        return logits.masked_fill(barred, -torch.inf).log_softmax(dim=1)

    def contexts(self, ids: Tensor, length: int) -> Tensor:
        """As many ids before each of the last `length` tokens as the mask looks at, `[n, length, w]`.

        Args:
            ids: Token ids, `[n, t]`, t at least `length` + 1.
        """
        width = self.intervals.max_length + 1
        end = self.columns[0].expand(len(ids), width)  # before the first token: a code that has ended
        return torch.cat([end, ids], dim=1).unfold(1, width, 1)[:, -length - 1 : -1]


class ValueTokenLogits(LogitsProcessor):
    """[`CodeMask`][gor_head.vlm.logits.CodeMask] as a logits processor of transformers' `generate`: greedy, sampling,
    beams.

    Args:
        tokens: Value tokens of the model.
    """

    def __init__(self, tokens: ValueTokens) -> None:
        self.tokens = tokens
        self._mask: CodeMask | None = None

    def mask(self, scores: Tensor) -> CodeMask:
        """The mask for scores of this width and device."""
        mask, size = self._mask, scores.shape[1]
        if mask is None or mask.columns.device != scores.device or len(mask.code_ids) != size:
            mask = self._mask = CodeMask(self.tokens, size, scores.device)
        return mask

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        """Ids `[n, t]` and scores `[n, size]` → the same scores, masked in place."""
        return self.mask(scores).apply(input_ids, scores)


class QuantileLogits(ValueTokenLogits):
    """Every number that greedy decoding writes becomes an exact quantile of the model's distribution at its place.

    Inside a code the token is the one whose part of the interval holds the level, as in
    [`gor_head.decoding.quantile`][gor_head.decoding.quantile]; outside, nothing but the mask. A number without tags
    stands where numbers together are likelier than any other token, and the distribution is that over numbers. Not for
    beams or sampling: the level left over is kept row by row between the steps of one `generate`; make a new one for
    each call.

    Args:
        tokens: Value tokens of the model.
        level: Level of the quantile in 0..1; 0.5 is the median.
        number: Which number of a row's text has this level, from 0; the others are medians. None: all of them.
    """

    def __init__(self, tokens: ValueTokens, level: float = 0.5, number: int | None = None) -> None:
        super().__init__(tokens)
        if not 0 <= level <= 1:
            raise ValueError(f"level: wanted a number from 0 to 1, got {level}.")
        self.level, self.number = level, number
        self._left: Tensor | None = None
        self._written: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        """Ids `[n, t]` and scores `[n, size]` → scores with one token left inside codes."""
        mask = self.mask(scores)
        if mask.tagless:
            masked = scores
            others = scores.index_fill(1, mask.columns, -torch.inf).max(dim=1).values
            begun = inside = scores[:, mask.columns].float().logsumexp(dim=1) > others
        else:
            inside, _ = mask(input_ids)
            masked = mask.apply(input_ids, scores)
            begun = inside & (input_ids[:, -1:] == mask.open_id).any(dim=1)  # `inputs_embeds=...` begins without
        if self._left is None or self._written is None:
            self._left = torch.full((len(scores),), 0.5, dtype=torch.float64, device=scores.device)
            self._written = torch.full((len(scores),), -1, device=scores.device)
        self._written += begun
        at_level = torch.ones_like(begun) if self.number is None else self._written == self.number
        left = torch.where(begun, torch.where(at_level, self.level, 0.5), self._left)
        # A row outside a code is given any distribution: what comes of it is not used.
        among = masked[:, mask.columns].masked_fill(~inside[:, None], 0.0)
        token, rest = descend(among.double().softmax(dim=1), left)
        self._left = torch.where(inside, rest, left)
        chosen = torch.full_like(masked, -torch.inf).scatter(1, mask.columns[token][:, None], 0.0)
        return torch.where(inside[:, None], chosen, masked)


def vllm_logits_processor(tokens: ValueTokens) -> Callable[[list[int], Tensor], Tensor]:
    """[`CodeMask`][gor_head.vlm.logits.CodeMask] in the shape that vLLM's per-request logits processors have: (ids so
    far, logits `[size]`) → logits.

    The ids are those generated so far, without the prompt.
    """
    processor = ValueTokenLogits(tokens)

    def process(generated: list[int], logits: Tensor) -> Tensor:
        ids = torch.tensor([generated], dtype=torch.int64, device=logits.device)
        return processor(ids, logits[None])[0]

    return process
