#!/usr/bin/env bash
# Cold start, SFT, SFT → RARL, and stage 1 → stage 2, on labels of careless raters; LABELS=exact for true ones.
set -euo pipefail
out=outputs/demo
seed=${SEED:-0}
case ${LABELS:-noisy} in
    noisy) setting=count_noisy ;;
    exact) setting=count ;;
    *) echo "LABELS: wanted noisy or exact, got $LABELS" >&2; exit 2 ;;
esac
runs=$out/$setting/seed$seed

rarl ablate --output "$out" --settings "$setting" --seeds "$seed" --rows cold_start,sft,sft_rarl,stage1,stage2 \
    --jobs "$(( $(nproc) > 1 ? 2 : 1 ))"
rarl report --run "cold_start=$runs/cold_start" --run "sft=$runs/sft" --run "sft_rarl=$runs/sft_rarl" \
    --run "stage1=$runs/stage1" --run "stage2=$runs/stage2" --curves "SFT → RARL=$runs/sft_rarl" \
    --curves "stage 1=$runs/stage1" --curves "stage 2=$runs/stage2" --output "$out"
