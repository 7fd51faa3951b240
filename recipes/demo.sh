#!/usr/bin/env bash
# Cold start → stage 1 → stage 2, and SFT on as many prompts, on the embedded default: each a launch of its own.
set -euo pipefail
out=outputs/demo
seed=${SEED:-0}
mkdir -p "$out"
launch() { accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no "$@" --seed "$seed"; }

rarl evaluate --model tiny --task count --size 2000 --batch-size 32 --max-new-tokens 128 --output "$out/cold_start/report.json"
launch recipes/sft.py --output_dir "$out/sft"
launch recipes/rarl_stage1.py --output_dir "$out/stage1"
launch recipes/rarl_stage2.py --output_dir "$out/stage2" --adapter "$out/stage1"
rarl report --run "cold_start=$out/cold_start" --run "sft=$out/sft" --run "stage1=$out/stage1" \
    --run "stage2=$out/stage2" --curves "stage 1=$out/stage1" --curves "stage 2=$out/stage2" --output "$out"
