#!/usr/bin/env python3
"""What the commands do when a request for memory fails: the k-th of a size, or it and all after it.

    python3 tests/faults/memory.py            some of the requests of each command; a test
    python3 tests/faults/memory.py --full     every request of 64 KiB, 16 KiB and 4 KiB or more, of each command
    python3 tests/faults/memory.py --full 65536 train eval    of these bytes or more alone, and of these commands

A command must end by itself with 0 or 1, and say so where it is 1: no signal, no other code. What was saved must be
whole. A training that goes on from there, or begins anew where nothing was saved, must end with the file that an
undisturbed one writes, to the byte; where the best state was lost for lack of memory, and the training said so and
ended with 1, but for what the file says of the best."""
import collections
import concurrent.futures
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

from faults import LUQTRAIN, SOURCE, preloaded, spread

GOLDEN = SOURCE / "tests/golden"
IMAGES = ("images/420.jpg", "images/palette.png", "images/progressive.jpg", "images/rgba.png", "formats/lossy.webp",
          "formats/palette.bmp", "formats/rgb_lzw.tif", "formats/p3_100.ppm", "formats/alpha.gif", "images/cmyk.jpg")
SETTINGS = {"seed": 3, "threads": 2, "run.directory": "run", "data.augment.pad_crop": 1,
            "data.synthetic.train_images": 32, "data.synthetic.test_images": 12, "data.synthetic.image_size": 8,
            "data.synthetic.channels": 1, "data.name": "synthetic", "train.epochs": 2, "train.batch_size": 8, "train.checkpoint_every": 2,
            "train.log_every": 1, "eval.batch_size": 8}
ON_FILES = {"data.name": "image_folder", "data.augment.pad_crop": 0, "data.path": "../data", "data.image_size": 16,
            "data.eval_resize": 16, "data.broken_images": "skip", "eval.batch_size": 4, "train.batch_size": 4}
FLOATS = {f"quantization.{operand}.format": "float32" for operand in ("weights", "activations", "gradients")}
LAST = "run/checkpoints/last.safetensors"


def experiment(settings=None):
    words = ["--config", SOURCE / "configs/fashion_mnist/resnet20_luq.yaml"]
    for key, value in {**SETTINGS, **(settings or {})}.items():
        words += ["--set", f"{key}={value}"]
    return words


TRAININGS = {"train": experiment(), "train in float32": experiment(FLOATS), "train on files": experiment(ON_FILES)}
# What they need beside a finished run in `run` and the images in `../data`, and the command.
OTHERS = {
    "resume": [*experiment({"train.epochs": 3}), "--resume"],
    "eval": ["eval", "--checkpoint", LAST],
    "predict": ["predict", "--checkpoint", "../files/" + LAST, "--images", "../data/val"],
    "export safetensors": ["export", "--checkpoint", LAST, "--format", "safetensors", "--output", "out"],
    "export onnx": ["export", "--checkpoint", LAST, "--format", "onnx", "--output", "out"],
    "export packed": ["export", "--checkpoint", LAST, "--format", "packed", "--output", "out"],
    "quantize": ["quantize", "--input", LAST, "--format", "int4_sawb", "--output", "out"],
    "validate-data": ["validate-data", "--path", "../data"],
    "pack": ["pack", "--input", "../data", "--output", "shards"],
    "profile": ["profile", *experiment(), "--steps", "1"],
    "plot": ["plot", "run", "--output", "curves.svg"],
    "dry run": [*experiment(), "--dry-run"],
    "smoke": [*experiment(), "--smoke"],
}


