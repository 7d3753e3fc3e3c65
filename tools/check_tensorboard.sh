#!/usr/bin/env bash
# Runs of luqtrain as TensorBoard's own package reads them; the record is docs/results/tensorboard.txt. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'END'
usage: tools/check_tensorboard.sh [LUQTRAIN]      (default build/luqtrain)

Trains small runs: one straight through with an average of the weights, one killed in the middle and resumed, one that
ends before its first epoch does. Reads their event files with the PyPI package tensorboard and compares every scalar, its
step and its time with metrics.jsonl. Needs python3 with venv, for a virtual environment that is removed in the end.
END
}

case "${1:-}" in
  -h | --help) usage; exit 0 ;;
esac
tools=$PWD/tools
luqtrain=$(realpath "${1:-build/luqtrain}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check tensorboard setuptools

settings=(--config resnet20_luq.yaml --set data.name=synthetic --set data.synthetic.image_size=8
  --set data.synthetic.channels=1 --set data.synthetic.train_images=800 --set data.augment.pad_crop=1
  --set train.batch_size=8 --set train.epochs=3 --set train.log_every=1 --set train.checkpoint_every=7)
cd "$work"
"$luqtrain" "${settings[@]}" --set run.directory=straight --set train.ema_decay=0.9 >/dev/null
"$luqtrain" "${settings[@]}" --set run.directory=killed >out &
process=$!
while ! grep -qs "step 120/" out; do
  kill -0 $process
  sleep 0.05
done
kill -9 $process
wait $process 2>/dev/null || true
killed_at=$(wc -l <killed/metrics.jsonl)
"$luqtrain" "${settings[@]}" --set run.directory=killed --resume >out
echo "killed after $killed_at lines of metrics.jsonl; $(grep -o 'resumed at step [0-9]*' out)"
"$luqtrain" "${settings[@]}" --set run.directory=short --set train.max_steps=40 >/dev/null
venv/bin/python "$tools/check_tensorboard.py" straight killed short 2>&1 | grep -v -i "tensorflow\|rundir"
