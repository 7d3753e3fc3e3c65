#!/usr/bin/env bash
# Builds libFuzzer's targets with clang and runs each for ten seconds on its seeds. Exit code 77 (skipped) where no clang has
# libFuzzer. CLANGXX in the environment says which clang++; otherwise it is the system's, or the newest there is.
#   tests/fuzz_test.sh SOURCE_DIR BUILD_DIR [RUNS]    RUNS: inputs of each target instead of ten seconds
set -euo pipefail
source=$1 build=$2
limit=(-max_total_time=10)
(($# < 3)) || limit=(-runs="$3")
has_fuzzer() { echo 'extern "C" int LLVMFuzzerTestOneInput(const char*, decltype(sizeof 0)) { return 0; }' |
  "$1" -x c++ -fsanitize=fuzzer,address - -o /dev/null 2>/dev/null; }
compiler=
mapfile -t others < <(compgen -c clang++- | grep -E '^clang[+][+]-[0-9]+$' | sort -rVu)
for candidate in ${CLANGXX:-clang++ "${others[@]}"}; do
  if command -v "$candidate" >/dev/null && has_fuzzer "$candidate"; then compiler=$candidate; break; fi
done
if [[ -z $compiler ]]; then
  echo "skipped: no clang++ with libFuzzer (packages clang and libclang-rt-dev; tools/test.sh installs them)"
  exit 77
fi
"$compiler" --version | head -1
launcher=()
if command -v ccache >/dev/null; then launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
cmake -S "$source/tests/fuzz" -B "$build" -G Ninja -DCMAKE_CXX_COMPILER="$(command -v "$compiler")" "${launcher[@]}" >/dev/null
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
