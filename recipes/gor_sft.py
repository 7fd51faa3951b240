"""Supervised fine-tuning on perfect answers in GoR's value tokens: NLL of the text plus λ·Huber of the numbers.

accelerate launch recipes/gor_sft.py                                          # tiny model, built-in images
accelerate launch recipes/gor_sft.py --config recipes/configs/gor_sft_qwen2_5_vl_3b.yaml --folder UTKFace

The adapter holds the new tokens' rows, its `task.json` the vocabulary: evaluation and later stages find both.
"""

from dataclasses import dataclass, field
from pathlib import Path

from trl import SFTConfig

from gor_head.vlm import ValueTokens
from gor_head.vlm.sft import GoRSFTTrainer
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
    """TRL's `SFTConfig`, and the weight of the numbers."""

    huber_weight: float = field(
        default=0.1,
        metadata={"help": "λ of the Huber loss on numbers, its errors in standard deviations of the training labels."},
    )


def main() -> None:
    with setting_up():
        training_args, arguments, model_args = parse(GoRSFTConfig, Path(__file__).parent / "configs/gor_sft_tiny.yaml")
        arguments.gor_vocabulary = arguments.gor_vocabulary or "fit"
        unweighted = {"loss_type": "nll", "label_smoothing_factor": 0.0, "use_liger_kernel": False}
        for name, wanted in unweighted.items():
            if training_args.huber_weight and getattr(training_args, name) != wanted:
                raise ValueError(f"{name}: wanted {wanted} beside the Huber loss, got {getattr(training_args, name)}.")
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
            train_dataset=data.train,
            processing_class=processor,
            peft_config=peft_config,
            tokens=ValueTokens.of(processor, task.codi_vocabulary),
            huber_weight=training_args.huber_weight,
            huber_scale=data.spread,
        )
    train(trainer)
    finish(trainer, data, arguments, path=path, stage="gor_sft", repository=repository)


if __name__ == "__main__":
    main()
