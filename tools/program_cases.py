"""The cases of compare_programs.py: what is run with a build of luqtrain, and what of its results is compared."""
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import random
import struct
import subprocess
import typing
import zlib

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs/fashion_mnist/resnet20_luq.yaml"
LAST = "run/checkpoints/last.safetensors"
TIMEOUT = 3600  # seconds a command may take
BLOCK = 1 << 22
PRECISIONS = ("float32", "bfloat16")
SCALES = ("sawb", "sawb_nonzero", "reference", "max")
METRICS = ("loss", "top1", "top5", "ema_loss", "ema_top1", "ema_top5", "lr", "gradient_norm")

COMMON = {"run.directory": "run", "train.log_every": 1, "eval.max_images": 64, "eval.batch_size": 64}
LONG = {"train.batch_size": 8, "train.max_steps": 100}
SCALAR = {"train.batch_size": 8, "train.max_steps": 5, "eval.max_images": 8}
EMULATED = {"device": "cuda", "train.batch_size": 4, "train.max_steps": 3, "eval.max_images": 8, "eval.batch_size": 8}
STOCHASTIC = {"quantization.weights.rounding": "stochastic", "quantization.activations.rounding": "stochastic"}
PARTS = {"train.micro_batches": 2, "train.recompute": "true"}
GRADIENTS_INT4 = {"quantization.gradients.format": "int4"}
RECIPE = {"train.ema_decay": 0.9, "train.clip_grad_norm": 1, "train.label_smoothing": 0.1,
          "optimizer.decay_norm": "false", "data.augment.mixup_alpha": 0.2, "data.augment.cutmix_alpha": 1}
# 100 steps with each scale of the activations.
EVERY_SCALE = {"": {}, "stochastic": STOCHASTIC, "parts": PARTS}
# Fewer steps, with sawb alone.
SAWB_ALONE = {
    "gradients_nearest": {"quantization.gradients.rounding": "nearest"},
    "gradients_int4": GRADIENTS_INT4,
    "gradients_int4_sawb_nearest": {**GRADIENTS_INT4, "quantization.gradients.scale": "sawb",
                                    "quantization.gradients.rounding": "nearest"},
    "gradients_float32": {"quantization.gradients.format": "float32"},
    "weights_max": {"quantization.weights.scale": "max"},
    "all_layers": {"quantization.exempt_first_conv": "false", "quantization.exempt_last_linear": "false"},
    "recipe": RECIPE,
    "large_batch": {"train.batch_size": 128, "train.max_steps": 10},
    "float32": {f"quantization.{operand}.format": "float32" for operand in ("weights", "activations", "gradients")},
}
MADE_UP = {"data.name": "synthetic", "data.synthetic.image_size": 32, "data.synthetic.test_images": 8}
SLOW = {"optimizer.lr": 0.002}  # with that of the configuration these few steps diverge
ADAMW = {"optimizer.name": "adamw", "optimizer.lr": 0.001, "optimizer.nesterov": "false", "train.clip_grad_norm": 1}
# What differs from the configuration, and images a step.
MODELS = {"resnet18": (SLOW, 8), "mobilenet_v2": (SLOW, 8), "resnext50_32x4d": (SLOW, 4), "vit_b_16": (ADAMW, 4),
          "vgg11_bn": (SLOW, 4)}
FORMATS = ("int4_sawb", "uint4_sawb", "fp4_luq")


class Failed(Exception):
    """A program did not do what the case takes for granted."""


@dataclasses.dataclass(frozen=True)
class Case:
    """Something to run. work(program, folder, begun_by) runs it in an empty folder and returns the result, as
    {part: {item: text}}; texts of equal results are equal. begun_by is None where the baseline's own result is wanted,
    else the baseline."""
    name: str
    work: typing.Callable
    emulated: bool = False
    begun_by_baseline: bool = False


# Reading what luqtrain writes.

def read_header(file):
    """The header of an open safetensors file, and where its data begin."""
    length = struct.unpack("<Q", file.read(8))[0]
    return json.loads(file.read(length)), 8 + length


def tensors_of(path):
    """{name: type, shape and hash of the bytes} of a safetensors file."""
    result = {}
    with open(path, "rb") as file:
        header, start = read_header(file)
        header.pop("__metadata__", None)
        for name, entry in sorted(header.items()):
            begin, end = entry["data_offsets"]
            file.seek(start + begin)
            digest, left = hashlib.sha256(), end - begin
            while left > 0:
                block = file.read(min(left, BLOCK))
                if not block:
                    raise Failed(f"{path} is cut off in tensor {name}")
                digest.update(block)
                left -= len(block)
            result[name] = f"{entry['dtype']} {entry['shape']} {digest.hexdigest()}"
    if not result:
        raise Failed(f"{path} has no tensors")
    return result


