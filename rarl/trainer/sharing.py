"""TRL's GRPOTrainer with each prompt encoded once: wiring only; the arithmetic lives in
[`rarl.shared_prefix`][rarl.shared_prefix]."""

from contextlib import suppress
from typing import Any

import torch
from accelerate.logging import get_logger
from peft import PeftModel
from transformers import PreTrainedModel
from trl import GRPOTrainer
from trl.extras.profiling import profiling_context
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import pad, split_tensor_dict

from gor_head.vlm import CodeMask, ValueTokenLogits, ValueTokens
from gor_head.vlm.repairs import mend_token_rows
from rarl.shared_prefix.branches import TokenTree, branch_logits
from rarl.shared_prefix.calls import attention_cost, cut_groups
from rarl.shared_prefix.flex import unsupported_flex
from rarl.shared_prefix.groups import (
    IMAGE_FIELDS,
    Images,
    join_images,
    num_tiles,
    same_prompts,
    share_images,
    shuffled_groups,
    split_images,
    take_rows,
)
from rarl.shared_prefix.image_memo import images_processed_once
from rarl.shared_prefix.layout import attention_dtype
from rarl.shared_prefix.rollout import sample_answers, unsupported_settings
from rarl.shared_prefix.scoring import answer_log_probs, prompt_groups
from rarl.shared_prefix.support import innermost, unsupported, unsupported_model

logger = get_logger(__name__)


