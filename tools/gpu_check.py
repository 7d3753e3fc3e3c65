"""Checks and measures luqtrain's CUDA kernels on a machine with a GPU, and writes one JSON report.

Builds with nvcc where sources, compiler and libraries are there, or takes a bundle of tools/gpu_bundle.sh; then runs the
kernel tests on the device, luqbench, a short training, compute-sanitizer's memcheck and racecheck, all within nine
minutes. Exit code 0: all passed; 1: something failed; 2: wrong arguments; 3: there is no GPU, all before it passed.
"""
import argparse
import datetime
import glob
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
TAIL = 6000  # characters of a stage's output that the report keeps
NO_GPU = 3


def capture(command):
    """The output of a command that may be missing; empty where it failed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def find_gpu():
    """Facts of the first GPU as nvidia-smi tells them, or None."""
    fields = ["name", "driver_version", "compute_cap", "memory.total", "clocks.max.sm", "clocks.max.memory"]
    text = capture(["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"])
    if not text or "No devices" in text:
        return None
    values = [value.strip() for value in text.splitlines()[0].split(",")]
    return dict(zip(fields, values)) if len(values) == len(fields) else None


def library_folders():
    """Where CUDA's libraries and cuDNN may lie when the linker does not know them: the toolkit, Python packages."""
    folders = [folder for folder in ("/usr/local/cuda/lib64", "/usr/local/nvidia/lib64") if os.path.isdir(folder)]
    site = capture([sys.executable, "-c", "import site, sysconfig; print('\\n'.join({sysconfig.get_paths()['purelib'], "
                    "*site.getsitepackages()}))"])
    for packages in site.splitlines():
        folders += sorted(glob.glob(f"{packages}/nvidia/*/lib"))
    return folders


class Check:
    def __init__(self, options):
        self.options = options
        self.begin = time.monotonic()
        self.stages = []
        self.report = {"started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                       "host": {"kernel": os.uname().release, "processors": os.cpu_count()},
                       "stages": self.stages}
        self.environment = dict(os.environ)
        self.folder = None  # for results, while the check runs

    def left(self):
        return self.options.minutes * 60 - (time.monotonic() - self.begin)

    def start_clock(self):
        """What came before, building, does not count."""
        self.begin = time.monotonic()

    def skip(self, name, reason):
        self.stages.append({"name": name, "status": "skipped", "reason": reason})
        print(f"{name}: skipped: {reason}", flush=True)

    def run(self, name, command, limit, result=None, environment=None, counts=True):
        """Runs a stage; result(output): what the report keeps of it, raising ValueError where it is wrong."""
        limit = min(limit, self.left()) if counts else limit
        if limit < 5:
            self.skip(name, "no time is left")
            return False
        print(f"{name}: {' '.join(map(str, command))}", flush=True)
        start = time.monotonic()
        stage = {"name": name, "command": [str(part) for part in command]}
        process = None
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                                       env={**self.environment, **(environment or {})}, start_new_session=True,
                                       cwd=self.folder)
            output, _ = process.communicate(timeout=limit)
            stage["status"] = "passed" if process.returncode == 0 else "failed"
            stage["exit_code"] = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            stage["status"] = "timed out"
            stage["limit_seconds"] = round(limit)
        except OSError as error:
            output = str(error)
            stage["status"] = "failed"
        stage["seconds"] = round(time.monotonic() - start, 1)
        if stage["status"] == "passed" and result is not None:
            try:
                stage["result"] = result(output)
            except (ValueError, OSError, KeyError, IndexError) as error:
                stage["status"] = "failed"
                stage["reason"] = str(error)
        stage["output"] = output[-TAIL:]
        self.stages.append(stage)
        print(f"{name}: {stage['status']} after {stage['seconds']} s", flush=True)
        if stage["status"] != "passed":
            print(output[-2000:], flush=True)
        return stage["status"] == "passed"

    def write(self):
        failed = [stage["name"] for stage in self.stages if stage["status"] not in ("passed", "skipped")]
        self.report["failed"] = failed
        self.report["seconds"] = round(time.monotonic() - self.begin, 1)
        path = pathlib.Path(self.options.report)
        path.write_text(json.dumps(self.report, indent=1) + "\n")
        print(f"report: {path}", flush=True)
        return not failed


def json_of(path):
    return lambda output: json.loads(pathlib.Path(path).read_text())


def programs(check):
    """The folder with luqtrain, luqbench and test_kernels: unpacked, already unpacked around this script, or built."""
    options = check.options
    if options.bundle:
        if not check.run("unpack", ["tar", "-C", check.folder, "-xf", os.path.abspath(options.bundle)], 120):
            return None
        root = pathlib.Path(check.folder) / "luqtrain-gpu"
    elif (ROOT / "bin" / "test_kernels").is_file():
        root = ROOT
    else:
        build = ROOT / "build-gpu"
        generator = ["-G", "Ninja"] if shutil.which("ninja") and not (build / "CMakeCache.txt").exists() else []
        configure = ["cmake", "-S", ROOT, "-B", build, *generator, "-DCMAKE_BUILD_TYPE=Release", "-DLUQ_CUDA=ON",
                     *os.environ.get("LUQ_CMAKE_ARGS", "").split()]
        compile_all = ["cmake", "--build", build, "--parallel", str(os.cpu_count()), "--target", "luqtrain", "luqbench",
                       "test_kernels"]
        built = check.run("configure", configure, 600, counts=False) and check.run("build", compile_all, 3600, counts=False)
        check.start_clock()
        check.report["commit"] = capture(["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"])
        check.data = FASHION_MNIST
        return build if built else None
    check.environment["LD_LIBRARY_PATH"] = ":".join(
        [str(root / "lib"), *filter(None, [os.environ.get("LD_LIBRARY_PATH")]), *library_folders()])
    check.report["commit"] = (root / "COMMIT").read_text().strip()
    check.data = str(root / "share" / "datasets" / "fashion-mnist")
    return root / "bin"


