"""RARL, stage 1: one image a prompt, regression and format rewards.

accelerate launch recipes/rarl_stage1.py                                      # tiny model, built-in images
accelerate launch recipes/rarl_stage1.py --config recipes/configs/rarl_stage1_qwen2_5_vl_3b.yaml --folder UTKFace
"""

from pathlib import Path

from rarl.recipe import (
    check_lengths,
    finish,
    load_policy,
    load_processor,
    model_path,
    parse,
    prepare_data,
    resume_from,
    run,
)
from rarl.rewards import format_reward, regression_reward
from rarl.trainer import RARLConfig, RARLTrainer


def main() -> None:
    training_args, arguments, model_args = parse(RARLConfig, Path(__file__).parent / "configs/rarl_stage1_tiny.yaml")
    training_args.reward_weights = [arguments.weight_regression, arguments.weight_format]
    data = prepare_data(arguments)
    dataset = data.train_dataset()
    processor = load_processor(model_path(model_args))
    check_lengths(data, dataset, model_path(model_args), processor, training_args.max_completion_length)
    model, peft_config = load_policy(model_args, training_args, arguments.adapter)
    trainer = RARLTrainer(
        model,
        [regression_reward, format_reward],
        training_args,
        dataset,
        processing_class=processor,
        peft_config=peft_config,
    )
    trainer.train(resume_from_checkpoint=resume_from(training_args))
    finish(trainer, data, model_args, "stage1")


if __name__ == "__main__":
    run(main)
