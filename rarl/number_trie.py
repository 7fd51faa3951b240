"""The legal numbers of a task as token sequences in a trie: a model's next-token logits become its exact distribution
over the numbers.

A number is written token by token, so its probability is a product along its path: at each prefix the model chooses
among the tokens that go on to a legal number and the end of the number. Those few choices are renormalised, and nothing
is sampled. This is what regression-aware inference and fine-tuning want of a model that writes digits
(arXiv:2403.04182).

How a number goes on is read off token texts. A token goes on with a number if its text begins with an ASCII digit, is a
point, or a point and digits only, or if some legal number goes on with it. Any other token (a comma, a bracket, ". So",
the end of the turn, an id that the tokenizer does not know) ends the number. Tokens that stand for single bytes of
digits (`<0x37>` of SentencePiece) count as ends; models do not write them.

Where a task has words, one of them stands before each number of a reasoning. They have a trie of their own, so that a
number's probability can be that behind any of them.

A number in value tokens is a whole code, tags included: nothing goes on with it. Legal are then the numbers that a code
says exactly.
"""

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gor_head.numbers import read_number, write_number
from gor_head.text import codes_to_numbers
from gor_head.vlm.tokens import ValueTokens
from gor_head.vocabulary import EOS, FIRST_VALUE, CoDiVocabulary
from rarl.answer_format import before_number
from rarl.prompt import build_completion
from rarl.task import OrdinalTask

MAX_NUMBERS = 20_000
"""More legal numbers than this are refused: each of their prefixes would want a model's logits."""

END = 0
"""Column of the end of a number among the continuations of a node."""

_GOES_ON = re.compile(r"[0-9]|\.[0-9]*\Z")


class Stated(NamedTuple):
    """A legal number that an answer states of an image.

    Attributes:
        image_id: The number of the image in the prompt, counted from 1.
        number: Which of the legal numbers it is, an index.
        start: Position of its first token in the answer.
        end: Position after its last token.
        place: Where it stands.
    """

    image_id: int
    number: int
    start: int
    end: int
    place: Literal["reasoning", "list"]


def legal_numbers(task: OrdinalTask, resolution: float | None = None) -> list[float]:
    """The numbers that an answer to a task may have, ascending: the multiples of `resolution` in its range.

    Args:
        task: Gives the range, and whether numbers are whole.
        resolution: Distance of two neighbours; 1 for integer tasks, else 0.01, if not given.

    Raises:
        ValueError: If the resolution is not positive and finite, or is a fraction for an integer task; if there are
            fewer than two numbers or too many.
    """
    step = resolution if resolution is not None else 1.0 if task.integer else 0.01
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"resolution: wanted a positive number, got {step}.")
    if task.integer and not float(step).is_integer():
        raise ValueError(f"resolution: task {task.name!r} wants whole numbers, got {write_number(step)}.")
    # Decimal digits as they are written: 57 steps of 0.01 are 0.57, which 57 * 0.01 is not.
    exact = Fraction(str(step))
    first = math.ceil(Fraction(str(task.minimum)) / exact)
    last = math.floor(Fraction(str(task.maximum)) / exact)
    if not 1 <= last - first < MAX_NUMBERS:
        raise ValueError(
            f"resolution: task {task.name!r} has {max(last - first + 1, 0)} multiples of {write_number(step)} from "
            f"{write_number(task.minimum)} to {write_number(task.maximum)}; wanted 2 to {MAX_NUMBERS}."
        )
    return [float(number * exact) for number in range(first, last + 1)]


def token_texts(tokenizer: Any) -> list[str]:
    """The text of each id, blanks as blanks; bytes that are no ASCII stay as the tokenizer writes them."""
    size = max(len(tokenizer), *(number + 1 for number in tokenizer.get_vocab().values()))
    tokens = tokenizer.convert_ids_to_tokens(range(size))
    marks = str.maketrans({"\u0120": " ", "\u2581": " ", "\u010a": "\n"})  # of byte-level BPE, of SentencePiece
    return [(token or "").translate(marks) for token in tokens]


