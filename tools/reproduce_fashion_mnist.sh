#!/usr/bin/env bash
# The runs behind the Fashion-MNIST tables of docs/results.md, one after the other, and the tables. A run that is there
# is not done again and an interrupted one goes on, so this may be stopped and started at will.
#
#   tools/reproduce_fashion_mnist.sh [--tables]      --tables: only print what the finished runs give
#
# About two hours on two cores. Runs are in runs/results/.
set -euo pipefail
cd "$(dirname "$0")/.."

seeds=(0 1 2)
methods=(sawb sawb_nonzero reference max)
results=runs/results
tables_only=0
case "${1:-}" in
  "") ;;
  --tables) tables_only=1 ;;
  *) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac

# train NAME CONFIG [key=value ...]
train() {
  local directory=$results/$1 config=$2
  shift 2
  local start=() override
  [[ -f $directory/checkpoints/last.safetensors ]] && start=(--resume)
  [[ -d $directory && ${#start[@]} -eq 0 ]] && start=(--overwrite)
  local settings=(--set run.directory="$directory" --set train.log_every=100)
  for override in "$@"; do settings+=(--set "$override"); done
  build/luqtrain --config "configs/fashion_mnist/$config.yaml" "${settings[@]}" "${start[@]}"
}

# Test top-1 of a run's last evaluation, "-" where it is not finished.
top1() {
  local directory=$results/$1
  if grep -qs 'finished after' "$directory/log.txt"; then
    grep '"kind":"eval"' "$directory/metrics.jsonl" | tail -n 1 | sed 's/.*"top1":\([0-9.]*\).*/\1/'
  else
    echo -
  fi
}

# table TITLE PREFIX NAME... : a row for the runs PREFIX NAME of all seeds: top-1 of each, their mean, and the distance of the
# largest from the smallest.
table() {
  local title=$1 prefix=$2 name seed
  shift 2
  printf '\n| %s |%s mean | spread |\n' "$title" "$(printf ' seed %s |' "${seeds[@]}")"
  printf '%s|---|---|\n' "$(printf '|---%.0s' - "${seeds[@]}")"
  for name in "$@"; do
    for seed in "${seeds[@]}"; do top1 "$prefix${name}_seed$seed"; done | awk -v name="$name" '
      { cells = cells " | " $1; if ($1 != "-") { n++; sum += $1; if (n == 1 || $1 < low) low = $1; if ($1 > high) high = $1 } }
      END { printf "| %s%s | %s | %s |\n", name, cells, n ? sprintf("%.2f", sum / n) : "-", n ? sprintf("%.2f", high - low) : "-" }'
  done
}

if ((!tables_only)); then
  [[ -x build/luqtrain ]] || { echo "build first: tools/quickstart.sh --prepare" >&2; exit 1; }
  for seed in "${seeds[@]}"; do
    train "resnet20_luq_seed$seed" resnet20_luq seed="$seed"
    train "resnet20_fp32_seed$seed" resnet20_fp32 seed="$seed"
  done
  for method in "${methods[@]}"; do
    for seed in "${seeds[@]}"; do
      train "scale_${method}_seed$seed" resnet20_luq seed="$seed" train.epochs=5 quantization.activations.scale="$method"
    done
  done
fi

table configuration "" resnet20_luq resnet20_fp32
table "activation scale, 5 epochs" scale_ "${methods[@]}"
