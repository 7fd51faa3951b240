"""Settings of shared prompts."""

from dataclasses import dataclass, field

from trl import GRPOConfig


@dataclass
class SharedPrefixConfig(GRPOConfig):
    """Arguments of [`rarl.trainer.SharedPrefixTrainer`][rarl.trainer.sharing.SharedPrefixTrainer]: those of TRL's
    `GRPOConfig` and the ones below.

    With `shared_prefix="off"` the trainer is TRL's.
    """

    shared_prefix: str = field(
        default="auto",
        metadata={
            "help": "Encode each prompt once for all answers to it: 'on' (an error if the model cannot), 'off', or "
            "'auto' (on where it can)."
        },
    )
    shared_prefix_tokens: int | None = field(
        default=None,
        metadata={"help": "Most tokens, padding included, of a call of the model with shared prompts."},
    )
    shared_prefix_attention: str = field(
        default="sdpa",
        metadata={
            "help": "Attention of the language model over shared prompts: 'sdpa' (the model's own, under a dense mask) "
            "or 'flex' (FlexAttention, which skips hidden blocks; to train on CUDA only)."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("shared_prefix", ("auto", "on", "off")), ("shared_prefix_attention", ("sdpa", "flex"))):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
        if self.shared_prefix_attention == "flex" and self.shared_prefix == "off":
            raise ValueError("shared_prefix_attention='flex' needs shared prompts, but shared_prefix is 'off'.")