def _sightings(tokenizer: Any, task: OrdinalTask, value: float) -> list[tuple[str, list[int], int, int]]:
    """Every place of a number in perfect answers, alone, before and after another number: the answer, its ids, and the
    positions of the number's first token and after its last."""
    other = task.minimum if value != task.minimum else task.maximum
    written = task.format_value(value)
    found = []
    for image_id, values in ((1, [value]), (1, [value, other]), (2, [other, value])):
        text = build_completion(values, task)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        for match in re.finditer(before_number(task.words), text):
            if int(match[1] or match[2]) == image_id:
                start = match.end() + 1  # after the blank
                stop = start + len(written)
                inside = [
                    place for place, (low, high) in enumerate(encoded["offset_mapping"]) if high > start and low < stop
                ]
                found.append((text, encoded["input_ids"], inside[0], inside[-1] + 1))
    return found


def _number_tokens(
    tokenizer: Any, task: OrdinalTask, numbers: Sequence[float], texts: Sequence[str]
) -> tuple[list[tuple[int, ...]], bool]:
    """Tokens of each number, and whether they begin with the blank before it.

    Raises:
        ValueError: If a token reaches over an end of a number, or a number has other tokens elsewhere.
    """
    seen = [_sightings(tokenizer, task, number) for number in numbers]

    def begins_with_blank(ids: list[int], start: int) -> bool:
        return texts[ids[start]].startswith(" ")

    with_blank = any(begins_with_blank(ids, start) for places in seen for _, ids, start, _ in places)
    tokens = []
    for number, places in zip(numbers, seen, strict=True):
        wanted = " " * with_blank + task.format_value(number)
        spellings = set()
        for text, ids, start, stop in places:
            # "-3" may begin with the blank where "3" does not: then the blank is the first token of "3".
            start -= with_blank and not begins_with_blank(ids, start)
            spelling = tuple(ids[start:stop])
            spellings.add(spelling)
            if "".join(texts[token] for token in spelling) != wanted or len(spellings) > 1:
                shown = tokenizer.convert_ids_to_tokens(ids)
                raise ValueError(
                    f"tokenizer: wanted the same tokens of {task.format_value(number)!r} whatever stands beside it, "
                    f"but {text!r} has the tokens {shown}, and those of the number are {shown[start:stop]}."
                )
        tokens.append(spellings.pop())
    return tokens, with_blank


def _word_tokens(
    tokenizer: Any,
    task: OrdinalTask,
    numbers: Sequence[float],
    tokens: Sequence[tuple[int, ...]],
    texts: Sequence[str],
) -> dict[str, tuple[int, ...]]:
    """Tokens of each word that some number has: all between `Image 1:`, or the blank behind it where that is part of
    the token before, and the first token of the number.

    Raises:
        ValueError: If a token reaches over an end of a word, or a word has other tokens elsewhere.
    """
    found: dict[str, tuple[int, ...]] = {}
    for number, path in zip(numbers, tokens, strict=True):
        word = task.word(number)
        if word in found:
            continue
        spellings = set()
        for values in ([number], [number, task.minimum], [task.maximum, number]):
            text = build_completion(values, task)
            encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            ids = encoded["input_ids"]
            colon = text.index(f" {len(values) if values[-1] == number else 1}:") + 3
            begin = next(place for place, (low, _) in enumerate(encoded["offset_mapping"]) if low >= colon)
            ends = [place for place in range(begin, len(ids)) if tuple(ids[place : place + len(path)]) == path]
            spellings.add(tuple(ids[begin : ends[0]]) if ends else ())
        [spelling, *others] = spellings
        said = "".join(texts[token] for token in spelling).strip(" ")
        if others or not said or (said != word and word.isascii()):
            shown = tokenizer.convert_ids_to_tokens(ids)
            raise ValueError(
                f"tokenizer: wanted the same tokens of {word!r} whatever stands beside it, but {text!r} has the tokens "
                f"{shown}."
            )
        found[word] = spelling
    return found


