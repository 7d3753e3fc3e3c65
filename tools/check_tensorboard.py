#!/usr/bin/env python3
"""Reads a run's event file with the official tensorboard package and compares every scalar with metrics.jsonl.

    check_tensorboard.py RUN...

Needs the PyPI package tensorboard. Ends with 1 where anything differs.
"""
import collections
import json
import pathlib
import struct
import sys

import tensorboard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def as_float32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def expected(run):
    """{tag: [(step, wall time, value)]} of metrics.jsonl."""
    series = collections.defaultdict(list)
    for text in (run / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        kind = line["kind"]
        keys = ["loss", "top1", "top5"] + (["lr", "gradient_norm", "images_per_second"] if kind == "train" else [])
        for key, tag in [(key, f"{kind}/{key}") for key in keys] + [(f"ema_{key}", f"ema/{key}") for key in keys]:
            if key in line:
                series[tag].append((line["step"], line["time"], as_float32(line[key])))
    return dict(series)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    print(f"tensorboard {tensorboard.__version__}")
    wrong = 0
    for name in sys.argv[1:]:
        run = pathlib.Path(name)
        reader = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
        found = {tag: [(event.step, event.wall_time, event.value) for event in reader.Scalars(tag)]
                 for tag in reader.Tags()["scalars"]}
        same = found == expected(run)
        wrong += not same
        print(f"{name}: {'equal to' if same else 'DIFFERS from'} metrics.jsonl")
        for tag, values in sorted(found.items()):
            steps = [step for step, _, _ in values]
            twice = len(steps) - len(set(steps))
            wrong += twice > 0
            print(f"  {tag:<26} {len(values):4} values, steps {steps[0]}..{steps[-1]}, {twice} twice, last {values[-1][2]:.6g}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
