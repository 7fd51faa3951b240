"""RARL, stage 1: one image a prompt, regression and format rewards.

accelerate launch recipes/rarl_stage1.py                                      # tiny model, built-in images
accelerate launch recipes/rarl_stage1.py --config recipes/configs/rarl_stage1_qwen2_5_vl_3b.yaml --folder UTKFace
"""

from pathlib import Path

from rarl.models import resolve_model
from rarl.recipe import (
    check_lengths,
    finish,
    hub_repository,
    load_policy,
    load_processor,
    parse,
    prepare_data,
    rollout_tokens,
    setting_up,
    train,
)
from rarl.trainer import RARLConfig, RARLTrainer


def main() -> None:
    with setting_up():
        training_args, arguments, model_args = parse(
            RARLConfig, Path(__file__).parent / "configs/rarl_stage1_tiny.yaml"
        )
        rewards, training_args.reward_weights = arguments.reward_functions(
            ["regression", "format"], training_args.reward_weights
        )
        path = resolve_model(model_args.model_name_or_path)
        data = prepare_data(arguments)
        processor = load_processor(path, data.source.task, arguments.adapter)
        check_lengths(
            data,
            path,
            processor,
            max_completion_length=training_args.max_completion_length,
            eval_max_new_tokens=arguments.eval_max_new_tokens,
        )
        value_tokens = rollout_tokens(arguments, processor, data.source.task)
        repository = hub_repository(training_args, model_args, arguments)
        model, peft_config = load_policy(
            path, model_args, training_args, processor=processor, task=data.source.task, adapter=arguments.adapter
        )
        trainer = RARLTrainer(
            model,
            rewards,
            training_args,
            data.train,
            processing_class=processor,
            peft_config=peft_config,
            value_tokens=value_tokens,
        )
    train(trainer)
    finish(trainer, data, arguments, path=path, stage="stage1", repository=repository)


if __name__ == "__main__":
    main()
