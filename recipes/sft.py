"""Supervised fine-tuning on the perfect answers: the baseline that RARL is compared with.

accelerate launch recipes/sft.py                                              # tiny model, built-in images
accelerate launch recipes/sft.py --config recipes/configs/sft_qwen2_5_vl_3b.yaml --folder UTKFace
"""

from pathlib import Path

from trl import SFTConfig, SFTTrainer

from rarl.recipe import (
    check_lengths,
    finish,
    load_policy,
    load_processor,
    longest_reference,
    model_path,
    parse,
    prepare_data,
    resume_from,
    run,
)


def main() -> None:
    training_args, arguments, model_args = parse(SFTConfig, Path(__file__).parent / "configs/sft_tiny.yaml")
    data = prepare_data(arguments)
    dataset = data.train_dataset(with_completion=True)
    processor = load_processor(model_path(model_args))
    training_args.max_length = None  # truncation would cut image tokens
    check_lengths(data, dataset, model_path(model_args), processor, longest_reference(dataset, data, processor))
    model, peft_config = load_policy(model_args, training_args, arguments.adapter)
    trainer = SFTTrainer(
        model, training_args, train_dataset=dataset, processing_class=processor, peft_config=peft_config
    )
    trainer.train(resume_from_checkpoint=resume_from(training_args))
    finish(trainer, data, model_args, "sft")


if __name__ == "__main__":
    run(main)