def coded_numbers(task: OrdinalTask, resolution: float | None = None) -> list[float]:
    """The numbers in the range of a task that a code of its vocabulary says exactly, ascending.

    Args:
        task: A task that writes value tokens.
        resolution: Only multiples of this; all numbers if not given.

    Raises:
        ValueError: If there are fewer than two, or too many.
    """
    codes = task.codi_vocabulary
    if resolution is not None:
        values = np.array(legal_numbers(task, resolution))
    elif codes.tagless:
        values = np.array([0.0, *codes.values[FIRST_VALUE:]])
    else:
        first, last = (int(end) for end in codes.grid.units(np.array([task.minimum, task.maximum])))
        if last - first >= MAX_NUMBERS:
            raise ValueError(
                f"vocabulary: task {task.name!r} has {last - first + 1} multiples of its resolution "
                f"{write_number(codes.grid.resolution)}; wanted at most {MAX_NUMBERS}."
            )
        values = codes.grid.values(np.arange(first, last + 1))
    values = values[(values >= task.minimum) & (values <= task.maximum)]
    exact = values[codes.decode(codes.encode(values)) == values] if len(values) else values
    if len(exact) < 2:
        raise ValueError(
            f"vocabulary: wanted codes of at least 2 numbers of task {task.name!r}"
            f"{'' if resolution is None else f' that are multiples of {write_number(resolution)}'}, got {len(exact)}."
        )
    return [float(value) for value in exact]


def code_tokens(tokenizer: Any, codes: CoDiVocabulary, numbers: Sequence[float]) -> list[tuple[int, ...]]:
    """Token ids of the codes of numbers, tags included.

    Raises:
        ValueError: If the tokenizer lacks the value tokens.
    """
    tokens = ValueTokens.of(tokenizer, codes)
    of_model = dict(enumerate(tokens.columns, start=EOS))
    found = []
    for number in numbers:
        code = [of_model[token] for token in codes.encode(number)]
        if tokens.open_id is None:
            found.append(tuple(code[:-1] or code))  # 0 is the end, others come without
        else:
            found.append((tokens.open_id, *code))
    return found


