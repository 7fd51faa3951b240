"""Supervised fine-tuning on perfect answers in GoR's value tokens: NLL of the text plus λ times a loss of the numbers.

accelerate launch recipes/gor_sft.py                                          # tiny model, built-in images
accelerate launch recipes/gor_sft.py --config recipes/configs/gor_sft_qwen2_5_vl_3b.yaml --folder UTKFace

The adapter holds the new tokens' rows, its `task.json` the vocabulary: evaluation and later stages find both.
"""

from dataclasses import dataclass, field
from pathlib import Path

from trl import SFTConfig

from gor_head.vlm import ValueTokens
from gor_head.vlm.sft import GoRSFTTrainer, check_plain_loss
from rarl.datasets import written_out
from rarl.models import resolve_model
from rarl.recipe import (
    check_lengths,
    finish,
    hub_repository,
    load_policy,
    load_processor,
    longest_reference,
    parse,
    prepare_data,
    setting_up,
    train,
)


@dataclass
class GoRSFTConfig(SFTConfig):
    """TRL's `SFTConfig`, the loss of the numbers, and how new tokens are learnt."""

    number_loss: str = field(
        default="huber",
        metadata={"help": "'huber' or 'squared' (error of the expected number), or 'wasserstein' (expected distance)."},
    )
    number_weight: float = field(
        default=0.1,
        metadata={"help": "λ of the loss on numbers, its errors in standard deviations of the training labels."},
    )
    number_annealed: bool = field(default=False, metadata={"help": "Let λ fall to 0 in a straight line."})
    row_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the value tokens' rows; learning_rate if not given."}
    )
    grounding_steps: int = field(
        default=0, metadata={"help": "Steps at the start in which only the value tokens' rows are trained."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.number_weight and (self.number_annealed or self.number_loss != "huber"):
            raise ValueError(f"number_loss: has no effect with number_weight 0; got {self.number_loss}.")


def main() -> None:
    with setting_up():
        training_args, arguments, model_args = parse(GoRSFTConfig, Path(__file__).parent / "configs/gor_sft_tiny.yaml")
        arguments.gor_vocabulary = arguments.gor_vocabulary or "fit"
        if training_args.number_weight:
            check_plain_loss(training_args)
        path = resolve_model(model_args.model_name_or_path)
        data = prepare_data(arguments, with_completion=True)
        task = data.source.task
        processor = load_processor(path, task, arguments.adapter)
        training_args.max_length = None  # truncation would cut image tokens
        check_lengths(
            data,
            path,
            processor,
            max_completion_length=longest_reference(data, processor),
            eval_max_new_tokens=arguments.eval_max_new_tokens,
        )
        repository = hub_repository(training_args, model_args, arguments)
        model, peft_config = load_policy(
            path, model_args, training_args, processor=processor, task=task, adapter=arguments.adapter
        )
        trainer = GoRSFTTrainer(
            model,
            training_args,
            train_dataset=written_out(data.train),
            processing_class=processor,
            peft_config=peft_config,
            tokens=ValueTokens.of(processor, task.codi_vocabulary),
            number_loss=training_args.number_loss,
            number_weight=training_args.number_weight,
            number_scale=data.spread,
            number_annealed=training_args.number_annealed,
            row_learning_rate=training_args.row_learning_rate,
            grounding_steps=training_args.grounding_steps,
        )
    train(trainer)
    finish(trainer, data, arguments, path=path, stage="gor_sft", repository=repository)


if __name__ == "__main__":
    main()
