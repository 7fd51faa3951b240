"""Direct preference optimisation from beam candidates: the code whose number is nearer to the label is preferred."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from gor_head.decoding.beam import beam
from gor_head.interface import CodeModel
from gor_head.training.data import Rows, collate
from gor_head.vocabulary import PAD


class DPO:
    """Preference loss on pairs of codes.

    Formula: loss = −log σ(β·[(log π(chosen) − log π(rejected)) − (log π₀(chosen) − log π₀(rejected))]), where π₀ is the
    model that proposed the candidates. Set it as a trained model's `strategy` and train on
    [`preference_rows`][gor_head.training.dpo.preference_rows].

    Args:
        beta: β, how closely π₀ is kept to.

    Reference: Rafailov et al. 2023; GoR, section 3.2.4.
    """

    def __init__(self, beta: float = 0.1) -> None:
        if beta <= 0:
            raise ValueError(f"beta: wanted a positive number, got {beta}.")
        self.beta = beta

    def __call__(
        self,
        model: CodeModel,
        memory: Tensor,
        *,
        codes: Tensor,
        rejected: Tensor,
        reference_margin: Tensor,
        labels: Tensor,
        progress: float,
    ) -> Tensor:
        """Loss of each pair, `[B]`.

        Args:
            model: The policy.
            memory: The encoder's output, `[B, L, D]`.
            codes: Chosen codes, `[B, T]`.
            rejected: Rejected codes, `[B, U]`.
            reference_margin: log π₀(chosen) − log π₀(rejected), `[B]`.
            labels: Labels, which are not used; preferences stand for them.
            progress: Share of the training done, which is not used.
        """
        margin = model.code_log_probs(memory, codes) - model.code_log_probs(memory, rejected)
        return -F.logsigmoid(self.beta * (margin - reference_margin))


@dataclass(frozen=True)
class PreferenceStatistics:
    """What became of the rows.

    Args:
        rows: Rows seen.
        pairs: Rows that gave a pair.
        ties: Rows skipped because no candidate was worse than the best by the gap.
        mean_gap: Mean difference of the errors within pairs, in label units.
    """

    rows: int
    pairs: int
    ties: int
    mean_gap: float


@torch.no_grad()
def preference_rows(
    model: CodeModel, rows: Rows, width: int = 4, *, gap: float = 0.0, own_code: bool = False, batch_size: int = 1024
) -> tuple[Rows, PreferenceStatistics]:
    """Pairs of codes from the model's own beams, one per row where the beams differ.

    Candidates differ in number, for no number has two legal codes. Chosen is the least |ŷ − y|; rejected is the
    likeliest candidate whose error is larger by more than `gap`; rows without one are ties and left out, and counted.

    Args:
        model: A trained model, in evaluation mode; it is π₀ of [`DPO`][gor_head.training.dpo.DPO].
        rows: Training rows with `labels` and `codes`.
        width: Beams.
        gap: Least difference of two errors that counts, in label units, ≥ 0.
        own_code: Whether the label's own code is the chosen one, be it among the candidates or not.
        batch_size: Rows decoded together.

    Returns:
        Rows with `codes` (chosen), `rejected` and `reference_margin`, and the counts.

    Raises:
        ValueError: If no row gives a pair.
    """
    parts: list[dict[str, Tensor]] = []
    gaps: list[Tensor] = []
    longest = model.vocabulary.max_length + 1
    for batch in DataLoader(rows, batch_size=batch_size, collate_fn=collate):
        batch = {name: column.to(model.device) for name, column in batch.items()}
        labels, label_codes = batch.pop("labels"), batch.pop("codes")
        weight = {"sample_weight": batch.pop("sample_weight")} if "sample_weight" in batch else {}
        memory = model.encoder(**batch)
        codes, scores = beam(model, memory, width)
        codes = F.pad(codes, (0, longest - codes.shape[2]), value=PAD)
        numbers = model.vocabulary.decode(codes.flatten(0, 1)).view(scores.shape)
        errors = (numbers - labels[:, None]).abs().masked_fill(scores == -torch.inf, torch.inf)
        best, choice = errors.min(dim=1)
        chosen = codes[torch.arange(len(codes)), choice]
        if own_code:
            chosen = F.pad(label_codes, (0, longest - label_codes.shape[1]), value=PAD)
            best = (model.vocabulary.decode(label_codes) - labels).abs()
        worse = torch.isfinite(errors) & (errors > best[:, None] + gap)
        pick = scores.masked_fill(~worse, -torch.inf).argmax(dim=1)
        rejected = codes[torch.arange(len(codes)), pick]
        paired = worse.any(dim=1).nonzero().squeeze(1)
        chosen, rejected, memory = chosen[paired], rejected[paired], memory[paired]
        margin = model.code_log_probs(memory, chosen) - model.code_log_probs(memory, rejected)
        part = batch | weight | {"labels": labels}
        pair = {"codes": chosen, "rejected": rejected, "reference_margin": margin}
        parts.append(
            {name: column[paired].cpu() for name, column in part.items()} | {k: v.cpu() for k, v in pair.items()}
        )
        gaps.append(errors[paired, pick[paired]] - best[paired])
    columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    count, gap_sum = len(columns["labels"]), float(torch.cat(gaps).sum())
    if count == 0:
        raise ValueError(f"preferences: none of {len(rows)} rows has two candidates whose errors differ by over {gap}.")
    return Rows(columns), PreferenceStatistics(len(rows), count, len(rows) - count, gap_sum / count)
