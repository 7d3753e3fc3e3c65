"""Running luqtrain from a test, and reading what it writes. Python's standard library only."""
import contextlib
import json
import os
import pathlib
import random
import signal
import struct
import subprocess
import sys
import tempfile
import unittest
import zlib

LUQTRAIN = os.environ.get("LUQTRAIN", "luqtrain")
SOURCE = pathlib.Path(os.environ.get("LUQ_SOURCE_DIR", pathlib.Path(__file__).resolve().parents[2]))
LUQ_CONFIG = SOURCE / "configs/fashion_mnist/resnet20_luq.yaml"
FP32_CONFIG = SOURCE / "configs/fashion_mnist/resnet20_fp32.yaml"

# A small training: 104 images of 8x8 in batches of 8, so 13 steps an epoch, and 40 test images.
SMALL = {
    "run.directory": "run",
    "threads": 2,
    "data.name": "synthetic",
    "data.augment.pad_crop": 1,
    "data.synthetic.train_images": 104,
    "data.synthetic.test_images": 40,
    "data.synthetic.image_size": 8,
    "data.synthetic.channels": 1,
    "train.epochs": 4,
    "train.batch_size": 8,
    "train.log_every": 5,
    "eval.batch_size": 16,
}


def arguments(config, *flags, **settings):
    """luqtrain's command line; settings replace SMALL's ("train__epochs" stands for "train.epochs")."""
    keys = dict(SMALL)
    keys.update({key.replace("__", "."): value for key, value in settings.items()})
    line = [LUQTRAIN, "--config", str(config)]
    for key, value in keys.items():
        line += ["--set", f"{key}={value}"]
    return line + list(flags)


def run(line, cwd, timeout=300, **options):
    """The finished process, with its output as text."""
    return subprocess.run([str(word) for word in line], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=timeout, check=False, **options)


STOP_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def default_signals(ignored=()):
    """For preexec_fn: a program ignores what its parent ignored, as scripts' background jobs do SIGINT."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)


def run_and_signal(line, cwd, number, when, timeout=300):
    """Runs until a line of output contains `when`, sends the signal, and waits; (exit code, output)."""
    output = ""
    sent = False
    with subprocess.Popen([str(word) for word in line], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, preexec_fn=default_signals) as process:
        for text in process.stdout:
            output += text
            if when in text and not sent:
                process.send_signal(number)
                sent = True
        code = process.wait(timeout=timeout)
    assert sent, f"'{when}' never came in:\n{output}"
    return code, output


class Checkpoint:
    """A safetensors file: metadata (strings), tensors (name -> (dtype, shape, bytes))."""

    def __init__(self, path):
        data = pathlib.Path(path).read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8:8 + length])
        self.metadata = header.pop("__metadata__", {})
        start = 8 + length
        self.tensors = {name: (entry["dtype"], tuple(entry["shape"]),
                               data[start + entry["data_offsets"][0]:start + entry["data_offsets"][1]])
                        for name, entry in header.items()}

    def position(self):
        return {key: self.metadata[key] for key in ("step", "epoch", "batch", "seed", "finished")}


def write_png(path, seed, size=8):
    """A grey image of noise."""
    pixels = random.Random(seed)
    rows = b"".join(b"\0" + bytes(pixels.randrange(256) for _ in range(size)) for _ in range(size))
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)),
                          (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    path.write_bytes(data)


def logits_of(path):
    dtype, (images, classes), content = Checkpoint(path).tensors["logits"]
    assert dtype == "F32"
    values = struct.unpack(f"<{images * classes}f", content)
    return [values[i * classes:(i + 1) * classes] for i in range(images)]


def metrics(directory):
    return [json.loads(line) for line in (pathlib.Path(directory) / "metrics.jsonl").read_text().splitlines()]


class Case(unittest.TestCase):
    """A test with a temporary folder of its own."""

    def setUp(self):
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        self.folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="luq_e2e_")))

    def subfolder(self, name):
        path = self.folder / name
        path.mkdir()
        return path

    def assert_exit(self, process, code):
        self.assertEqual(process.returncode, code, f"\n{process.stdout}\n{process.stderr}")

    def train(self, cwd, *flags, config=LUQ_CONFIG, expect=0, **settings):
        """Trains in cwd/run to the end; the process."""
        process = run(arguments(config, *flags, **settings), cwd)
        self.assert_exit(process, expect)
        return process

    def refused(self, cwd, *words, flags=(), config=LUQ_CONFIG, code=2, **settings):
        """The command must end with `code` and an error that contains every word; its error output."""
        process = run(arguments(config, *flags, **settings), cwd)
        self.assert_exit(process, code)
        for word in words:
            self.assertIn(word, process.stderr)
        return process.stderr

    def last(self, cwd):
        return cwd / "run/checkpoints/last.safetensors"

    def assert_same_tensors(self, one, other):
        a, b = Checkpoint(one), Checkpoint(other)
        self.assertEqual(sorted(a.tensors), sorted(b.tensors))
        different = [name for name in a.tensors if a.tensors[name] != b.tensors[name]]
        self.assertEqual(different, [], f"{one} and {other} differ")
        self.assertEqual(a.position(), b.position())


def main():
    if not pathlib.Path(LUQTRAIN).is_file():
        sys.exit(f"LUQTRAIN names no program: {LUQTRAIN}")
    unittest.main(verbosity=2)


__all__ = ["Case", "Checkpoint", "FP32_CONFIG", "LUQ_CONFIG", "LUQTRAIN", "SMALL", "SOURCE", "STOP_SIGNALS",
           "arguments", "default_signals", "logits_of", "main", "metrics", "run", "run_and_signal", "signal", "write_png"]
