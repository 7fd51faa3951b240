"""Expected rewards of numbers under the model's own distribution, instead of those of the numbers that were sampled.

Where an answer states a number, the model has a probability for each number that it might have stated; with what each
would be worth there ([`gains`][rarl.credit.Worth.gains]) that gives the expected gain, which is differentiated
directly. The sampled number then decides only what comes after it. A group whose answers all earn the same still
teaches, since the other numbers were not as good. Reference: regression-aware reinforcement learning (REAL,
arXiv:2603.17145), which does it for one digit of text.

The distribution is that over the legal numbers, see [`rarl.number_trie`][rarl.number_trie]: given that the number is
legal. How the chance of that moves the expectation is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rarl.credit import CreditedAnswer, Worth
from rarl.number_trie import NumberTrie
from rarl.shared_prefix.branches import MAX_TOKENS, TokenTree
from rarl.task import OrdinalTask


@dataclass(frozen=True)
class ExactAnswer(CreditedAnswer):
    """A [`CreditedAnswer`][rarl.credit.CreditedAnswer] whose tokens of legal numbers are credited with what comes after
    them only.

    Attributes:
        places: First token of each legal number, `[l]`.
        gains: What each legal number would be worth in its place, `[l, K]`.
    """

    places: np.ndarray
    gains: np.ndarray


@dataclass(frozen=True)
class ExpectedNumbers:
    """The numbers of a task, and where a model's logits say how likely each is.

    Attributes:
        task: The task.
        trie: Its legal numbers.
        tree: Their prefixes as tokens behind a place in an answer.
        nodes: Node of the tree of each branching prefix of the trie, `[M]`.
    """

    task: OrdinalTask
    trie: NumberTrie
    tree: TokenTree
    nodes: tuple[int, ...]

    @classmethod
    def of(cls, processor: Any, task: OrdinalTask) -> "ExpectedNumbers":
        """Those of a task.

        Raises:
            ValueError: If the tokenizer writes numbers otherwise in other places (see
                [`NumberTrie.of`][rarl.number_trie.NumberTrie.of]), or there are too many prefixes of numbers.
        """
        trie = NumberTrie.of(processor, task)
        tree, nodes = TokenTree.of(trie.prefixes)
        if len(tree.tokens) > MAX_TOKENS:
            raise ValueError(
                f"credit='exact': a number of task {task.name!r} would have {len(tree.tokens)} tokens behind it, for "
                f"{len(trie.numbers)} legal numbers; wanted at most {MAX_TOKENS}. Use credit='item'."
            )
        return cls(task, trie, tree, tuple(nodes))

    def take_over(self, answer: CreditedAnswer, ids: Sequence[int], worth: Worth, task: OrdinalTask) -> ExactAnswer:
        """The same answer, its legal numbers left to the expectation.

        Args:
            answer: The answer.
            ids: Its token ids.
            worth: What numbers are worth in it.
            task: Its task.

        Raises:
            ValueError: If it is of another task: the legal numbers would be others.
        """
        if task != self.task:
            raise ValueError(f"credit='exact' wants rows of one task, got {self.task.name!r} and {task.name!r}.")
        # A number may begin with a token of the blank before it, so its first digit lies somewhere within.
        legal = {place: stated.start for stated in self.trie.find(ids) for place in range(stated.start, stated.end)}
        numbers, stages = self.trie.numbers.numpy(), answer.stages.copy()
        places, gains = [], []
        for place, (each, digit) in enumerate(zip(answer.statements, answer.starts.tolist(), strict=True)):
            if digit not in legal:
                continue
            start = legal[digit]
            # Up to the token after it, which decides that it ends.
            stages[start:][answer.stages[start:] == place] = place + 1
            places.append(start)
            gains.append(worth.gains(answer.statements[:place], each.image, numbers, listed=each.listed))
        fields = {**answer.__dict__, "stages": stages}
        return ExactAnswer(
            **fields, places=np.array(places, dtype=np.int64), gains=np.reshape(gains, (-1, len(numbers)))
        )

    def table(self, answers: Sequence[ExactAnswer], scales: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Places `[b, s]` (-1 where an answer has fewer) and gains over the scale of each answer `[b, s, K]`."""
        width = max([1, *(len(answer.places) for answer in answers)])
        places = torch.full((len(answers), width), -1)
        gains = torch.zeros(len(answers), width, len(self.trie.numbers))
        for row, answer in enumerate(answers):
            places[row, : len(answer.places)] = torch.from_numpy(answer.places)
            gains[row, : len(answer.places)] = torch.from_numpy(answer.gains / scales[row])
        return places, gains

    def rewards(self, logits: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
        """Expected gain of each number, `[p]`.

        Args:
            logits: Logits after each node of the tree, over the temperature, `[p, 1 + m, V]`.
            gains: What each legal number would be worth, `[p, K]`.
        """
        return (self.trie.log_probs(logits[:, list(self.nodes)]).exp() * gains).sum(dim=1)
