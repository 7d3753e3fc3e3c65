#!/usr/bin/env bash
# Object files compiled for AVX2 or AVX-512 export no weak symbol: the linker keeps one copy of a weak function for the
# whole program, and were it theirs, a machine without those instructions would die in it. nm's letters for weak are
# V, W and u; DW.ref.__gxx_personality_v0 is data that every C++ object holds. And no kernel calls what throws for want of
# memory, which is for those who call kernels (kernels/kernels.h).
#   isa_symbols_test.sh libluq_kernels.a
set -euo pipefail
vector_object='_avx(2|512|512vnni|512bf16)\.cc\.o'
symbols=$(nm -A -C --defined-only "$1")
objects=$(cut -d: -f2 <<<"$symbols" | sort -u | grep -E "$vector_object\$" || true)
(($(wc -l <<<"$objects") >= 15)) || { printf 'found only these vector objects:\n%s\n' "$objects"; exit 1; }
if weak=$(grep -E "$vector_object:[0-9a-f]+ [VWu] " <<<"$symbols" | grep -v ' DW\.ref\.__gxx_personality_v0$'); then
  printf 'weak symbols in vector objects; make them internal:\n%s\n' "$weak"
  exit 1
fi
if callers=$(nm -A -C "$1" | grep ' U luq::check_kernel_memory'); then
  printf 'kernels that throw for want of memory; they call another one by its run:\n%s\n' "$callers"
  exit 1
fi
echo "$(wc -l <<<"$objects") vector objects"