class NumberTrie:
    """The legal numbers of a task, as a tokenizer writes them in answers; [`of`][rarl.number_trie.NumberTrie.of] makes
    it.

    A node is a prefix of numbers. What may follow it are its continuations: the end of the number, or a token. Only
    nodes with more than one need a model's logits; these are the branching ones.

    Attributes:
        numbers: The numbers, ascending, float64 `[K]`.
        written: Their texts.
        tokens: Their token ids.
        with_blank: Whether these begin with the blank that stands before a number in an answer, as in " 7". If so, a
            number begins right after `Image 1:` and `"value":`; else after the blank.
        nodes: All prefixes of numbers, whole numbers among them; node 0 is `()`, where a number begins.
        branching: Indices of the M nodes with more than one continuation, ascending.
        goes_on: Whether a token goes on with a number that has begun, bool `[V]`, V the ids that the tokenizer knows.
        openings: Token ids of the word of each number, with all between `Image 1:` and the number; empty without words.
        word_trie: The words that the numbers have, in a trie of their own, where `with_blank` says whether these begin
            with the blank before them; None without words.

    Args:
        numbers: The numbers, ascending.
        written: Their texts.
        tokens: Their token ids, all different.
        texts: Text of each token of the tokenizer.
        with_blank: Whether `tokens` begin with the blank before the number.
        whole: Whether nothing can go on with a number, as its last token ends it.
        openings: Token ids of the word of each number, if one stands before it in a reasoning.
    """

    def __init__(
        self,
        numbers: Sequence[float],
        written: Sequence[str],
        tokens: Sequence[tuple[int, ...]],
        texts: Sequence[str],
        *,
        with_blank: bool,
        whole: bool = False,
        openings: Sequence[tuple[int, ...]] = (),
    ) -> None:
        self.numbers = torch.tensor(numbers, dtype=torch.float64)
        self.written, self.tokens, self.with_blank = list(written), list(tokens), with_blank
        self.openings, self._texts = list(openings), texts
        self.word_trie: NumberTrie | None = None
        # As the tokens have them, where words are no ASCII.
        spelt = {path: "".join(texts[token] for token in path) for path in self.openings}
        self._stated = re.compile(before_number([word.strip(" ") for word in spelt.values()]))
        if spelt:
            [blank, *others] = {word.startswith(" ") for word in spelt.values()}
            if others:
                raise ValueError(
                    f"tokenizer: wanted the blank before all words in the same token, got {', '.join(spelt.values())}."
                )
            self.word_trie = NumberTrie(range(len(spelt)), list(spelt.values()), list(spelt), texts, with_blank=blank)
        self._number_of = {path: index for index, path in enumerate(self.tokens)}
        continuations: dict[tuple[int, ...], list[int]] = {}
        for path in self.tokens:
            for length in range(len(path) + 1):
                known = continuations.setdefault(path[:length], [])
                if length < len(path) and path[length] not in known:
                    known.append(path[length])
        self.nodes = sorted(continuations, key=lambda prefix: (len(prefix), prefix))
        self._continuations = continuations
        self.goes_on = torch.tensor([not whole and bool(_GOES_ON.match(text)) for text in texts])
        inner = [token for node, following in continuations.items() if node for token in following]
        self.goes_on[inner] = True
        ends = {node: node in self._number_of for node in self.nodes}
        self.branching = [index for index, node in enumerate(self.nodes) if len(continuations[node]) + ends[node] > 1]
        prefixes = self.prefixes
        width = 1 + max((len(continuations[prefix]) for prefix in prefixes), default=0)
        # Column 0 is the end, the others are tokens; `-1` where there is no such continuation.
        self._choices = torch.full((len(prefixes), width), -1)
        for row, prefix in enumerate(prefixes):
            self._choices[row, 1 : 1 + len(continuations[prefix])] = torch.tensor(continuations[prefix])
        self._legal = self._choices >= 0
        self._legal[:, END] = torch.tensor([ends[prefix] for prefix in prefixes])
        self._paths = self._make_paths(width)

    @classmethod
    def of(cls, tokenizer: Any, task: OrdinalTask, resolution: float | None = None) -> "NumberTrie":
        """The trie of a task's legal numbers.

        Args:
            tokenizer: A fast tokenizer, or a processor that has one.
            task: The task; numbers are written by [`format_value`][rarl.task.OrdinalTask.format_value].
            resolution: Distance of two neighbours; if not given that of the vocabulary, or in digits 1 for integer
                tasks, else 0.01.

        Raises:
            ValueError: If there is no such set of numbers, see [`legal_numbers`][rarl.number_trie.legal_numbers] and
                [`coded_numbers`][rarl.number_trie.coded_numbers]; if the tokens of a number are not the same whatever
                stands beside it; or if the tokenizer lacks the value tokens.
        """
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        if not tokenizer.is_fast:
            raise ValueError(f"tokenizer: wanted a fast one, which knows where tokens lie, got {type(tokenizer)}.")
        texts = token_texts(tokenizer)
        if task.vocabulary is not None:
            codes = task.codi_vocabulary
            numbers = coded_numbers(task, resolution)
            paths = code_tokens(tokenizer, codes, numbers)
            # A code takes the blank before it along, but for those of early adapters.
            first = task.format_value(numbers[0])
            alone, behind = tokenizer([first, f" {first}"], add_special_tokens=False)["input_ids"]
            with_blank = len(alone) == len(behind)
        else:
            numbers = legal_numbers(task, resolution)
            paths, with_blank = _number_tokens(tokenizer, task, numbers, texts)
        written = [task.format_value(number) for number in numbers]
        said = _word_tokens(tokenizer, task, numbers, paths, texts) if task.words else {}
        return cls(
            numbers,
            written,
            paths,
            texts,
            with_blank=with_blank,
            whole=task.vocabulary is not None,
            openings=[said[task.word(number)] for number in numbers] if said else (),
        )

    @property
    def prefixes(self) -> list[tuple[int, ...]]:
        """The M prefixes after which a model's logits are wanted, in the order of `branching`."""
        return [self.nodes[index] for index in self.branching]

    def _make_paths(self, width: int) -> Tensor:
        """For each number the choices that it takes, `[K, L]`: places in the flat table of branching nodes and their
        continuations, and one place more for no choice."""
        row_of = {prefix: row for row, prefix in enumerate(self.prefixes)}
        column_of = {
            prefix: {token: column for column, token in enumerate(self._continuations[prefix], start=1)}
            for prefix in row_of
        }
        none = len(row_of) * width
        paths = []
        for path in self.tokens:
            steps = []
            for length in range(len(path) + 1):
                prefix = path[:length]
                if prefix in row_of:
                    column = column_of[prefix][path[length]] if length < len(path) else END
                    steps.append(row_of[prefix] * width + column)
            paths.append(steps)
        longest = max(map(len, paths), default=0)
        return torch.tensor([steps + [none] * (longest - len(steps)) for steps in paths])

    def log_probs(self, logits: Tensor) -> Tensor:
        """Log-probabilities of the numbers, from a model's logits after each of `prefixes`.

        At each node the probabilities of its continuations are renormalised, that of the end being the sum over all
        tokens that do not go on with a number; so those of the numbers add up to 1. Differentiable. Logits are to be
        divided by the temperature, if any, by the caller.

        Args:
            logits: Logits of the next token, `[..., M, V]`; V may be more than the ids that the tokenizer knows.

        Returns:
            Log-probabilities `[..., K]`, float32 or wider.

        Raises:
            ValueError: If the shape is another.
        """
        size = logits.shape[-1] if logits.ndim else 0
        if logits.ndim < 2 or logits.shape[-2] != len(self.branching) or size <= int(self._choices.max()):
            raise ValueError(
                f"logits: wanted [..., {len(self.branching)}, V] with V above {int(self._choices.max())}, got "
                f"{list(logits.shape)}."
            )
        device = logits.device
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        goes_on = torch.zeros(size, dtype=torch.bool, device=device)
        known = min(size, len(self.goes_on))
        goes_on[:known] = self.goes_on[:known].to(device)
        end = logits.masked_fill(goes_on, -torch.inf).logsumexp(dim=-1, keepdim=True)
        places = self._choices[:, 1:].clamp(min=0).to(device)
        following = logits.gather(-1, places.expand(*logits.shape[:-1], -1))
        choices = torch.cat([end, following], dim=-1).masked_fill(~self._legal.to(device), -torch.inf)
        table = choices.log_softmax(dim=-1).flatten(-2)
        table = torch.cat([table, table.new_zeros(*table.shape[:-1], 1)], dim=-1)
        return table[..., self._paths.to(device)].sum(dim=-1)

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids as [`find`][rarl.number_trie.NumberTrie.find] reads it: exact where it is ASCII."""
        return "".join(self._texts[token] if token < len(self._texts) else "" for token in ids)

    def find(self, ids: Sequence[int]) -> list[Stated]:
        """The legal numbers that an answer states of images, in the order in which they stand.

        A number stands after `Image 1: ` (in the reasoning; if the task has words, one of them stands between) or
        `"image_id": 1, "value": ` (in the list). What stands there and is no legal number in its usual tokens is left
        out. The time is linear in the number of ids.

        Args:
            ids: Token ids of the answer, `[t]`.
        """
        position_at, length = {}, 0
        pieces = []
        for position, token in enumerate(ids):
            piece = self.text([token])
            if piece:
                position_at[length] = position
            pieces.append(piece)
            length += len(piece)
        text = "".join(pieces)
        found = []
        for match in self._stated.finditer(text):
            begin = match.end()
            if not self.with_blank:
                begin += text[begin : begin + 1] == " "
            start = position_at.get(begin)
            number = None if start is None else self._number_at(ids, start)
            if start is not None and number is not None:
                stop = start + len(self.tokens[number])
                place: Literal["reasoning", "list"] = "reasoning" if match[1] else "list"
                found.append(Stated(int(match[1] or match[2]), number, start, stop, place))
        return found

    def check_labels(self, labels: Sequence[float], task: OrdinalTask) -> None:
        """Refuse labels whose answers would state a number that is none of these.

        Args:
            labels: True values.
            task: Says how they are written.

        Raises:
            ValueError: Says how many there are, and the first of them.
        """
        legal = set(self.numbers.tolist())
        stated = {label: read_number(codes_to_numbers(task.format_value(label))) for label in set(labels)}
        unknown = sorted(label for label, number in stated.items() if number not in legal)
        if unknown:
            raise ValueError(
                f"labels: {len(unknown)} of {len(stated)} different ones are none of the {len(legal)} legal numbers of "
                f"task {task.name!r} ({self.written[0]}, {self.written[1]} … {self.written[-1]}), such as {unknown[0]}."
            )

    def _number_at(self, ids: Sequence[int], start: int) -> int | None:
        """Which number begins at a position; `None` if what begins there is none, or goes on beyond it."""
        stop = start
        while stop < len(ids) and (*ids[start:stop], ids[stop]) in self._continuations:
            stop += 1
        if stop < len(ids) and ids[stop] < len(self.goes_on) and self.goes_on[ids[stop]]:
            return None
        return self._number_of.get(tuple(ids[start:stop]))
