#!/usr/bin/env bash
# Prepares like tools/quickstart.sh, then runs every test. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'EOF'
usage: tools/test.sh [--no-install] [--sanitize]

Installs what is missing, builds everything in build/, and runs every test.

  --no-install   leave the system alone
  --sanitize     instead: build in build-sanitize/ with AddressSanitizer and UndefinedBehaviorSanitizer, the CUDA kernels
                 emulated on the CPU, and run the unit, kernel, gradient and emulation tests there, and luqtrain's on
                 the emulated device

LUQ_CMAKE_ARGS in the environment is passed to cmake.
EOF
}

sanitize=0 prepare=(--prepare --with-tests)
for argument in "$@"; do
  case "$argument" in
    --no-install) prepare+=(--no-install) ;;
    --sanitize) sanitize=1 ;;
    -h | --help) usage; exit 0 ;;
    *) echo "test: unknown option '$argument'" >&2; usage >&2; exit 2 ;;
  esac
done

if ((sanitize)); then
  read -ra cmake_args <<<"${LUQ_CMAKE_ARGS:-}"
  generator=()
  [[ -f build-sanitize/CMakeCache.txt ]] || generator=(-G Ninja)
  cmake -S . -B build-sanitize "${generator[@]}" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_FLAGS_RELWITHDEBINFO="-O1 -g1" \
    -DLUQ_SANITIZE=address,undefined -DLUQ_CUDA_EMULATION=ON "${cmake_args[@]}" >/dev/null
  cmake --build build-sanitize --parallel "$(nproc)" --target luqtrain test_unit test_kernels test_grad \
    test_cuda_emulation
  ctest --test-dir build-sanitize --output-on-failure -R '^(unit|kernels|grad|cuda_emulation|e2e_cuda_test)$'
  exit
fi

tools/quickstart.sh "${prepare[@]}"
ctest --test-dir build --output-on-failure --no-tests=error