class Trials:
    def __init__(self, folder):
        self.folder = folder
        self.library = preloaded("fail_memory", folder)
        self.sound = {}     # training -> bytes of its last checkpoint
        self.failures = []
        self.counts = collections.Counter()
        self.make_images()
        for name, words in TRAININGS.items():
            place = folder / name
            place.mkdir()
            self.must(words, place)
            self.sound[name] = (place / LAST).read_bytes()
        (folder / "train on files").rename(folder / "files")
        resumed = self.place("undisturbed", "resume")
        self.must(OTHERS["resume"], resumed)
        self.sound["resume"] = (resumed / LAST).read_bytes()

    def make_images(self):
        for label, kind in enumerate(("ant", "bee")):
            for split, count in (("train", 8), ("val", 3)):
                target = self.folder / "data" / split / kind
                target.mkdir(parents=True)
                for i in range(count):
                    source = GOLDEN / IMAGES[(i + 5 * label) % len(IMAGES)]
                    shutil.copy(source, target / f"{i}{source.suffix}")

    def must(self, words, place):
        process = self.run(words, place)
        if process.returncode != 0:
            sys.exit(f"{words} ended with {process.returncode} undisturbed:\n{process.stderr}")

    def run(self, words, place, **environment):
        # libgomp's setting is there already, or the program starts itself again with it.
        variables = {**os.environ, "GOMP_SPINCOUNT": "1000", "TMPDIR": str(place),
                     **{key: str(value) for key, value in environment.items()}}
        return subprocess.run([str(word) for word in [LUQTRAIN, *words]], cwd=place, env=variables, capture_output=True,
                              text=True, errors="replace", timeout=300, check=False)

    def place(self, name, command):
        """A folder for the command with what it needs."""
        place = self.folder / name
        place.mkdir()
        if command in OTHERS:
            shutil.copytree(self.folder / "train/run", place / "run")
        return place

    def disturbed(self, command, place, least, fails=0, stays=0):
        words = TRAININGS.get(command) or OTHERS[command]
        return self.run(words, place, LD_PRELOAD=self.library, LUQ_MEMORY_LEAST=least, LUQ_MEMORY_FAILS=fails,
                        LUQ_MEMORY_STAYS=stays, LUQ_MEMORY_COUNT=place / "count")

    def requests(self, command, least):
        place = self.place(f"count {command} {least}", command)
        self.disturbed(command, place, least)
        return int((place / "count").read_text())

    def trial(self, command, least, fails, stays):
        place = self.place(f"{command} {least} {fails} {stays}", command)
        process = self.disturbed(command, place, least, fails, stays)
        problem = self.problem_of(command, place, process)
        if problem:
            which = f"request {fails} of {least} bytes{' and all later' if stays else ''}"
            self.failures.append(f"{command}, {which}: {problem}")
        self.counts[command, process.returncode] += 1
        shutil.rmtree(place)

    def problem_of(self, command, place, process):
        if process.returncode not in (0, 1):
            return f"ended with {process.returncode}: {process.stderr[-300:]}"
        if process.returncode == 1 and "out of memory" not in process.stderr.lower():
            return f"does not say that memory is lacking: {process.stderr[-300:]}"
        for file in (place / "run/checkpoints").glob("*.safetensors"):
            if not is_whole(file):
                return f"{file.name} is not whole"
        if command not in self.sound:
            return ""
        if process.returncode == 1:
            words = TRAININGS.get(command) or OTHERS[command]
            there = (place / LAST).exists()
            anew = [word for word in words if word != "--resume"] + ["--resume" if there else "--overwrite"]
            again = self.run(anew, place)
            if again.returncode != 0:
                return f"does not go on: {again.stderr[-300:]}"
        last = (place / LAST).read_bytes()
        if "the best state" in process.stderr and "could not be saved" in process.stderr:  # its record is another one
            same = tensors_of(last) == tensors_of(self.sound[command])
        else:
            same = last == self.sound[command]
        if not same:
            return "ends with another checkpoint"
        return ""


def tensors_of(data):
    return data[8 + struct.unpack("<Q", data[:8])[0]:]


def is_whole(file):
    data = file.read_bytes()
    if len(data) < 8:
        return False
    length = struct.unpack("<Q", data[:8])[0]
    try:
        header = json.loads(data[8:8 + length])
    except ValueError:
        return False
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return 8 + length + max(ends, default=0) == len(data)


def main():
    full = "--full" in sys.argv[1:]
    sizes = [int(word) for word in sys.argv[1:] if word.isdigit()] or [65536, 16384, 4096]
    commands = [name for name in [*TRAININGS, *OTHERS] if name in sys.argv[1:]] or [*TRAININGS, *OTHERS]
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(pathlib.Path(folder))
        wanted = []
        for command in commands:
            for least in sizes if full else (8192,):
                count = trials.requests(command, least)
                chosen = range(1, count + 1) if full else spread(count, 6 if command in TRAININGS else 2)
                wanted += [(command, least, k, stays) for k in chosen for stays in ((0, 1) if full else (k % 2,))]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for done in [pool.submit(trials.trial, *one) for one in wanted]:
                done.result()
    for command in commands:
        counts = {code: n for (of, code), n in sorted(trials.counts.items(), key=str) if of == command}
        print(f"{command:20} " + ", ".join(f"{n} ended with {code}" for code, n in counts.items()))
    print(f"{len(wanted)} trials, {len(trials.failures)} failures")
    for failure in trials.failures:
        print("  " + failure)
    return 1 if trials.failures else 0


if __name__ == "__main__":
    sys.exit(main())
