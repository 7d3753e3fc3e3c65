#!/usr/bin/env bash
# Every C++ file is as clang-format 14 leaves it. Exit code 77 (skipped) where that version is not installed.
set -euo pipefail
cd "$1"
formatter=$(command -v clang-format-14 || true)
if [[ -z $formatter ]]; then
  echo "skipped: clang-format-14 is not installed, and other versions format otherwise (tools/test.sh installs it where the"
  echo "system has it; Debian 13 has not)"
  exit 77
fi
mapfile -t files < <(find include src kernels tools tests examples -name '*.h' -o -name '*.cc' -o -name '*.cu' 2>/dev/null)
((${#files[@]} > 30)) || { echo "found only ${#files[@]} files"; exit 1; }
"$formatter" --dry-run --Werror "${files[@]}"
echo "${#files[@]} files"
