"""Models: an encoder with GoR's decoder, or with a direct head; saved, loaded and trained as transformers are."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast, get_args

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, ModelOutput

from gor_head import losses
from gor_head.decoders import DECODERS, Cache
from gor_head.decoding.posterior import posterior_mean
from gor_head.encoders import ENCODERS
from gor_head.enumeration import MOST_CODES, count_codes
from gor_head.heads import HEADS, Head
from gor_head.interface import TARGETS
from gor_head.intervals import Intervals, Prefixes
from gor_head.training import STRATEGIES
from gor_head.vocabulary import SOS, CoDiVocabulary

ILLEGAL = -1e9
"""Logit of a token that may not follow: its probability is 0, its logarithm finite."""


@dataclass
class OrdinalOutput(ModelOutput):
    """What a forward pass gives.

    Args:
        loss: Mean over the rows of their losses, times their weights where weights are given.
    """

    loss: Tensor | None = None


class OrdinalModel(PreTrainedModel, ABC):
    """An encoder, and what reads a number from its memory.

    Args:
        config: `config.encoder` is `{"kind": name in ENCODERS, **its arguments}`, or None with an `encoder`.
        encoder: Any module with a `width` that gives memory `[B, L, width]`.
    """

    supports_gradient_checkpointing = False
    # The loss is a mean over rows: Trainer's count of tokens in a batch is none of the encoder's inputs.
    accepts_loss_kwargs = False

    def __init__(self, config: PretrainedConfig, encoder: nn.Module | None = None) -> None:
        super().__init__(config)
        if encoder is None:
            if not config.encoder:
                raise ValueError("encoder: wanted a module, or the settings of one in config.encoder, got neither.")
            settings = dict(config.encoder)
            kind = settings.pop("kind", None)
            if kind not in ENCODERS:
                raise ValueError(f"config.encoder: wanted a kind of {', '.join(ENCODERS)}, got {kind!r}.")
            encoder = ENCODERS[kind](**settings)
        self.encoder = encoder

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, directory: Any, encoder: nn.Module | None = None, **kwargs: Any
    ) -> Self:
        """The model that `save_pretrained` wrote.

        Args:
            directory: The directory that `save_pretrained` wrote.
            encoder: A module like the one the model was made with, if that was one's own; it gets the saved weights.
            kwargs: Further arguments of `PreTrainedModel.from_pretrained`.

        Raises:
            ValueError: If config.json or the weights are missing or damaged, or of different models.
        """
        config = Path(directory, CONFIG_NAME)
        if Path(directory).is_dir() and not config.is_file():
            raise ValueError(f"{config}: no such file; a directory written by save_pretrained is wanted.")
        try:
            # transformers only warns of missing weights, and leaves them as whatever the memory held.
            model, report = cast(Any, super()).from_pretrained(
                directory, encoder, ignore_mismatched_sizes=True, output_loading_info=True, **kwargs
            )
        except SafetensorError as error:
            raise ValueError(f"{Path(directory, SAFE_WEIGHTS_NAME)}: damaged ({error}).") from None
        except (OSError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
            raise ValueError(f"{config}: no model can be made of it ({error}).") from error
        wrong = [
            f"{name} is {list(found)} in the file and {list(wanted)} by config.json"
            for name, found, wanted in report["mismatched_keys"]
        ]
        wrong += [f"{name} is not in the file" for name in report["missing_keys"]]
        wrong += [f"{name} is in the file only" for name in report["unexpected_keys"]]
        if wrong:
            raise ValueError(
                f"{directory}: the weights are of another model than config.json: {len(wrong)} differ, "
                f"among them {'; '.join(sorted(wrong)[:4])}."
            )
        return model

    def forward(
        self, labels: Tensor | None = None, sample_weight: Tensor | None = None, progress: float = 1.0, **inputs: Any
    ) -> OrdinalOutput:
        """Loss of some rows.

        Args:
            labels: Numbers, float64 `[B]`.
            sample_weight: ≥ 0, `[B]`; of mean 1 over all training rows, so that batches count by their rows' weights.
            progress: Share of the training done, in 0..1; schedules follow it.
            inputs: Those named in `TARGETS` go to the loss, the rest to the encoder.
        """
        targets = {name: inputs.pop(name) for name in TARGETS if name in inputs}
        loss = self.row_losses(self.encoder(**inputs), labels, progress, **targets)
        if sample_weight is None:
            return OrdinalOutput(loss=loss.mean())
        return OrdinalOutput(loss=(loss * sample_weight.to(loss.dtype)).mean())

    @abstractmethod
    def row_losses(self, memory: Tensor, labels: Any, progress: float, **targets: Tensor) -> Tensor:
        """Loss of each row, `[B]`."""

    def _init_weights(self, module: nn.Module) -> None:
        """Modules keep PyTorch's own initialisation."""


