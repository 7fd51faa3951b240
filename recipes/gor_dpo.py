"""DPO on the policy's own answers: the true number is preferred to one that a candidate has, in its place.

accelerate launch recipes/gor_dpo.py                                          # after recipes/gor_sft.py, tiny model
accelerate launch recipes/gor_dpo.py --config recipes/configs/gor_dpo_qwen2_5_vl_3b.yaml --folder UTKFace

The pairs and their card lie in `output_dir/preferences`; a run that was stopped while making them goes on. The
reference is the adapter that training starts from, kept frozen as `ref`.
"""

from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState
from trl import DPOConfig, DPOTrainer

from gor_head.output import check_output_folder
from gor_head.vlm import ValueTokens
from gor_head.vlm.dpo import NumberDPOTrainer, check_margin
from gor_head.vlm.preference import CARD_FILE, PAIRS_FILE
from gor_head.vlm.repairs import mend_token_rows
from rarl.datasets import written_out
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
from rarl.recipe.preferences import build_preferences


@dataclass
class GoRDPOConfig(DPOConfig):
    """TRL's `DPOConfig`, how the pairs are made, and what is made of single numbers."""

    candidates: str = field(
        default="beams", metadata={"help": "'beams', the likeliest answers, or 'samples', as the model would answer."}
    )
    num_candidates: int = field(default=4, metadata={"help": "Candidates per prompt."})
    gap: float = field(default=0.0, metadata={"help": "Least difference of the errors of a pair, in label units."})
    pairs: str = field(
        default="numbers",
        metadata={
            "help": "'numbers': the truth and one wrong number, compared alone; 'answers': two whole candidates."
        },
    )
    own_answer: bool = field(
        default=False, metadata={"help": "Whether the perfect answer is the chosen one of a pair of answers."}
    )
    margin: float = field(
        default=0.0,
        metadata={"help": "Offset of the loss of a pair of numbers, by their distance in standard deviations."},
    )
    chosen_fall: float | None = field(
        default=None,
        metadata={"help": "Nats by which chosen numbers may become less likely before training ends; 1 if not given."},
    )
    row_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the value tokens' rows; learning_rate if not given."}
    )
    max_completion_length: int = field(default=256, metadata={"help": "Longest candidate in tokens."})
    preference_batch_size: int = field(default=8, metadata={"help": "Prompts whose candidates are made together."})

    def __post_init__(self) -> None:
        super().__post_init__()
        unused = {"numbers": ("own_answer",), "answers": ("margin", "chosen_fall", "row_learning_rate")}
        for name in unused.get(self.pairs, ()):
            value = getattr(self, name)
            if value is not None and value != type(self).__dataclass_fields__[name].default:
                raise ValueError(
                    f"{name}: has no effect on pairs of {self.pairs}; wanted no such argument, got {value}."
                )
        check_margin(self.margin, self.beta, self.loss_type)


def main() -> None:
    with setting_up():
        training_args, arguments, model_args = parse(GoRDPOConfig, Path(__file__).parent / "configs/gor_dpo_tiny.yaml")
        if arguments.adapter is None:
            raise ValueError(
                "adapter: DPO starts from a trained adapter, such as that of recipes/gor_sft.py; got none."
            )
        path = resolve_model(model_args.model_name_or_path)
        data = prepare_data(arguments)
        task = data.source.task
        if training_args.pairs == "numbers" and task.vocabulary is None:
            raise ValueError(
                f"pairs: {arguments.adapter} writes digits, and pairs of numbers want value tokens; wanted answers, "
                "got numbers."
            )
        if training_args.pairs == "numbers" and task.kind == "text":
            raise ValueError(f"pairs: pairs of numbers are of images, and {task.name!r} judges texts; wanted answers.")
        processor = load_processor(path, task, arguments.adapter)
        training_args.max_length = None  # truncation would cut image tokens
        preferences = Path(training_args.output_dir) / "preferences"
        if PartialState().is_main_process:
            check_output_folder(preferences, (PAIRS_FILE, CARD_FILE))
        check_lengths(
            data,
            path,
            processor,
            max_completion_length=training_args.max_completion_length,
            eval_max_new_tokens=arguments.eval_max_new_tokens,
        )
        repository = hub_repository(training_args, model_args, arguments)
        model, _ = load_policy(
            path, model_args, training_args, processor=processor, task=task, adapter=arguments.adapter
        )
    model.to(PartialState().device)
    with PartialState().main_process_first():  # the others find the pairs made
        pairs, file = build_preferences(
            model,
            processor,
            data.train,
            source=data.source,
            folder=preferences,
            settings={"adapter": arguments.adapter, "task": task.digest, "split_seed": arguments.split_seed},
            candidates=training_args.candidates,
            num_candidates=training_args.num_candidates,
            seed=training_args.seed,
            gap=training_args.gap,
            pairs=training_args.pairs,
            own_answer=training_args.own_answer,
            batch_size=training_args.preference_batch_size,
            max_new_tokens=training_args.max_completion_length,
        )
    if PartialState().is_main_process:
        found = file.statistics()
        print(f"{found.pairs} pairs from {found.rows} prompts, {found.ties} ties skipped: {file.path}")
    settings = {"args": training_args, "train_dataset": written_out(pairs), "processing_class": processor}
    if training_args.pairs == "numbers":
        trainer: DPOTrainer = NumberDPOTrainer(
            model,
            tokens=ValueTokens.of(processor, task.codi_vocabulary),
            margin=training_args.margin,
            margin_scale=data.spread,
            chosen_fall=1.0 if training_args.chosen_fall is None else training_args.chosen_fall,
            row_learning_rate=training_args.row_learning_rate,
            **settings,
        )
    else:
        trainer = DPOTrainer(model, **settings)
        mend_token_rows(trainer.accelerator.unwrap_model(trainer.model))
    train(trainer)
    finish(trainer, data, arguments, path=path, stage="gor_dpo", repository=repository)


if __name__ == "__main__":
    main()
