#!/usr/bin/env bash
# Builds libFuzzer's targets with clang 14 and runs each for ten seconds on its seeds. Exit code 77 (skipped) where clang or
# its runtime is not installed.
#   tests/fuzz_test.sh SOURCE_DIR BUILD_DIR [RUNS]    RUNS: inputs of each target instead of ten seconds
set -euo pipefail
source=$1 build=$2
limit=(-max_total_time=10)
(($# < 3)) || limit=(-runs="$3")
compiler=$(command -v clang++-14 || true)
if [[ -z $compiler || ! -e $("$compiler" -print-file-name=libclang_rt.fuzzer-x86_64.a) ]]; then
  echo "skipped: clang-14 or libclang-rt-14-dev is not installed (tools/test.sh installs them)"
  exit 77
fi
launcher=()
if command -v ccache >/dev/null; then launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
cmake -S "$source/tests/fuzz" -B "$build" -G Ninja -DCMAKE_CXX_COMPILER="$compiler" "${launcher[@]}" >/dev/null
cmake --build "$build" --parallel "$(nproc)"

run() {
  local target=$1 corpus
  corpus=$(mktemp -d)
  if "$build/fuzz_$target" "${limit[@]}" -max_len=8192 -timeout=20 -artifact_prefix="$build/$target-" -print_final_stats=1 \
    "$corpus" "$source/tests/fuzz/seeds/$target" >"$build/$target.log" 2>&1; then
    echo "$target: $(grep -E 'number_of_executed_units' "$build/$target.log" | tr -s ' ')"
    rm -rf "$corpus"
  else
    rm -rf "$corpus"
    tail -40 "$build/$target.log"
    echo "$target: failed; the input is $build/$target-*"
    return 1
  fi
}
targets=(image tar labels safetensors)
pids=() failures=0
for target in "${targets[@]}"; do
  run "$target" &
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || failures=$((failures + 1)); done
exit $((failures > 0))
