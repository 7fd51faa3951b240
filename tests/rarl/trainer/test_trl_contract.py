"""What RARLTrainer takes for granted about TRL's private parts; fails when one of them moves."""

import inspect
import re
from typing import Any

import pytest
from trl import GRPOTrainer
from trl.generation.vllm_generation import VLLMGeneration

from rarl.trainer import RARLTrainer, SharedPrefixTrainer

SIGNATURES = {
    "_generate_and_score_completions": ["self", "inputs"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_generate_single_turn": [
        "self",
        "prompt_ids",
        "images",
        "multimodal_fields",
        "num_generations",
        "has_tool_images",
    ],
    "_get_per_token_logps_and_entropies": [
        "self",
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
        "batch_size",
        "compute_entropy",
        "compute_aux_loss",
        "pixel_values",
        "image_grid_thw",
        "num_images",
        "pixel_attention_mask",
        "spatial_shapes",
        "num_tiles",
        "image_sizes",
        "token_type_ids",
        "mm_token_type_ids",
        "image_position_ids",
    ],
    "_compute_loss": ["self", "model", "inputs"],
    "_prepare_inputs": ["self", "generation_batch"],
}

ATTRIBUTES = [
    "_tokenizer",
    "_is_vlm",
    "_logs",
    "_metrics",
    "_pending_extra_logs",
    "_pending_metrics",
    "_step",
    "_buffered_inputs",
    "aux_loss_enabled",
    "num_iterations",
    "generation_kwargs",
    "generation_config",
    "reward_weights",
    "multi_objective_aggregation",
    "num_generations",
    "max_completion_length",
    "loss_type",
    "use_vllm",
    "vllm_generation",
    "use_transformers_continuous_batching",
    "rollout_func",
    "tools",
    "environment_factories",
    "eos_token_ids",
    "pad_to_multiple_of",
    "_dist",
]

SOURCE = inspect.getsource(GRPOTrainer)


def source_of(method: str) -> str:
    return inspect.getsource(inspect.unwrap(getattr(GRPOTrainer, method)))


def test_table_covers_what_is_overridden() -> None:
    overridden = [
        name
        for name, member in (vars(SharedPrefixTrainer) | vars(RARLTrainer)).items()
        if inspect.isfunction(member) and name != "__init__" and hasattr(GRPOTrainer, name)
    ]
    assert sorted(SIGNATURES) == sorted(overridden)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name: str) -> None:
    assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == SIGNATURES[name]


@pytest.mark.parametrize("name", SIGNATURES)
def test_override_takes_the_same_positions(name: str) -> None:
    theirs = inspect.signature(getattr(GRPOTrainer, name))
    ours = inspect.signature(getattr(RARLTrainer, name))
    required: list[Any] = [
        parameter.name for parameter in theirs.parameters.values() if parameter.default is parameter.empty
    ]
    assert ours.bind(*required).args == tuple(required)  # a TypeError if TRL's call does not fit


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attribute_is_set_by_trl(name: str) -> None:
    assert re.search(rf"self\.{name}(: [^=]+)? = ", SOURCE), f"TRL no longer sets self.{name}"


def test_accumulation_steps_are_those_of_the_loss() -> None:
    assert "self.current_gradient_accumulation_steps" in source_of("_compute_loss")


def test_completion_extras_are_logged_through_the_pending_dictionaries() -> None:
    assert list(inspect.signature(GRPOTrainer._log_completion_extra).parameters) == ["self", "column", "values"]
    assert "self._pending_extra_logs[column].extend(values)" in source_of("_log_completion_extra")
    assert "self._pending_metrics[name].append(value)" in source_of("_log_metric")


def test_scoring_gathers_once_and_last() -> None:
    source = source_of("_calculate_rewards")
    assert source.count("gather(rewards_per_func)") == 1
    assert source.rstrip().endswith("return rewards_per_func")


