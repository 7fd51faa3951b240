"""Logits after words that were not sampled: a small tree of tokens on each of some places in an answer.

A tree says how an answer might have gone on at a place. Its tokens stand at the end of the packed row of their group;
each sees the prompt, its answer up to the place, and the tokens of the tree above it, and has the position that it
would have had there. So all trees of a batch cost one call, and as many tokens as they have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rarl.shared_prefix.groups import Images, join_images
from rarl.shared_prefix.layout import Group, Pack, masks, pack_groups

MAX_TOKENS = 256
"""Tokens of a tree behind each number of each answer beyond which trainers refuse it: memory grows with its square."""


@dataclass(frozen=True)
class TokenTree:
    """How an answer might go on at a place.

    Attributes:
        tokens: Token of each node but the root, parents first, `[m]`.
        parents: Node above each of them, 0 for the root, else 1 + the index of a token, `[m]`.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]

    @classmethod
    def of(cls, prefixes: Sequence[tuple[int, ...]]) -> tuple["TokenTree", list[int]]:
        """The tree of some continuations, and the node of each: 0 for the root, else 1 + the index of a token."""
        found = {prefix[:length] for prefix in prefixes for length in range(1, len(prefix) + 1)}
        whole = sorted(found, key=lambda prefix: (len(prefix), prefix))
        node = {(): 0} | {prefix: place for place, prefix in enumerate(whole, start=1)}
        tree = cls(tuple(prefix[-1] for prefix in whole), tuple(node[prefix[:-1]] for prefix in whole))
        return tree, [node[tuple(prefix)] for prefix in prefixes]

    def ids(self) -> torch.Tensor:
        """Its tokens, `[m]`; there may be none."""
        return torch.tensor(self.tokens, dtype=torch.int64)

    def sees(self) -> torch.Tensor:
        """Which tokens of the tree each of them sees: those above it and itself, bool `[m, m]`."""
        seen = torch.eye(len(self.tokens), dtype=torch.bool)
        for place, parent in enumerate(self.parents):
            if parent:
                seen[place] |= seen[parent - 1]
        return seen

    def depths(self) -> torch.Tensor:
        """1 for tokens right after the place, and so on, `[m]`."""
        return self.sees().sum(dim=1)


@dataclass(frozen=True)
class BranchedPack(Pack):
    """A pack with trees behind its answers.

    Attributes:
        trees_allowed: Which keys each query may attend to, those of the trees included, `[g, l, l]`.
        columns: Where in its row each node of each tree is, root first, `[p, 1 + m]`.
        rows: Row of each tree in the pack, `[p]`.
    """

    trees_allowed: torch.Tensor
    columns: torch.Tensor
    rows: torch.Tensor

    @property
    def allowed(self) -> torch.Tensor:
        return self.trees_allowed


def pack_branches(
    groups: Sequence[Group],
    completion_ids: torch.Tensor,
    completion_mask: torch.Tensor,
    *,
    places: torch.Tensor,
    tree: TokenTree,
) -> BranchedPack:
    """Lay out groups in rows, with a tree at each of some places of their answers.

    Args:
        groups: Groups, as [`pack_groups`][rarl.shared_prefix.layout.pack_groups] takes them.
        completion_ids: Answers, padded on the right, `[b, r]`.
        completion_mask: 1 for the tokens of an answer, `[b, r]`.
        places: Row and column of the token in whose place each tree's first tokens stand, `[p, 2]`; a token of an
            answer of these groups.
        tree: The tree.
    """
    pack = pack_groups(groups, completion_ids, completion_mask)
    device = completion_ids.device
    # Where the token before each token of an answer is, as the pack has it: that is where its logits are.
    anchors = completion_ids.new_full((*completion_ids.shape, 2), -1)
    anchors[pack.source_row, pack.source_column] = (pack.shift_labels != -100).nonzero()
    rows, at = anchors[places[:, 0], places[:, 1]].unbind(dim=1)
    size, base = len(tree.tokens), pack.input_ids.shape[1]
    of_row = [int((rows == row).sum()) for row in range(len(groups))]
    # The number of each tree among those of its row.
    number = (rows[:, None] == rows[None, :]).tril(-1).sum(dim=1)
    first = base + number * size
    extra = size * max(of_row, default=0)
    columns = torch.cat([at[:, None], first[:, None] + torch.arange(size, device=device)], dim=1)
    grown = {
        "input_ids": torch.nn.functional.pad(pack.input_ids, (0, extra)),
        "position_ids": torch.nn.functional.pad(pack.position_ids, (0, extra)),
        "shift_labels": torch.nn.functional.pad(pack.shift_labels, (0, extra), value=-100),
        "segment": torch.nn.functional.pad(pack.segment, (0, extra), value=-1),
        "blocks": torch.nn.functional.pad(pack.blocks, (0, extra), value=-1),
    }
    before = pack.allowed
    allowed = torch.nn.functional.pad(before, (0, extra, 0, extra))
    padding = torch.arange(base, base + extra, device=device)
    allowed[:, padding, padding] = True  # a row of nothing would be no distribution
    tokens, depths, sees = (each.to(device) for each in (tree.ids(), tree.depths(), tree.sees()))
    own, row = columns[:, 1:], rows[:, None]  # [p, m], [p, 1]
    grown["input_ids"][row, own] = tokens
    grown["position_ids"][:, row, own] = pack.position_ids[:, rows, at][..., None] + depths
    grown["segment"][row, own] = pack.segment[rows, at][:, None]
    allowed[row, own, :base] = before[rows, at][:, None]
    allowed[row[..., None], own[:, :, None], own[:, None, :]] = sees
    fields = {name: getattr(pack, name) for name in ("source_row", "source_column")}
    return BranchedPack(**grown, **fields, trees_allowed=allowed, columns=columns, rows=rows)