def metadata_of(path):
    """{key: text} of a safetensors file."""
    with open(path, "rb") as file:
        return read_header(file)[0].get("__metadata__", {})


def bytes_of(path):
    """{the file's name: hash of all that it holds}."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}


def losses_of(path, left_out=None):
    """{line and key: number} of a metrics.jsonl, without the evaluation after step `left_out`."""
    result = {}
    for text in path.read_text().splitlines():
        line = json.loads(text)
        if line["kind"] == "eval" and line["step"] == left_out:
            continue
        for key in METRICS:
            if key not in line:
                continue
            if line[key] is None or not math.isfinite(line[key]):
                raise Failed(f"{line['kind']} {key} after step {line['step']} is {line[key]}: nothing to compare")
            result[f"{line['kind']} step {line['step']} {key}"] = repr(float(line[key]))
    if not result:
        raise Failed(f"{path} has no losses")
    return result


# Running luqtrain.

def run(program, folder, *words, table=None):
    """The standard output of a command. How many threads it has, OMP_NUM_THREADS in the environment says."""
    environment = {key: value for key, value in os.environ.items() if key not in ("LUQ_KERNELS", "LUQ_CUDA_KERNELS")}
    if table:
        environment["LUQ_KERNELS"] = table
    try:
        process = subprocess.run([str(program), *map(str, words)], cwd=folder, env=environment, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True, errors="replace", timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise Failed(f"{words} took more than {TIMEOUT} s") from None
    if process.returncode != 0:
        said = process.stderr.strip().splitlines() or ["nothing said"]
        raise Failed(f"exit code {process.returncode}: {' '.join(said[-3:])}")
    return process.stdout


def train(program, folder, settings, *flags, table=None):
    words = [word for key, value in {**COMMON, **settings}.items() for word in ("--set", f"{key}={value}")]
    run(program, folder, "--config", CONFIG, *words, *flags, table=table)


def result_of_run(folder, left_out=None):
    return {"tensors": tensors_of(folder / LAST), "losses": losses_of(folder / "run/metrics.jsonl", left_out)}


# The kinds of cases.

def training(name, settings, table=None, emulated=False):
    """A run to its end."""
    def work(program, folder, _):
        train(program, folder, settings, table=table)
        return result_of_run(folder)
    return Case(name, work, emulated)


def resumed(name, settings):
    """The baseline itself runs all steps at once; a program goes on from the baseline's 50th."""
    def work(program, folder, begun_by):
        if begun_by:
            train(begun_by, folder, {**settings, "train.max_steps": 50})
        train(program, folder, {**settings, "train.max_steps": 100}, *(["--resume"] if begun_by else []))
        return result_of_run(folder, left_out=50)
    return Case(name, work, begun_by_baseline=True)


def write_numbers(path, non_negative):
    """Float tensors of many sizes: normal numbers over several scales, zeros, tiny and equal ones."""
    generator = random.Random(7)
    values = {f"normal_{count}": [generator.gauss(0, 1) for _ in range(count)] for count in (1, 2, 31, 64, 333, 50021)}
    values["steep"] = [generator.gauss(0, 1) * 10 ** generator.uniform(-12, 6) for _ in range(4099)]
    values["sparse"] = [generator.gauss(0, 1) * (generator.random() < 0.1) for _ in range(2048)]
    values["tiny"] = [generator.gauss(0, 1) * 1e-41 for _ in range(257)]
    values["zero"] = [0.0] * 65
    values["equal"] = [0.7] * 129
    header, data = {}, b""
    for name, numbers in values.items():
        content = struct.pack(f"<{len(numbers)}f", *(abs(x) if non_negative else x for x in numbers))
        header[name] = {"dtype": "F32", "shape": [len(numbers)], "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def quantize(table, form, emulated=False):
    """luqtrain quantize, with two streams of random bits."""
    def work(program, folder, _):
        write_numbers(folder / "in.safetensors", form == "uint4_sawb")
        parts = {}
        for stream in ((0, 0, 0), (5, 7, 3)):
            name = "_".join(["out", *map(str, stream)]) + ".safetensors"
            words = [word for key, value in zip(("--seed", "--step", "--sample"), stream) for word in (key, value)]
            run(program, folder, "quantize", "--input", "in.safetensors", "--format", form, "--output", name, *words,
                "--device", "cuda" if emulated else "cpu", table=None if emulated else table)
            parts[f"stream {stream}"] = tensors_of(folder / name)
        return parts
    return Case(f"quantize/{table}/{form}", work, emulated)


def write_png(path, seed, size):
    """A colour image of noise."""
    pixels = random.Random(seed)
    rows = b"".join(b"\0" + bytes(pixels.randrange(256) for _ in range(3 * size)) for _ in range(size))
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)),
                          (b"IEND", b"")):
        data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    path.write_bytes(data)