def training(check, bin_folder, epochs, least_top1):
    directory = pathlib.Path(check.folder) / "run"

    def result(output):
        lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
        tests = [line for line in lines if line["kind"] == "eval"]
        top1 = tests[-1]["top1"]
        if not top1 >= least_top1:
            raise ValueError(f"top-1 is {top1}, expected {least_top1} or more")
        return {"test_top1": top1, "epochs": epochs, "lines": lines[-3:]}

    check.run("training", [bin_folder / "luqtrain", "--config", "resnet20_luq.yaml", "--set", "device=cuda", "--set",
                           f"train.epochs={epochs}", "--set", f"data.path={check.data}", "--set",
                           f"run.directory={directory}"], 150, result)


def on_the_gpu(check, bin_folder):
    run, folder = check.run, pathlib.Path(check.folder)
    only_cuda = {"LUQ_TEST_TABLES": "cuda"}

    def ran_the_device(output):
        match = re.search(r"(\d+) assertions", output)
        if not match:
            raise ValueError("the tests printed no number of assertions")
        return {"assertions": int(match[1])}

    run("kernels", [bin_folder / "luqtrain", "kernels"], 30)
    run("kernel tests", [bin_folder / "test_kernels"], 120, ran_the_device, only_cuda)
    has_torch = capture([sys.executable, "-c", "import torch, torchvision; print(torch.cuda.is_available())"]) == "True"
    compare = ["--compare", "torch", "--only", "torch_bf16", "--python", sys.executable] if has_torch else []
    for name in ("luq", "luq_recompute", "fp32", "bf16"):
        compare += ["--only", name]
    if not has_torch:
        check.skip("comparison with PyTorch", f"{sys.executable} has no PyTorch with CUDA and torchvision")
    for name, arguments, limit in (
            ("kernels", ["--mebibytes", "1024"], 60),
            ("layers", ["--model", "resnet50", "--batch", "256"], 90),
            ("step", ["--model", "resnet18", "--batch", "256", "--rounds", "2", *compare], 150),
            ("step", ["--model", "resnet50", "--batch", "256", "--rounds", "3", *compare], 200)):
        model = arguments[1] if name != "kernels" else ""
        path = folder / f"{name}{model}.json"
        run(f"luqbench {name} {model}".strip(), [bin_folder / "luqbench", name, "--device", "cuda", *arguments, "--json", path],
            limit, json_of(path))
    training(check, bin_folder, 2, 80)
    # Last, because they take what time is left.
    sanitizer = shutil.which("compute-sanitizer", path=os.environ.get("PATH", "") + ":/usr/local/cuda/bin")
    # All of the tests take racecheck more than nine minutes; these are of the kernels with the most to race in.
    for tool, tests in (("memcheck", []),
                        ("racecheck", ["4-bit matmuls write bfloat16*,Batch norm on bfloat16,Statistics of many*"])):
        if sanitizer:
            # Fewer shapes: a checked kernel takes a hundred times as long.
            run(tool, [sanitizer, "--tool", tool, "--error-exitcode", "9", bin_folder / "test_kernels", *tests], 150,
                ran_the_device, {**only_cuda, "LUQ_TEST_WORK": "65536"})
        else:
            check.skip(tool, "compute-sanitizer is not there")


def main():
    parser = argparse.ArgumentParser(prog="tools/gpu_check.sh", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", help="file of tools/gpu_bundle.sh to unpack and use")
    parser.add_argument("--report", default="gpu_check.json", help="where the report goes (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=9, help="time for everything after building (default %(default)s)")
    options = parser.parse_args()
    if options.bundle and not os.path.isfile(options.bundle):
        parser.error(f"--bundle {options.bundle}: is not a file")
    options.report = os.path.abspath(options.report)
    if not os.path.isdir(os.path.dirname(options.report)):
        parser.error(f"--report {options.report}: its folder does not exist")

    check = Check(options)
    gpu = find_gpu()
    check.report["gpu"] = gpu
    print(f"gpu: {gpu['name']}, driver {gpu['driver_version']}" if gpu else "gpu: none", flush=True)
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:
        check.folder = folder
        bin_folder = programs(check)
        if bin_folder is not None:
            bin_folder = pathlib.Path(bin_folder)
            started = check.run("doctor", [bin_folder / "luqtrain", "doctor"], 60)
            if started and gpu:
                on_the_gpu(check, bin_folder)
        passed = check.write()
    if passed and gpu is None:
        print("no GPU here: what needs none has passed; nothing ran on a device", flush=True)
        return NO_GPU
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
