"""What a training run leaves behind: the model, its report, its card, and a copy on the Hub."""

import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftModel
from rich.console import Console
from transformers import TrainingArguments
from trl import ModelConfig

from gor_head.vlm.hub import create_repository
from rarl.evaluation import Report
from rarl.evaluation.codes import Decode
from rarl.evaluation.protocol import evaluate
from rarl.evaluation.reports import write_report
from rarl.evaluation.tables import report_table
from rarl.fetching import FETCHES
from rarl.hub import push_adapter, write_model_card
from rarl.models import load_model, trained_task
from rarl.recipe.arguments import RecipeArguments
from rarl.recipe.data import Data
from rarl.task import save_task


def hub_repository(training_args: TrainingArguments, model_args: ModelConfig, arguments: RecipeArguments) -> str | None:
    """The repository of `--push_to_hub`, created if it is missing; `None` without that flag.

    The flag is taken off `training_args`: with it, a trainer pushes whole output folders, checkpoints and all, while
    [`finish`][rarl.recipe.finish.finish] pushes the adapter.

    Raises:
        ValueError: If no adapter is trained, or it would be published with texts that are others'.
        OSError: If the Hub does not allow it or cannot be reached.
    """
    if not training_args.push_to_hub:
        return None
    training_args.push_to_hub = False
    table = (arguments.table or "").partition("/")[0]
    trained = None if arguments.adapter is None else trained_task(arguments.adapter)
    if table in FETCHES and (arguments.shots or (trained is not None and trained.shots)):
        raise ValueError(
            f"push_to_hub: the adapter's task.json would hold texts of {table} ({FETCHES[table].licence}); wanted no "
            "shots, or a table of your own."
        )
    if not model_args.use_peft and arguments.adapter is None:
        raise ValueError("push_to_hub pushes LoRA adapters, and use_peft is false; wanted use_peft, or no push_to_hub.")
    repository = training_args.hub_model_id or Path(str(training_args.output_dir)).name
    if not PartialState().is_main_process:
        return repository  # an error on the main process ends the others
    return create_repository(repository, training_args.hub_private_repo, training_args.hub_token)


def evaluate_run(
    model: Any,
    processor: Any,
    data: Data,
    arguments: RecipeArguments,
    *,
    decode: Decode | None = None,
    resolution: float | None = None,
) -> Report:
    """The report of a model on the test rows of a run.

    Args:
        model: The model.
        processor: Its processor.
        data: Data of the run.
        arguments: The run's arguments, of which `eval_batch_size`, `eval_max_new_tokens` and `eval_interval` are read.
        decode: How numbers are read; see [`evaluate`][rarl.evaluation.protocol.evaluate].
        resolution: Distance of two legal numbers, where `decode` wants one.
    """
    return evaluate(
        model,
        processor,
        data.test,
        task=data.source.task,
        batch_size=arguments.eval_batch_size,
        max_new_tokens=arguments.eval_max_new_tokens,
        constant=data.median,
        decode=decode,
        resolution=resolution,
        interval=arguments.eval_interval,
    )


def finish(
    trainer: Any,
    data: Data,
    arguments: RecipeArguments,
    *,
    path: str,
    stage: str,
    repository: str | None = None,
    judge: Callable[[Any, Any], Report] | None = None,
) -> None:
    """Save, evaluate and, if there is a `repository` on the Hub, push what was trained.

    `judge` makes the report of a model and its processor where that is not
    [`evaluate_run`][rarl.recipe.finish.evaluate_run]'s.

    The adapter (or model) lies directly in `output_dir`, with `trainer_state.json` and `report.json`. Evaluation loads
    it back from there on the main process, so that what is scored is what was saved.
    """
    args = trainer.args
    output_dir = Path(args.output_dir)
    trainer.save_model(str(output_dir))
    trainer.save_state()
    is_adapter = isinstance(trainer.accelerator.unwrap_model(trainer.model), PeftModel)
    trainer.accelerator.wait_for_everyone()
    main = trainer.accelerator.is_main_process
    # Make room for the evaluation: the recipe still holds the trainer and the model.
    if PartialState().distributed_type.name != "DEEPSPEED":
        trainer.accelerator.unwrap_model(trainer.model).to("cpu")
    trainer.accelerator.free_memory()
    trainer.accelerator.end_training()
    trainer.model = trainer.model_wrapped = trainer.optimizer = trainer.lr_scheduler = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if not main:
        return
    shutil.rmtree(output_dir / "ref", ignore_errors=True)  # the frozen reference; checkpoints keep theirs
    save_task(data.source.task, output_dir)
    report = None
    if data.test:
        if args.deepspeed is not None or PartialState().distributed_type.name == "DEEPSPEED":
            from transformers.integrations.deepspeed import unset_hf_deepspeed_config

            unset_hf_deepspeed_config()  # or ZeRO-3 would partition the model that is loaded now
        model, processor = load_model(*((path, str(output_dir)) if is_adapter else (str(output_dir), None)))
        if judge is not None:
            report = judge(model, processor)
        else:
            report = evaluate_run(model, processor, data, arguments)
        write_report(report, output_dir / "report.json")
    if is_adapter:
        write_model_card(output_dir, path, data.source.task, stage=stage, report=report)
        if repository is not None:
            push_adapter(output_dir, repository, private=args.hub_private_repo, token=args.hub_token)
    if report is not None:  # last: what is printed may be lost, what is done stays
        Console().print(report_table({stage: report}, title=data.source.task.name))
