"""Supervised fine-tuning on the perfect answers: the baseline that RARL is compared with.

accelerate launch recipes/sft.py                                              # tiny model, built-in images
accelerate launch recipes/sft.py --config recipes/configs/sft_qwen2_5_vl_3b.yaml --folder UTKFace
"""

from pathlib import Path

from trl import SFTConfig, SFTTrainer

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


def main() -> None:
    with setting_up():
        training_args, arguments, model_args = parse(SFTConfig, Path(__file__).parent / "configs/sft_tiny.yaml")
        if arguments.gor_vocabulary is not None:
            raise ValueError("gor_vocabulary: recipes/gor_sft.py trains value tokens; wanted none here.")
        path = resolve_model(model_args.model_name_or_path)
        data = prepare_data(arguments, with_completion=True)
        processor = load_processor(path, data.source.task, arguments.adapter)
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
            path, model_args, training_args, processor=processor, task=data.source.task, adapter=arguments.adapter
        )
        trainer = SFTTrainer(
            model,
            training_args,
            train_dataset=written_out(data.train),
            processing_class=processor,
            peft_config=peft_config,
        )
    train(trainer)
    finish(trainer, data, arguments, path=path, stage="sft", repository=repository)


if __name__ == "__main__":
    main()