def branch_logits(
    model: Any,
    groups: Sequence[Group],
    completion_ids: torch.Tensor,
    *,
    completion_mask: torch.Tensor,
    images: Sequence[Images | None] | None,
    places: torch.Tensor,
    tree: TokenTree,
    config: Any,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Logits of the next token after each node of a tree at each of some places, `[p, 1 + m, V]`, root first.

    One call of the model, whether there are places or not, so that processes stay in step.

    Args:
        model: The model, wrapped or not.
        groups: All groups of the batch.
        completion_ids: Answers, padded on the right, `[b, r]`.
        completion_mask: 1 for the tokens of an answer, `[b, r]`.
        images: The images of each row of the batch.
        places: See [`pack_branches`][rarl.shared_prefix.branches.pack_branches].
        tree: The tree.
        config: The model's configuration.
        dtype: Type that attention computes in.
    """
    pack = pack_branches(groups, completion_ids, completion_mask, places=places, tree=tree)
    wanted = pack.columns.unique() if len(places) else pack.input_ids.new_zeros(1)
    return _branches(_logits(model, pack, groups, wanted, images=images, config=config, dtype=dtype), pack, wanted)


def answer_and_branch_logits(
    model: Any,
    groups: Sequence[Group],
    completion_ids: torch.Tensor,
    *,
    completion_mask: torch.Tensor,
    images: Sequence[Images | None] | None,
    places: torch.Tensor,
    tree: TokenTree,
    config: Any,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What [`branch_logits`][rarl.shared_prefix.branches.branch_logits] gives, and the answers' own logits by the same
    call: logits of the next token `[n, V]`, the tokens `[n]`, and those of the branches `[p, 1 + m, V]`.

    Arguments are those of [`branch_logits`][rarl.shared_prefix.branches.branch_logits].
    """
    pack = pack_branches(groups, completion_ids, completion_mask, places=places, tree=tree)
    answered = pack.shift_labels != -100
    wanted = torch.cat([answered.any(dim=0).nonzero()[:, 0], pack.columns.flatten()]).unique()
    logits = _logits(model, pack, groups, wanted, images=images, config=config, dtype=dtype)
    kept = answered[:, wanted]
    return logits[kept], pack.shift_labels[:, wanted][kept], _branches(logits, pack, wanted)


def _logits(
    model: Any,
    pack: BranchedPack,
    groups: Sequence[Group],
    wanted: torch.Tensor,
    *,
    images: Sequence[Images | None] | None,
    config: Any,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Logits of a pack at some of its columns, `[g, w, V]`."""
    inputs: dict[str, Any] = {} if images is None else join_images([images[group.rows[0]] for group in groups])
    inputs |= {
        "input_ids": pack.input_ids,
        "attention_mask": masks(pack, config, dtype),
        "position_ids": pack.position_ids if len(pack.position_ids) > 1 else pack.position_ids[0],
    }
    return model(logits_to_keep=wanted, use_cache=False, **inputs).logits


def _branches(logits: torch.Tensor, pack: BranchedPack, wanted: torch.Tensor) -> torch.Tensor:
    """Of logits at columns `[w]` those of the trees, `[p, 1 + m, V]`."""
    if not len(pack.rows):
        return logits[:0, :1].expand(0, pack.columns.shape[1], -1) + 0.0 * logits.sum()
    return logits[pack.rows[:, None], torch.searchsorted(wanted, pack.columns)]