class GoRConfig(PretrainedConfig):
    """Settings of a [`GoRModel`][gor_head.model.GoRModel].

    Args:
        vocabulary: `CoDiVocabulary.to_dict()`.
        encoder: `{"kind": name in gor_head.encoders.ENCODERS, **arguments}`; None for a module of one's own.
        decoder: `"rnn"`, `"gru"`, `"lstm"` or `"transformer"`.
        width: Width of tokens and hidden states in the decoder.
        layers, heads, dropout: Sizes and dropout of the decoder (paper: 2, 4, 0.1).
        strategy: Name in `gor_head.training.STRATEGIES`.
        nll_weight: Weight of the negative log-likelihood.
        huber_weight: λ of equation 7 (paper: 10). 0 leaves the Huber loss out.
        huber_of: `"expectation"` (sum of expected tokens under the true prefixes), `"window"` (the same within ±10 ids
            of the likeliest) or `"exact"` (mean of the predictive distribution, for vocabularies of up to 4 096 codes).
        huber_delta: δ, in units of `huber_scale`.
        huber_scale: Unit of the Huber loss's error, in label units (paper: 1). A standard deviation of the labels makes
            λ mean the same for grades and for spendings in cents.
        logit_temperature: What logits are divided by, above 0: fitted after training, see
            [`fit_temperature`][gor_head.training.temperature.fit_temperature].
    """

    model_type = "gor"

    def __init__(
        self,
        vocabulary: dict[str, Any] | None = None,
        encoder: dict[str, Any] | None = None,
        decoder: str = "transformer",
        *,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
        strategy: str = "paper",
        nll_weight: float = 1.0,
        huber_weight: float = 10.0,
        huber_of: losses.HuberOf = "expectation",
        huber_delta: float = 1.0,
        huber_scale: float = 1.0,
        logit_temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        self.vocabulary = vocabulary
        self.encoder = encoder
        self.decoder = decoder
        self.width = width
        self.layers = layers
        self.heads = heads
        self.dropout = dropout
        self.strategy = strategy
        self.nll_weight = nll_weight
        self.huber_weight = huber_weight
        self.huber_of = huber_of
        self.huber_delta = huber_delta
        self.huber_scale = huber_scale
        self.logit_temperature = logit_temperature
        super().__init__(**kwargs)


class GoRModel(OrdinalModel):
    """Generative ordinal regression: the code of a number, token by token (GoR, section 2.3).

    Probabilities are normalised over the tokens that may follow a prefix (see
    [`gor_head.intervals`][gor_head.intervals]), in training and in decoding: the model's distribution is one over
    codes, and no code outside the vocabulary has a share in it.

    Example:

    ```python
    >>> import torch
    >>> from gor_head import CoDiVocabulary
    >>> from gor_head.model import GoRConfig, GoRModel
    >>> from gor_head.decoding import quantile
    >>> ages = CoDiVocabulary.fit([3, 21, 30, 34, 58, 58, 60, 71])
    >>> model = GoRModel(GoRConfig(ages.to_dict(), encoder={"kind": "ffn", "numeric": 5})).eval()
    >>> memory = model.encoder(numeric=torch.randn(2, 5))
    >>> ages.decode(quantile(model, memory, torch.tensor([0.5]))[:, 0]).shape
    torch.Size([2])
    ```
    """

    config_class = GoRConfig
    config: GoRConfig

    def __init__(self, config: GoRConfig, encoder: nn.Module | None = None) -> None:
        super().__init__(config, encoder)
        self.vocabulary = CoDiVocabulary.from_dict(config.vocabulary, "config.vocabulary")
        for name, known in (("decoder", DECODERS), ("strategy", STRATEGIES)):
            if getattr(config, name) not in known:
                raise ValueError(f"config.{name}: wanted one of {', '.join(known)}, got {getattr(config, name)!r}.")
        if not 0 < config.logit_temperature < math.inf:
            raise ValueError(f"config.logit_temperature: wanted a positive number, got {config.logit_temperature!r}.")
        if config.huber_of not in get_args(losses.HuberOf):
            raise ValueError(
                f"config.huber_of: wanted one of {', '.join(get_args(losses.HuberOf))}, got {config.huber_of!r}."
            )
        if config.huber_of == "exact" and config.huber_weight != 0:
            if count_codes(Intervals.of(self.vocabulary)) is None:
                raise ValueError(
                    f"config.huber_of: 'exact' wanted a vocabulary of up to {MOST_CODES} codes, got one of more; "
                    "take 'expectation'."
                )
        self.decoder = DECODERS[config.decoder](
            int(cast(Any, self.encoder).width),
            config.width,
            config.layers,
            heads=config.heads,
            dropout=config.dropout,
            positions=self.vocabulary.max_length + 1,
        )
        self.embedding = nn.Embedding(len(self.vocabulary), config.width)
        self.output = nn.Linear(config.width, len(self.vocabulary))
        self.strategy: Callable[..., Tensor] = STRATEGIES[config.strategy]()
        self._intervals: Intervals | None = None
        self.post_init()

    @property
    def intervals(self) -> Intervals:
        """Tables of the vocabulary on the model's device."""
        if self._intervals is None or self._intervals.tokens.device != self.device:
            self._intervals = Intervals.of(self.vocabulary, self.device)
        return self._intervals

    @property
    def values(self) -> Tensor:
        """Value of each id in label units, 0 for control tokens, float64 `[V]`."""
        return torch.from_numpy(self.vocabulary.values).to(self.device)

    def row_losses(self, memory: Tensor, labels: Any, progress: float, **targets: Tensor) -> Tensor:
        """Loss of each row by the model's strategy, `[B]`."""
        if labels is None or "codes" not in targets:
            raise ValueError("GoRModel: wanted labels and codes for a loss; codes are vocabulary.encode(labels).")
        return self.strategy(self, memory, labels=labels, progress=progress, **targets)

    def log_probs(self, memory: Tensor, codes: Tensor) -> Tensor:
        """Log-probabilities of the next token after each true prefix (teacher forcing).

        Args:
            memory: The encoder's output, `[B, L, D]`.
            codes: Legal codes with EOS and PAD, int64 `[B, T]`.

        Returns:
            `[B, T, V]`; −1e9 or less for a token that may not follow.
        """
        return self.head(self.hidden(memory, self.embedding(shift_right(codes))), self.legal(codes))

    def code_log_probs(self, memory: Tensor, codes: Tensor) -> Tensor:
        """log P(code) of each row, `[B]`."""
        return -losses.nll(self.log_probs(memory, codes), codes)

    def hidden(self, memory: Tensor, tokens: Tensor) -> Tensor:
        """Embedded tokens `[B, T, width]` → hidden states `[B, T, width]`."""
        return self.decoder(tokens, self.decoder.start(memory))[0]

    def head(self, hidden: Tensor, legal: Tensor) -> Tensor:
        """Hidden states `[…, width]` and legal tokens `[…, V]` → log-probabilities `[…, V]`, in float32 at least."""
        logits = self.output(hidden)
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        logits = logits / self.config.logit_temperature
        return logits.masked_fill(~legal, ILLEGAL).log_softmax(dim=-1)

    def legal(self, codes: Tensor) -> Tensor:
        """Tokens that may stand at each place of codes, bool `[B, T, V]`."""
        states = self.intervals.before_each(codes)
        return self.intervals.legal_tokens(states).unflatten(0, codes.shape)

    def step(self, tokens: Tensor, cache: Cache, state: Prefixes) -> tuple[Tensor, Cache]:
        """One step of decoding: last token ids `[n]`, cache and prefixes → log-probabilities `[n, V]`, cache."""
        hidden, cache = self.decoder(self.embedding(tokens[:, None]), cache)
        return self.head(hidden[:, 0], self.intervals.legal_tokens(state)), cache

    def objective(self, memory: Tensor, log_probs: Tensor, codes: Tensor, *, labels: Tensor) -> Tensor:
        """NLL + λ·Huber of each row (equation 7), `[B]`."""
        config = self.config
        loss = config.nll_weight * losses.nll(log_probs, codes)
        if config.huber_weight == 0:
            return loss
        if config.huber_of == "exact":
            prediction = posterior_mean(self, memory)
        else:
            summed = losses.expected_sum if config.huber_of == "expectation" else losses.windowed_sum
            prediction = summed(log_probs, codes, self.values) + self.vocabulary.offset
        return loss + config.huber_weight * losses.huber(
            prediction / config.huber_scale, labels / config.huber_scale, config.huber_delta
        )


def shift_right(codes: Tensor) -> Tensor:
    """Inputs of the decoder for codes `[B, T]`: SOS, then all tokens but the last."""
    return torch.cat([torch.full_like(codes[:, :1], SOS), codes[:, :-1]], dim=1)


class DirectConfig(PretrainedConfig):
    """Settings of a [`DirectModel`][gor_head.model.DirectModel].

    Args:
        encoder: Settings of the encoder, as in [`GoRConfig`][gor_head.model.GoRConfig].
        head: Name in `gor_head.heads.HEADS`.
        head_settings: What `Head.settings(labels)` gave for the training labels.
    """

    model_type = "gor_direct"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        head: str = "l1",
        head_settings: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.encoder = encoder
        self.head = head
        self.head_settings = head_settings
        super().__init__(**kwargs)


class DirectModel(OrdinalModel):
    """An encoder and a direct head on its mean memory: what GoR is compared with."""

    config_class = DirectConfig
    config: DirectConfig

    def __init__(self, config: DirectConfig, encoder: nn.Module | None = None) -> None:
        super().__init__(config, encoder)
        if config.head not in HEADS:
            raise ValueError(f"config.head: wanted one of {', '.join(HEADS)}, got {config.head!r}.")
        width = int(cast(Any, self.encoder).width)
        self.head: Head = HEADS[config.head](width, **(config.head_settings or {}))
        self.post_init()

    def outputs(self, memory: Tensor) -> Tensor:
        """What the head makes of memory `[B, L, D]`: `[B, W]`."""
        return self.head(memory.mean(dim=1))

    def row_losses(self, memory: Tensor, labels: Any, progress: float, **targets: Tensor) -> Tensor:
        """The head's loss of each row, `[B]`."""
        if labels is None:
            raise ValueError("DirectModel: wanted labels for a loss, got none.")
        return self.head.loss(self.outputs(memory), labels)
