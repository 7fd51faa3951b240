"""Supervised fine-tuning on perfect answers and the expected error of their numbers, in digits or in value tokens.

accelerate launch recipes/expected_error.py --adapter outputs/gor_sft      # after SFT; tiny model, built-in images
accelerate launch recipes/expected_error.py --config recipes/configs/expected_error_qwen2_5_vl_3b.yaml --folder UTKFace

Where `recipes/gor_dpo.py` compares two numbers, this one takes all of them, by their probabilities.
"""

from dataclasses import dataclass, field
from pathlib import Path

from trl import SFTConfig

from gor_head.vlm.sft import check_plain_loss
from rarl.datasets import written_out
from rarl.models import resolve_model
from rarl.number_trie import NumberTrie
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
from rarl.trainer import ExpectedErrorTrainer


@dataclass
class ExpectedErrorConfig(SFTConfig):
    """TRL's `SFTConfig`, and the loss of the numbers."""

    expected_error: str = field(
        default="absolute",
        metadata={"help": "'absolute' (expected distance) or 'squared' (distance of the mean, RAFT)."},
    )
    number_weight: float = field(
        default=1.0,
        metadata={"help": "λ of the loss on numbers, its errors in standard deviations of the training labels."},
    )
    number_annealed: bool = field(default=False, metadata={"help": "Let λ fall to 0 in a straight line."})
    row_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the value tokens' rows; learning_rate if not given."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.number_weight > 0:
            raise ValueError(
                f"number_weight: wanted a number above 0, got {self.number_weight}; recipes/sft.py has none."
            )


def main() -> None:
    with setting_up():
        training_args, arguments, model_args = parse(
            ExpectedErrorConfig, Path(__file__).parent / "configs/expected_error_tiny.yaml"
        )
        check_plain_loss(training_args)
        path = resolve_model(model_args.model_name_or_path)
        data = prepare_data(arguments, with_completion=True)
        task = data.source.task
        processor = load_processor(path, task, arguments.adapter)
        trie = NumberTrie.of(processor, task)
        trie.check_labels(data.labels, task)
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
        trainer = ExpectedErrorTrainer(
            model,
            training_args,
            train_dataset=written_out(data.train),
            processing_class=processor,
            peft_config=peft_config,
            trie=trie,
            expected_error=training_args.expected_error,
            number_weight=training_args.number_weight,
            number_scale=data.spread,
            number_annealed=training_args.number_annealed,
            row_learning_rate=training_args.row_learning_rate,
        )
    train(trainer)
    finish(trainer, data, arguments, path=path, stage="expected_error", repository=repository)


if __name__ == "__main__":
    main()
