#!/usr/bin/env bash
# Packs what a machine with a GPU needs to run tools/gpu_check.sh without building. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'USAGE'
usage: tools/gpu_bundle.sh [FILE]

Builds luqtrain, luqbench and the kernel tests with the CUDA kernels in build-gpu/ and packs them with their configurations,
the Fashion-MNIST images and the shared libraries that a machine with NVIDIA's driver, the CUDA libraries and cuDNN lacks.
FILE is luqtrain-gpu.tar.xz unless given. It wants nvcc and cuDNN (no GPU), and refuses to make more than 60 MiB.

On the machine with the GPU:
  tar xf luqtrain-gpu.tar.xz && luqtrain-gpu/tools/gpu_check.sh
USAGE
}

case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  -*) echo "gpu_bundle: unknown option '$1'" >&2; usage >&2; exit 2 ;;
esac
output=$(realpath -m "${1:-luqtrain-gpu.tar.xz}")
limit_mib=60
datasets=/usr/share/datasets/fashion-mnist
[[ -d $datasets ]] || { echo "gpu_bundle: $datasets is not there: apt-get install dataset-fashion-mnist" >&2; exit 1; }

read -ra cmake_args <<<"${LUQ_CMAKE_ARGS:-}"
generator=()
[[ -f build-gpu/CMakeCache.txt ]] || generator=(-G Ninja)
cmake -S . -B build-gpu "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DLUQ_CUDA=ON "${cmake_args[@]}" >/dev/null
cmake --build build-gpu --parallel "$(nproc)" --target luqtrain luqbench test_kernels

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
root=$folder/luqtrain-gpu
# Programs, configurations, torch_step.py; not the library.
mkdir -p "$root"/{bin,lib,tools,share/datasets/fashion-mnist,share/luqtrain/tools}
for program in luqtrain luqbench test_kernels; do
  install -s build-gpu/"$program" "$root/bin/$program"
done
cp -r configs "$root/share/luqtrain/configs"
cp tools/torch_step.py "$root/share/luqtrain/tools/"
cp tools/gpu_check.sh tools/gpu_check.py "$root/tools/"
cp "$datasets"/*.gz "$root/share/datasets/fashion-mnist/"
{ git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown; } >"$root/COMMIT"

# Not the C library, which belongs to the machine. The driver, cublasLt and cuDNN are loaded as the programs run, from there.
belongs_to_the_machine='/(ld-linux-x86-64|libc|libm|libdl|librt|libpthread|libresolv)\.so'
ldd "$root"/bin/* | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u | { grep -Ev "$belongs_to_the_machine" || true; } |
  while read -r library; do cp -L "$library" "$root/lib/$(basename "$library")"; done
strip --strip-unneeded "$root"/lib/*.so* 2>/dev/null || true

XZ_OPT=-9 tar -C "$folder" --owner=0 --group=0 -cJf "$output" luqtrain-gpu
size=$(stat -c %s "$output")
printf '%s: %d KiB\n' "$output" $((size / 1024))
if ((size > limit_mib << 20)); then
  echo "gpu_bundle: more than $limit_mib MiB" >&2
  exit 1
fi