def test_generation_comes_before_decoding_masking_and_scoring() -> None:
    generate = source_of("_generate")
    assert generate.index("self._generate_single_turn(") < generate.index("batch_decode(completion_ids")
    score = source_of("_generate_and_score_completions")
    places = ["self._generate(", "self._get_per_token_logps_and_entropies(", "self._calculate_rewards("]
    assert [score.index(place) for place in places] == sorted(score.index(place) for place in places)


def test_missing_sampling_logprobs_get_no_correction() -> None:
    assert "torch.nan_to_num(per_token_logps_diff, nan=0.0)" in source_of("_generate_and_score_completions")


def test_generation_uses_the_configuration_that_is_edited() -> None:
    source = source_of("_generate_single_turn")
    assert "generation_config=self.generation_config" in source
    assert "generation_kwargs=self.generation_kwargs" in source


def test_generation_is_wrapped_and_its_answers_cut_as_ours_are() -> None:
    source = " ".join(source_of("_generate_single_turn").split())
    for part in (
        'profiling_context(self, "transformers.generate"), unwrap_model_for_generation( self.model_wrapped, '
        "self.accelerator, gather_deepspeed3_params=self.args.ds3_gather_for_generation,",
        "gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs, ) as unwrapped_model, torch.no_grad(),",
        "generate_inputs = super()._prepare_inputs(generate_inputs)",
        "is_eos = torch.isin(completion_ids, torch.tensor(self.eos_token_ids, device=device))",
        "(sequence_indices <= eos_idx.unsqueeze(1))",
    ):
        assert part in source
    assert list(inspect.signature(GRPOTrainer._prepare_input).parameters) == ["self", "data"]


def test_images_are_processed_by_the_processor_of_the_trainer() -> None:
    assert "self.processing_class.apply_chat_template(" in source_of("_tokenize_prompts")
    assert "self.processing_class(images=images, text=prompts_text" in source_of("_generate_and_score_completions")


def test_loss_hands_the_pixels_on_untouched() -> None:
    # Micro-batches hold lists with one tensor for each row, which only our log-probabilities read.
    source = source_of("_compute_loss")
    for name in ("pixel_values", "image_grid_thw", "num_images"):
        assert source.count(name) == 2
        assert f'{name}=inputs.get("{name}")' in source


def test_vllm_reads_its_generation_kwargs_at_each_call() -> None:
    assert "generation_kwargs" in inspect.signature(VLLMGeneration.__init__).parameters
    assert "self.generation_kwargs = generation_kwargs" in inspect.getsource(VLLMGeneration.__init__)
    generate = inspect.getsource(VLLMGeneration.generate)
    assert "generation_kwargs.update(self.generation_kwargs)" in generate  # colocated
    assert '"generation_kwargs": self.generation_kwargs' in generate  # server


def test_loss_divides_the_token_normalizer_as_ours_does() -> None:
    source = source_of("_compute_loss")
    assert 'inputs["num_items_in_batch"].clamp(min=1.0) / self.accelerator.num_processes' in source
    assert "self.current_gradient_accumulation_steps / self.args.steps_per_generation" in source
    assert "(per_token_loss.size(0) * self.max_completion_length)" in source


def test_micro_batches_are_made_as_ours_are_but_for_the_shuffle() -> None:
    source = " ".join(source_of("_prepare_inputs").split())
    for step in (
        "generate_every = self.args.steps_per_generation * self.num_iterations",
        "if self._step % generate_every == 0 or self._buffered_inputs is None:",
        "generation_batch = self._generate_and_score_completions(generation_batch)",
        "generation_batch = split_pixel_values_by_grid(generation_batch)",
        "generation_batch = shuffle_sequence_dict(generation_batch)",
        "generation_batches = split_tensor_dict(generation_batch, self.args.steps_per_generation)",
        "inputs = self._buffered_inputs[self._step % self.args.steps_per_generation]",
    ):
        assert step in source


def test_fused_head_is_called_as_ours_is() -> None:
    source = source_of("_get_per_token_logps_and_entropies")
    assert "outputs = model(**model_inputs, labels=labels, fused_lm_head=True)" in source
    assert "with self.accelerator.autocast():" in source
