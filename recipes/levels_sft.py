"""Supervised fine-tuning on words, read as an expectation: the baseline of rating in words.

accelerate launch recipes/levels_sft.py                                       # tiny model, built-in images
accelerate launch recipes/levels_sft.py --folder photos --source folder --csv labels.csv --task aesthetics ...

Images are rated one by one, so `num_images` is 1; test prompts of several images are ordered by their ratings.
"""

from pathlib import Path

from trl import SFTConfig, SFTTrainer

from rarl.levels import LevelRows, Levels, evaluate_levels
from rarl.models import resolve_model
from rarl.recipe import (
    check_lengths,
    finish,
    hub_repository,
    load_policy,
    load_processor,
    parse,
    prepare_data,
    setting_up,
    train,
)


def main() -> None:
    with setting_up():
        training_args, arguments, model_args = parse(SFTConfig, Path(__file__).parent / "configs/levels_sft_tiny.yaml")
        if arguments.num_images != [1]:
            raise ValueError(f"num_images: images are rated one by one; wanted 1, got {arguments.num_images}.")
        for name in ("gor_vocabulary", "eval_max_new_tokens", "eval_interval"):
            if arguments.given.get(name) is not None:
                raise ValueError(f"{name}: answers are rated in words, and not sampled; wanted no such argument.")
        path = resolve_model(model_args.model_name_or_path)
        data = prepare_data(arguments, with_completion=True)
        task = data.source.task
        if task.kind != "image":
            raise ValueError(
                f"task: images are rated in words, and {task.name!r} judges {task.kind}s; wanted one of images."
            )
        levels = Levels(task)
        data.train.set_transform(LevelRows(data.source, levels))
        processor = load_processor(path, task, arguments.adapter)
        training_args.max_length = None  # truncation would cut image tokens
        words = [processor.tokenizer(levels.sentence(word), add_special_tokens=False) for word in levels.words]
        sentence = 1 + max(len(word["input_ids"]) for word in words)
        check_lengths(data, path, processor, max_completion_length=sentence, eval_max_new_tokens=sentence)
        repository = hub_repository(training_args, model_args, arguments)
        model, peft_config = load_policy(
            path, model_args, training_args, processor=processor, task=task, adapter=arguments.adapter
        )
        trainer = SFTTrainer(
            model, training_args, train_dataset=data.train, processing_class=processor, peft_config=peft_config
        )
    train(trainer)
    finish(
        trainer,
        data,
        arguments,
        path=path,
        stage="levels_sft",
        repository=repository,
        judge=lambda model, processor: evaluate_levels(
            model,
            processor,
            data.test,
            levels=levels,
            batch_size=arguments.eval_batch_size,
            constant=data.median,
        ),
    )


if __name__ == "__main__":
    main()
