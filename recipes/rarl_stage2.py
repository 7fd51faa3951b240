"""RARL, stage 2: prompts of 1, 2, 4 and 8 images, five rewards, response mutation; from an adapter of stage 1 or SFT.

accelerate launch recipes/rarl_stage2.py                                      # tiny model, built-in images
accelerate launch recipes/rarl_stage2.py --config recipes/configs/rarl_stage2_qwen2_5_vl_3b.yaml --folder UTKFace

The KL reference is that start: TRL copies the adapter.
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
    starting_adapter,
    train,
)
from rarl.rewards import REWARDS
from rarl.trainer import RARLConfig, RARLTrainer


def main() -> None:
    with setting_up():
        training_args, arguments, model_args = parse(
            RARLConfig, Path(__file__).parent / "configs/rarl_stage2_tiny.yaml"
        )
        rewards, weights = arguments.reward_functions(list(REWARDS), training_args.reward_weights)
        training_args.reward_weights = weights
        path = resolve_model(model_args.model_name_or_path)
        arguments.adapter = starting_adapter(arguments, path)
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
        model, _ = load_policy(
            path, model_args, training_args, processor=processor, task=data.source.task, adapter=arguments.adapter
        )
        trainer = RARLTrainer(
            model, rewards, training_args, data.train, processing_class=processor, value_tokens=value_tokens
        )
    train(trainer)
    finish(trainer, data, arguments, path=path, stage="stage2", repository=repository)


if __name__ == "__main__":
    main()
