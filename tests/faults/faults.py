"""What the trials of faults share. Python's standard library only.

Each program here takes --full for every trial there is, and without it does a few of them within seconds, as a test.
LUQTRAIN names the program and LUQ_SOURCE_DIR the source folder, as for the tests in tests/e2e."""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

SOURCE = pathlib.Path(os.environ.get("LUQ_SOURCE_DIR", pathlib.Path(__file__).resolve().parents[2]))
LUQTRAIN = pathlib.Path(os.environ.get("LUQTRAIN", SOURCE / "build/luqtrain")).resolve()
SKIPPED = 77
sys.path.insert(0, str(SOURCE / "tests/e2e"))
from harness import LUQ_CONFIG, Checkpoint, arguments  # noqa: E402


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(SKIPPED)


def preloaded(name, folder):
    """The library that tests/faults/<name>.c makes; ends the program as skipped where it cannot be used."""
    compilers = (os.environ.get("CC", "cc"), "cc", "gcc", "clang")
    compiler = next((path for path in compilers if shutil.which(path)), None)
    if compiler is None:
        skip("no C compiler")
    if b"__asan_init" in LUQTRAIN.read_bytes():
        skip("AddressSanitizer has an allocator of its own")
    library = pathlib.Path(folder) / f"{name}.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, SOURCE / f"tests/faults/{name}.c", "-ldl"],
                   check=True)
    return library


def spread(count, wanted):
    """`wanted` numbers of 1..count, as even as may be, the first and the last among them; all where there are fewer."""
    if count <= wanted:
        return list(range(1, count + 1))
    return sorted({1 + round(i * (count - 1) / (wanted - 1)) for i in range(wanted)})


# 2 epochs of 3 steps; 7 checkpoints with the first, the best ones beside them.
SETTINGS = {"threads": 1, "data__workers": 1, "train__epochs": 2, "train__checkpoint_every": 1, "train__log_every": 1,
            "data__synthetic__train_images": 24, "data__synthetic__test_images": 8, "eval__batch_size": 8,
            "optimizer__lr": 0.02}
# Operations that change something, as fail_files.c counts them for FAULTS_KILL.
CHANGES = ("write", "truncate", "sync", "rename", "link", "remove", "mkdir")
KINDS_OF_RUN = ("kind", "epoch", "step", "loss", "top1", "lr")


class FileTrials:
    """Runs of a second with fail_files.c preloaded, and the comparison with one without faults."""

    def __init__(self, what):
        parser = argparse.ArgumentParser(description=what)
        parser.add_argument("--full", action="store_true", help="everything, not the short form of continuous integration")
        self.full = parser.parse_args().full
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="luq_faults_"))
        self.library = preloaded("fail_files", self.folder)
        self.trials = self.failures = 0
        self.straight = self.new_folder("straight")
        self.expect(self.train(self.straight), 0)

    def new_folder(self, name):
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def run(self, line, cwd, **variables):
        """The finished process; variables: those of fail_files.c, in small letters."""
        environment = dict(os.environ, GOMP_SPINCOUNT="1000", LD_PRELOAD=str(self.library), FAULTS_FOLDER="run")
        environment.update({"FAULTS_" + key.upper(): str(value) for key, value in variables.items()})
        return subprocess.run([str(word) for word in line], cwd=cwd, env=environment, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, errors="replace", timeout=300, check=False)

    def train(self, cwd, *flags, settings=None, **variables):
        return self.run(arguments(LUQ_CONFIG, *flags, **{**SETTINGS, **(settings or {})}), cwd, **variables)

    def operations(self, cwd, *flags, **settings):
        """(kind, number, path) of every operation of a run."""
        log = self.folder / "operations"
        log.unlink(missing_ok=True)
        self.expect(self.train(cwd, *flags, settings=settings, log=log), 0)
        lines = [line.split(" ", 2) for line in log.read_text().splitlines()]
        return [(kind, int(number), path) for number, kind, path in lines]

    @staticmethod
    def worth_trying(number, kind, path):
        """All operations but most of the writes of one checkpoint, which has hundreds of tensors."""
        return kind != "write" or "safetensors" not in path or number % 40 == 0

    def expect(self, process, code):
        if process.returncode != code:
            sys.exit(f"expected exit code {code}, got {process.returncode}\n{process.stdout}\n{process.stderr}")

    def trial(self):
        """Another one begins."""
        self.trials += 1
        if self.trials % 50 == 0:
            print(f"{self.trials} trials, {self.failures} failures", flush=True)

    def check(self, holds, text):
        """One thing that a trial must show."""
        if not holds:
            self.failures += 1
            print("FAILED:", text)

    def go_on(self, cwd, what, flags_before=()):
        """Whatever is in cwd/run: it is started as a user would, and must end as the run without faults."""
        flags = ("--resume",) if self.has_run(cwd) else flags_before
        process = self.train(cwd, *flags)
        self.check(process.returncode == 0, f"{what}: {flags}: {process.returncode}\n{process.stdout}{process.stderr}")
        if process.returncode == 0:
            self.same_as_straight(cwd, what)

    @staticmethod
    def has_run(cwd):
        return (cwd / "run").exists() and any((cwd / "run").iterdir())

    def same_as_straight(self, cwd, what, lines=True, nothing_left=True):
        """lines: metrics.jsonl too. nothing_left: no file of a save that was cut off."""
        for name in ("last", "best"):
            files = [folder / f"run/checkpoints/{name}.safetensors" for folder in (cwd, self.straight)]
            same = files[0].is_file() and files[0].read_bytes() == files[1].read_bytes()
            self.check(same, f"{what}: {name}.safetensors is not that of the run without faults")
        self.check(not lines or lines_of(cwd) == lines_of(self.straight), f"{what}: metrics.jsonl is another one")
        names = {path.name for path in (cwd / "run/checkpoints").iterdir()}
        self.check(not nothing_left or names <= {"last.safetensors", "previous.safetensors", "best.safetensors"}, f"{what}: left {names}")

    def end(self, text):
        print(f"{text}: {self.trials} trials, {self.failures} failures")
        shutil.rmtree(self.folder)
        sys.exit(1 if self.failures > 0 or self.trials == 0 else 0)


def lines_of(cwd):
    """metrics.jsonl without times."""
    lines = [json.loads(line) for line in (cwd / "run/metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in KINDS_OF_RUN} for line in lines]


def step_of(path):
    return int(Checkpoint(path).metadata["step"])
