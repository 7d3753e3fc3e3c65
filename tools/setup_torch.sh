#!/bin/sh
# Makes the virtual environment with PyTorch and torchvision that `luqbench step --compare torch` measures against.
# usage: tools/setup_torch.sh [DIRECTORY]      About 6 GB; needs python3-venv and pip's package index.
set -eu
directory=${1:-${XDG_DATA_HOME:-$HOME/.local/share}/luqtrain/torch}
[ -x "$directory/bin/python" ] || python3 -m venv "$directory"
"$directory/bin/python" -m pip install --quiet 'torch>=2.15' torchvision
"$directory/bin/python" -c 'import torch, torchvision; print("PyTorch", torch.__version__, "torchvision", torchvision.__version__)'
