#!/usr/bin/env bash
# From a fresh clone to a trained network: installs what is missing, builds, trains, evaluates. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/packages.sh

usage() {
  cat <<'EOF'
usage: tools/quickstart.sh [--no-install] [--prepare] [--epochs N]

Installs the packages that are missing (on Debian and Ubuntu; elsewhere it lists them), builds luqtrain in Release into
build/, trains a ResNet-20 on the Fashion-MNIST images in 4-bit arithmetic, and says what to type next.

  --prepare      install and build only
  --no-install   leave the system alone: fail with the list of packages if some are missing, or, on a system without
                 apt, build with what is there
  --with-tests   also install and build what the tests need (tools/test.sh does this)
  --epochs N     epochs to train (default 4)

LUQ_CMAKE_ARGS in the environment is passed to cmake; -DLUQ_CUDA=AUTO, ON or OFF there decides on CUDA kernels, which
otherwise are built where there is a device.
EOF
}

install=1 prepare_only=0 with_tests=0 epochs=4
while (($#)); do
  case "$1" in
    --no-install) install=0 ;;
    --prepare) prepare_only=1 ;;
    --with-tests) with_tests=1 ;;
    --epochs) epochs=${2:?--epochs needs a number}; shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "quickstart: unknown option '$1'" >&2; usage >&2; exit 2 ;;
  esac
  shift
done
[[ $epochs =~ ^[1-9][0-9]*$ ]] || { echo "quickstart: --epochs expects a positive number, got '$epochs'" >&2; exit 2; }

say() { printf '\n== %s\n' "$*"; }

say "Packages"
kinds=(build) again=tools/quickstart.sh
if ((with_tests)); then kinds+=(test optional) again=tools/test.sh; fi

installed() { [[ $(dpkg-query -W -f '${Status}' "$1" 2>/dev/null || true) == "install ok installed" ]]; }
offered() { [[ $(LC_ALL=C apt-cache policy "$1" 2>/dev/null) =~ Candidate:\ [^\(] ]]; }
# Packages that are not installed; those of the kind optional only where the system has them.
find_missing() {
  local package
  missing=() unknown=()
  for package in $(luq_packages "${kinds[@]}"); do
    if installed "$package"; then
      continue
    elif [[ " $(luq_packages optional | tr '\n' ' ')" != *" $package "* ]] || offered "$package"; then
      missing+=("$package")
    else
      unknown+=("$package")
    fi
  done
}

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  echo "This system has no apt. The following has to be there; names are those of Debian's packages, versions the oldest tried:"
  luq_print_packages "${kinds[@]}"
  if ((install)); then
    echo "Nothing can be installed from here: install these in your system's way, then run $again --no-install" >&2
    exit 1
  fi
  echo "--no-install was given, so what is there is built with; cmake names what it does not find"
else
  find_missing
  if ((${#missing[@]} && !install)); then
    echo "missing, and --no-install was given; install them with:" >&2
    echo "  apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  elif ((${#missing[@]})); then
    as_root=()
    if ((EUID != 0)); then
      command -v sudo >/dev/null || { echo "not root and no sudo; as root: apt-get install --no-install-recommends ${missing[*]}" >&2; exit 1; }
      as_root=(sudo)
    fi
    "${as_root[@]}" apt-get update -qq
    find_missing  # what the system has is known now
    echo "installing: ${missing[*]}"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
      >/dev/null
  else
    echo "all there"
  fi
  ((${#unknown[@]} == 0)) || echo "not among this system's packages, so that the tests that want them are skipped: ${unknown[*]}"
fi

say "Build (Release, build/)"
read -ra cmake_args <<<"${LUQ_CMAKE_ARGS:-}"
# CUDA kernels take minutes to build: unless told, only where a device is there to run them.
if [[ ${LUQ_CMAKE_ARGS:-} != *-DLUQ_CUDA=* ]]; then
  if [[ -e /dev/nvidia0 ]]; then
    echo "there is /dev/nvidia0: with CUDA kernels, where nvcc and its libraries are found"
    cmake_args+=(-DLUQ_CUDA=AUTO)
  elif command -v nvidia-smi >/dev/null; then
    echo "there is nvidia-smi: with CUDA kernels, where nvcc and its libraries are found"
    cmake_args+=(-DLUQ_CUDA=AUTO)
  else
    echo "neither /dev/nvidia0 nor nvidia-smi is there: for the CPU only"
    cmake_args+=(-DLUQ_CUDA=OFF)
  fi
fi
generator=()
[[ -f build/CMakeCache.txt ]] || generator=(-G Ninja -DLUQ_TESTS=OFF)
targets=(luqtrain luqbench)
if ((with_tests)); then
  cmake_args+=(-DLUQ_TESTS=ON)
  targets=(all)
fi
cmake -S . -B build "${generator[@]}" -DCMAKE_BUILD_TYPE=Release "${cmake_args[@]}" | sed -n 's/^-- \(CUDA: .*\)/\1/p'
cmake --build build --parallel "$(nproc)" --target "${targets[@]}"
((prepare_only)) && exit 0

say "Train: ResNet-20 on Fashion-MNIST, 4-bit matmuls, $epochs epochs (Ctrl-C saves and stops; run this again to go on)"
# An interrupted run of this very configuration is resumed; any other begins anew.
run=runs/quickstart
experiment=(--config configs/fashion_mnist/resnet20_luq.yaml --set precision=bfloat16 --set train.epochs="$epochs" --set run.directory="$run")
start=--overwrite
if [[ -f $run/checkpoints/last.safetensors ]]; then
  configuration=$(build/luqtrain "${experiment[@]}" --dry-run)
  if grep -Ev '^(#|$)' <<<"$configuration" | cmp -s - "$run/config.yaml"; then start=--resume; fi
fi
code=0
build/luqtrain "${experiment[@]}" "$start" || code=$?
if ((code > 128)); then
  say "Stopped"
  echo "The training was told to stop and is not evaluated. To go on from what it saved: tools/quickstart.sh --epochs $epochs"
fi
((code == 0)) || exit "$code"

say "Evaluate the checkpoint"
build/luqtrain eval --checkpoint "$run/checkpoints/last.safetensors"

say "Next"
cat <<EOF
The run is in $run: config.yaml, log.txt, metrics.jsonl, checkpoints/.
  build/luqtrain --config resnet20_luq.yaml            the whole recipe; results are in docs/results.md
  build/luqtrain --config resnet20_fp32.yaml           the same without quantisation
  build/luqtrain --config resnet20_luq.yaml --dry-run  every layer, its formats and kernels, without training
  build/luqtrain --help
EOF
