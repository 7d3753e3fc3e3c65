#!/usr/bin/env bash
# All that a machine with a GPU can say about the CUDA kernels, in one command and one report: see --help.
exec python3 "$(dirname "$0")/gpu_check.py" "$@"
