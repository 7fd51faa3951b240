#!/usr/bin/env bash
# A real language model on film reviews that people rated: before training, SFT, RARL from a few-shot prompt, SFT → RARL.
# What is there already is not made again; a run that was stopped goes on from its last checkpoint. SEED=0,1 for two.
set -euo pipefail
out=outputs/demo_real
seeds=${SEED:-0}

rarl fetch smollm2
rarl fetch film-reviews
rarl ablate --output "$out" --model film_reviews --settings film_reviews --seeds "$seeds" --reference sft_rarl \
    --rows sft,sft_rarl,sft_all,stage1,sft_mean,few_shot,cold_start --jobs "$(( $(nproc) > 1 ? 2 : 1 ))"
python -m benchmarks.real_model --runs "$out" --seeds "$seeds" --json "$out/beside.json" --figure "$out/real_model.png"