def export(model, settings, image_size):
    """A run, its checkpoint in each format that luqtrain exports, and what checkpoint and packed file predict."""
    def work(program, folder, _):
        train(program, folder, settings)
        for form in ("onnx", "packed", "safetensors"):
            run(program, folder, "export", "--checkpoint", LAST, "--format", form, "--output", f"model.{form}")
        images = ["0.png", "1.png"]
        for seed, image in enumerate(images):
            write_png(folder / image, seed, image_size)
        for file, logits in ((LAST, "last.logits"), ("model.packed", "packed.logits")):
            run(program, folder, "predict", "--checkpoint", file, "--logits", logits, *images)
        packed = metadata_of(folder / "model.packed")
        return {
            "training": tensors_of(folder / LAST),
            "onnx": bytes_of(folder / "model.onnx"),
            "packed": tensors_of(folder / "model.packed"),
            "packed layers": {name: text for name, text in packed.items() if name.endswith(".codes")},
            "state_dict": bytes_of(folder / "model.safetensors"),
            "logits of the checkpoint": tensors_of(folder / "last.logits"),
            "logits of the packed file": tensors_of(folder / "packed.logits"),
        }
    return Case(f"export/{model}", work)


def model_settings(model, steps):
    """One epoch on made-up images."""
    own, batch = MODELS[model]
    return {**MADE_UP, "model.name": model, "train.batch_size": batch, "train.max_steps": steps, "train.epochs": 1,
            "data.synthetic.train_images": 20 * batch, "eval.max_images": 8, **own}


def named(*words):
    """A case's name of the words that are not empty."""
    return "/".join(word for word in words if word)


def quick_cases(tables):
    """Single commands, and resumed runs."""
    for table in ["ref", *tables]:
        yield from (quantize(table, form) for form in FORMATS)
    yield from (quantize("emulated", form, emulated=True) for form in FORMATS)
    yield export("resnet20", {**SCALAR, "train.max_steps": 10}, 28)
    for model in ("mobilenet_v2", "vit_b_16"):
        yield export(model, model_settings(model, 3), 32)
    for precision in PRECISIONS:
        settings = {**LONG, "precision": precision}
        yield resumed(f"resumed/{precision}", settings)
        yield resumed(f"resumed/{precision}/recipe", {**settings, **RECIPE})
        yield resumed(f"resumed/{precision}/reference_parts",
                      {**settings, **PARTS, "quantization.activations.scale": "reference"})
        yield resumed(f"resumed/{precision}/epochs", {**settings, **MADE_UP, "data.synthetic.train_images": 480})


def trainings(tables):
    """The runs of each kernel table, of the emulated device and of the scalar kernels."""
    variants = [(scale, name, extra) for scale in SCALES for name, extra in EVERY_SCALE.items()]
    variants += [("sawb", name, {"train.max_steps": 30, **extra}) for name, extra in SAWB_ALONE.items()]
    few = [(scale, "", {}) for scale in SCALES]
    few += [("sawb", "stochastic", STOCHASTIC), ("sawb", "parts", PARTS), ("sawb", "gradients_int4", GRADIENTS_INT4)]

    def of_resnet20(size, precision, variant, where, **how):
        scale, name, extra = variant
        settings = {**size, "precision": precision, "quantization.activations.scale": scale, **extra}
        return training(named(where, precision, scale, name), settings, **how)

    for table in tables:
        for precision in PRECISIONS:
            for variant in variants:
                yield of_resnet20(LONG, precision, variant, f"resnet20/{table}", table=table)
            for model in MODELS:
                settings = {**model_settings(model, 20), "precision": precision}
                yield training(named(model, table, precision), settings, table)
    for precision in PRECISIONS:
        for variant in few:
            yield of_resnet20(EMULATED, precision, variant, "emulated", emulated=True)
    for precision in PRECISIONS:
        for variant in few:
            yield of_resnet20(SCALAR, precision, variant, "resnet20/ref", table="ref")
