#!/usr/bin/env bash
# The measurements behind docs/performance.md, one after the other: JSON files and the printed tables, in the folder given
# (runs/performance). Leave the machine alone meanwhile. About 25 minutes on two cores; without PyTorch (see
# tools/setup_torch.sh) 8.
#
#   tools/reproduce_performance.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in -*) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2 ;; esac
results=${1:-runs/performance}
[[ -x build/luqbench ]] || { echo "build first: tools/quickstart.sh --prepare" >&2; exit 1; }
mkdir -p "$results"

# bench NAME ARGUMENTS: luqbench, its table to NAME.txt and its numbers to NAME.json.
bench() {
  local name=$1
  shift
  echo "== luqbench $*"
  build/luqbench "$@" --json "$results/$name.json" | tee "$results/$name.txt"
}

compare=()
if [[ -x ${XDG_DATA_HOME:-$HOME/.local/share}/luqtrain/torch/bin/python ]]; then compare=(--compare torch); fi
bench step_resnet20 step --model resnet20 --batch 128 --rounds 15 "${compare[@]}"
bench step_resnet50 step --model resnet50 --batch 16 --rounds 5 "${compare[@]}"
bench step_resnet18 step --model resnet18 --batch 32 --rounds 5 "${compare[@]}"
bench layers_resnet50 layers --model resnet50 --batch 16
bench kernels kernels --repeats 21

ours=(--only luq --only fp32 --rounds 5)
for batch in 2 4 8 16 32 64; do bench "batch_$batch" step --model resnet18 --image-size 112 --batch "$batch" "${ours[@]}"; done
for size in 64 96 128 160 192 224; do bench "image_$size" step --model resnet18 --batch 16 --image-size "$size" "${ours[@]}"; done
for model in resnet20 resnet32 resnet44 resnet56; do bench "depth_$model" step --model "$model" --batch 128 "${ours[@]}"; done
for threads in $(seq "$(nproc)"); do
  bench "threads_${threads}_resnet18" step --model resnet18 --batch 16 --threads "$threads" "${ours[@]}"
  bench "threads_${threads}_resnet20" step --model resnet20 --batch 128 --threads "$threads" "${ours[@]}"
done
build/luqtrain profile --config resnet50_224_luq.yaml --steps 10 | tee "$results/profile_resnet50.txt"