class SharedPrefixTrainer(GRPOTrainer):
    """TRL's `GRPOTrainer`, encoding each prompt once for all answers to it; see
    [`rarl.shared_prefix`][rarl.shared_prefix].

    Takes what `GRPOTrainer` takes; `shared_prefix` ("auto", "on", "off"), `shared_prefix_tokens` and
    `shared_prefix_attention` ("sdpa", "flex") are read from its arguments if they are there. A prompt is encoded once
    to sample its answers; old, reference and current log-probabilities go through the shared layout; micro-batches are
    made of whole groups; each image is preprocessed and kept once. Where model or settings do not allow it, TRL's own
    way is taken, and one line says why.

    With `value_tokens` ([`ValueTokens`][gor_head.vlm.tokens.ValueTokens]) answers are sampled with legal codes only,
    and old, reference and current log-probabilities are those of the same masked distributions: constrained, and
    on-policy.

    Raises:
        ValueError: With `shared_prefix="on"`, `shared_prefix_attention="flex"` or `value_tokens`, if it is not
            possible.
    """

    args: Any
    model: Any
    num_generations: int
    temperature: float
    _code_mask: CodeMask | None
    _code_logits: list[ValueTokenLogits]
    _buffered_inputs: Any
    processing_class: Any

    def __init__(self, *args: Any, value_tokens: ValueTokens | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        mend_token_rows(self.accelerator.unwrap_model(self.model))
        wanted = getattr(self.args, "shared_prefix", "auto")
        off = "shared_prefix is off" if wanted == "off" else None
        reason, in_generation = off or self._why_not_shared(), off or self._why_not_shared_in_generation()
        self._flex = getattr(self.args, "shared_prefix_attention", "sdpa") == "flex"
        for setting, given in (("shared_prefix='on'", wanted == "on"), ("shared_prefix_attention='flex'", self._flex)):
            if given and reason is not None:
                raise ValueError(f"{setting}, but {reason}.")
        if off is None and (reason or in_generation):
            where = "" if reason else " in generation"
            logger.warning(f"Prompts are not shared{where}: {reason or in_generation}. Results are TRL's, only slower.")
        self._shares_prefix, self._shares_generation = reason is None, in_generation is None
        if self._shares_prefix:
            config = self.accelerator.unwrap_model(self.model).config
            # FlexAttention skips hidden pairs, which leaves nothing to gain by cutting groups.
            self._attention_cost = 0.0 if self._flex else attention_cost(config)
            if self._flex and (reason := unsupported_flex(config, self.accelerator.device)):
                raise ValueError(f"shared_prefix_attention='flex', but {reason}.")
            self._check_calls()
            self._leave_out_frozen_vision()
        self._shares_images = wanted != "off"
        self._code_mask, self._code_logits = None, []
        if value_tokens is not None:
            if (reason := reason or in_generation) is not None:
                raise ValueError(f"value_tokens constrain answers to shared prompts only, but {reason}.")
            rows = self.accelerator.unwrap_model(self.model).config.get_text_config().vocab_size
            self._code_mask = CodeMask(value_tokens, rows, self.accelerator.device)
            self._code_logits = [ValueTokenLogits(value_tokens)]

    def _why_not_shared(self) -> str | None:
        model = self.accelerator.unwrap_model(self.model)
        if (reason := self._why_not_wrapped() or unsupported(model.config)) is not None:
            return reason
        if self.aux_loss_enabled:
            return "the load-balancing loss counts every token of the plain layout"
        if self._is_vlm and (self.tools or self.environment_factories is not None or self.rollout_func is not None):
            return "answers may hold images"
        return None

    def _why_not_wrapped(self) -> str | None:
        """Why a model cannot share prompts inside what it is wrapped in; `None` if it can."""
        model = self.accelerator.unwrap_model(self.model)
        if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
            return f"the adapter ({model.active_peft_config.peft_type.value}) adds tokens to every row"
        if self.is_fsdp_enabled:
            return "it is untested under FSDP"
        return None

    def _leave_out_frozen_vision(self) -> None:
        """No gradients of the activations of a vision tower that is not trained.

        With LoRA and gradient checkpointing transformers makes the outputs of all input embeddings require gradients,
        those of a vision tower too where its class names them.
        """
        model = self.accelerator.unwrap_model(self.model)
        decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
        for part in model.modules():
            frozen = isinstance(part, PreTrainedModel) and not any(each.requires_grad for each in part.parameters())
            if not frozen or part is decoder:
                continue
            with suppress(NotImplementedError):
                embeddings = part.get_input_embeddings()
                if isinstance(embeddings, torch.nn.Module):
                    embeddings.register_forward_hook(_leave_out)

    def _check_calls(self) -> None:
        reentrant = (self.args.gradient_checkpointing_kwargs or {}).get("use_reentrant")
        if (
            getattr(self.args, "shared_prefix_tokens", None) is not None
            and self.args.gradient_checkpointing
            and reentrant
            and (self.accelerator.num_processes > 1 or self.is_deepspeed_enabled)
        ):
            raise ValueError(
                "shared_prefix_tokens makes several calls of the model, whose gradients do not go together with "
                "reentrant gradient checkpointing here (TRL sets it for LoRA under ZeRO-3): leave it unset, and lower "
                "per_device_train_batch_size if memory is short."
            )

    def _why_not_shared_in_generation(self) -> str | None:
        if self.use_vllm or self.use_transformers_continuous_batching:
            return "its engine caches prefixes itself"
        if self.rollout_func is not None or self.tools or self.environment_factories is not None:
            return "answers take several turns, or are generated elsewhere"
        model = self.accelerator.unwrap_model(self.model)
        if (reason := self._why_not_wrapped() or unsupported_model(model.config)) is not None:
            return reason
        if self._dist.is_zero3 and not self.args.ds3_gather_for_generation:
            return "with ds3_gather_for_generation=False all processes must take the same steps"
        eos_token_ids = self.generation_config.eos_token_id
        if eos_token_ids != self.eos_token_ids:
            return f"generation ends with {eos_token_ids}, but training reads answers up to {self.eos_token_ids}"
        return unsupported_settings(self.generation_config, model.generation_config)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self._shares_images:
            return super()._generate_and_score_completions(inputs)
        with images_processed_once(self.processing_class):
            return super()._generate_and_score_completions(inputs)

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, has_tool_images: bool = False
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        if self._shares_generation and min(map(len, prompt_ids)) < 2:
            logger.warning_once("A prompt of one token is sampled as TRL does: there is nothing to share.")
        if not self._shares_generation or min(map(len, prompt_ids)) < 2:
            if self._code_mask is not None:
                raise ValueError("value_tokens constrain answers to prompts of at least 2 tokens, got a shorter one.")
            return super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, has_tool_images
            )
        fields, images_of = self._split_fields(prompt_ids, images, multimodal_fields)
        groups = same_prompts(prompt_ids, images_of)
        fields |= {"input_ids": prompt_ids, "attention_mask": [[1] * len(ids) for ids in prompt_ids]}
        prompts: dict[str, torch.Tensor] = {
            name: pad(
                [torch.tensor(rows[group[0]]) for group in groups],
                padding_value=self._tokenizer.pad_token_id if name == "input_ids" else 0,
                padding_side="left",
                pad_to_multiple_of=self.pad_to_multiple_of,  # type: ignore[arg-type]
            )
            for name, rows in fields.items()
        }
        if images_of is not None:
            prompts |= join_images([images_of[group[0]] for group in groups])
        index = torch.empty(len(prompt_ids), dtype=torch.long)
        for number, group in enumerate(groups):
            index[group] = number
        # As TRL generates, in the same contexts.
        with (
            profiling_context(self, "transformers.generate"),
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                generation_kwargs=self.generation_kwargs,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as model,
        ):
            inputs: Any = self._prepare_input(prompts)
            answers = sample_answers(
                model,
                inputs,
                index,
                settings=self.generation_config,
                eos_token_ids=self.eos_token_ids,
                logits_processors=self._code_logits,
            )
            return answers, None

    def _split_fields(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any
    ) -> tuple[dict[str, Any], list[Images | None] | None]:
        """What of the multimodal fields is one entry a row, and the images of each row."""
        fields = dict(multimodal_fields)
        num_images = None if images is None else [len(row_images or ()) for row_images in images]
        # Some processors give a list of tensors or arrays, one an image or tile, of one shape.
        of_images = {name: fields.pop(name, None) for name in IMAGE_FIELDS}
        of_images = {name: _tensor(field) for name, field in of_images.items() if field is not None}
        tiles = num_tiles(self.processing_class, prompt_ids, of_images, num_images)
        return fields, split_images(of_images | {"num_tiles": tiles}, num_images)

    def _take_prompts(
        self, rows: list[int], prompt_ids: Any, images: Any, multimodal_fields: Any
    ) -> tuple[list[Any], Any, dict[str, Any]]:
        """Prompts, images and multimodal fields of some rows, as `_generate_single_turn` takes them."""
        fields, images_of = self._split_fields(prompt_ids, images, multimodal_fields)
        taken: dict[str, Any] = {name: [field[row] for row in rows] for name, field in fields.items()}
        if images_of is not None:
            taken |= join_images([images_of[row] for row in rows])
        chosen = None if images is None else [images[row] for row in rows]
        return [prompt_ids[row] for row in rows], chosen, taken

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **fields: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        for name in ("token_type_ids", "mm_token_type_ids"):
            if fields.get(name) is not None:
                # TRL makes them of the rendered prompt, to which some tokenizers add a second token of the beginning.
                fields[name] = fields[name][:, -input_ids.shape[1] :]
        if not self._shares_prefix:
            return super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_entropy,
                compute_aux_loss,
                **fields,
            )
        batch_size = batch_size or len(input_ids)
        images = split_images(fields, fields.get("num_images"))
        types, seen = fields.get("mm_token_type_ids"), fields.get("token_type_ids")
        base_model = innermost(self.accelerator.unwrap_model(model))
        device = input_ids.device.type
        parts = []
        for start in range(0, len(input_ids), batch_size):
            rows = slice(start, start + batch_size)
            with self.accelerator.autocast():
                parts.append(
                    answer_log_probs(
                        model,
                        base_model,
                        input_ids[rows],
                        attention_mask=attention_mask[rows],
                        completion_length=logits_to_keep,
                        dtype=attention_dtype(base_model, device),
                        images=None if images is None else images[rows],
                        mm_token_type_ids=None if types is None else types[rows],
                        token_type_ids=None if seen is None else seen[rows],
                        budget=getattr(self.args, "shared_prefix_tokens", None),
                        cost=self._attention_cost,
                        agree=self._largest_of_processes,
                        flex=self._flex,
                        mask=self._code_mask,
                        temperature=self.temperature,
                    )
                )
        log_probs = torch.cat([part[0] for part in parts])
        entropies = torch.cat([part[1] for part in parts if part[1] is not None]) if compute_entropy else None
        return log_probs, entropies, None

    def _branch_logits(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        *,
        places: torch.Tensor,
        tree: TokenTree,
        **fields: Any,
    ) -> torch.Tensor:
        """Logits after each node of a tree at places of the answers; see
        [`branch_logits`][rarl.shared_prefix.branches.branch_logits]."""
        for name in ("token_type_ids", "mm_token_type_ids"):
            if fields.get(name) is not None:
                fields[name] = fields[name][:, -input_ids.shape[1] :]
        images = split_images(fields, fields.get("num_images"))
        base_model = innermost(self.accelerator.unwrap_model(model))
        groups = prompt_groups(
            base_model,
            input_ids,
            attention_mask=attention_mask,
            completion_length=logits_to_keep,
            images=images,
            mm_token_type_ids=fields.get("mm_token_type_ids"),
            token_type_ids=fields.get("token_type_ids"),
        )
        lengths = attention_mask[:, -logits_to_keep:].sum(dim=1)
        lengths += len(tree.tokens) * torch.bincount(places[:, 0], minlength=len(lengths))
        groups = cut_groups(groups, lengths.tolist(), self._attention_cost)
        device = input_ids.device.type
        with self.accelerator.autocast():
            return branch_logits(
                model,
                groups,
                input_ids[:, -logits_to_keep:],
                completion_mask=attention_mask[:, -logits_to_keep:],
                images=images,
                places=places,
                tree=tree,
                config=base_model.config,
                dtype=attention_dtype(base_model, device),
            )

    def _largest_of_processes(self, number: int) -> int:
        numbers = torch.tensor([number], device=self.accelerator.device)
        return int(self.accelerator.gather(numbers).max())

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        # TRL's own, but for the shuffle: it permutes single rows, which would tear groups apart.
        if not (self._shares_prefix and self.model.training):
            return super()._prepare_inputs(generation_batch)
        steps_per_generation = self.args.steps_per_generation
        if self._step % (steps_per_generation * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            num_rows = len(batch["prompt_ids"])
            # One copy of the pixels of a prompt is kept, in a list with one entry for each row.
            images = split_images(batch, batch.get("num_images"))
            groups = same_prompts(batch["prompt_ids"].tolist(), images)
            order = shuffled_groups(num_rows, self.num_generations, self.accelerator.process_index * num_rows)
            self._buffered_inputs = split_tensor_dict(
                take_rows(share_images(batch, groups), order), steps_per_generation
            )
        return self._buffered_inputs[self._step % steps_per_generation]


def _tensor(field: Any) -> torch.Tensor:
    return field if isinstance(field, torch.Tensor) else torch.stack([torch.as_tensor(part) for part in field])


def _leave_out(_module: Any, _inputs: Any, output: Any) -> None:
    if isinstance(output, torch.Tensor) and output.is_leaf:
        output.requires_grad_(False)
