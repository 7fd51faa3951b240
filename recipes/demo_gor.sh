#!/usr/bin/env bash
# Digits against value tokens on the embedded default: SFT in digits, SFT in value tokens, then DPO, then RARL stage 2.
set -euo pipefail
out=outputs/demo-gor
seed=${SEED:-0}
mkdir -p "$out"
launch() { accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no "$@" --seed "$seed"; }

launch recipes/sft.py --output_dir "$out/digits_sft" --num_prompts 4560
launch recipes/gor_sft.py --output_dir "$out/gor_sft"
launch recipes/gor_dpo.py --output_dir "$out/gor_dpo" --adapter "$out/gor_sft"
launch recipes/rarl_stage2.py --output_dir "$out/gor_rarl" --adapter "$out/gor_dpo" \
    --max_completion_length 160 --eval_max_new_tokens 160 --num_images 1 2 4 --num_prompts 480 --max_steps 60 \
    --learning_rate 2e-4 --temperature 0.8
rarl report --run "digits_sft=$out/digits_sft" --run "gor_sft=$out/gor_sft" --run "gor_dpo=$out/gor_dpo" \
    --run "gor_rarl=$out/gor_rarl" --curves "RARL=$out/gor_rarl" --output "$out"
