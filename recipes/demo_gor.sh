#!/usr/bin/env bash
# Digits against value tokens where numbers are wide (TASK=brightness: decimals; TASK=count: few numbers): SFT in either, then what comes after.
set -euo pipefail
out=outputs/demo-gor
seed=${SEED:-0}
task=${TASK:-area}
case $task in
    area | brightness | count) ;;
    *) echo "TASK: wanted area, brightness or count, got $task" >&2; exit 2 ;;
esac
rows=digits,digits_median,tokens_greedy,tokens,tokens_error,tokens_dpo,tokens_rarl
runs=$out/$task/seed$seed

rarl ablate --output "$out" --settings "$task" --seeds "$seed" --rows "$rows" --reference tokens \
    --jobs "$(( $(nproc) > 1 ? 2 : 1 ))"
rarl report --run "digits=$runs/digits" --run "tokens=$runs/tokens" --run "tokens_error=$runs/tokens_error" \
    --run "tokens_dpo=$runs/tokens_dpo" --run "tokens_rarl=$runs/tokens_rarl" --curves "RARL=$runs/tokens_rarl" --output "$out"
