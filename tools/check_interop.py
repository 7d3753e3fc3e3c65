#!/usr/bin/env python3
"""What luqtrain writes and reads, checked with the official Python packages: torch, torchvision, safetensors, onnx,
onnxruntime (tools/setup_torch.sh installs the first two; pip installs the others beside them).

    ~/.local/share/luqtrain/torch/bin/python tools/check_interop.py [MODEL...] > docs/results/interop/check_interop.txt

For each model, with torchvision's random weights and running statistics moved away from 0 and 1, on the images of
tests/golden/images:
  import       a state_dict saved by safetensors.torch: logits of `luqtrain predict` against torchvision's
  safetensors  exported again: loaded by torchvision strictly, every tensor equal
  onnx         float32, checked by onnx.checker, run by onnxruntime: logits against `luqtrain predict`
and after a few steps of quantised training from these weights on the same images, as class folders:
  packed       decoded by numpy: every weight against the float32 one; `luqtrain predict` against the checkpoint's
  sensitivity  `luqtrain predict` again with the first layer's float32 weights times 1 + 1e-6: what a change in the last
               digit of float32 becomes, since a value next to the border between two codes takes the other one and the
               layers behind amplify that
  onnx 4-bit   run by onnxruntime: logits against `luqtrain predict`; float32 sums in another order are such a change
  float64      the same graph in float64, where only values that are within float32's rounding of a border can take
               another code: `luqtrain predict` and onnxruntime against it, the median image (not for ViT)
Differences are relative: the largest difference of an image's logits, divided by its largest logit. Exit code 1 when a
bound is passed.
"""
import argparse
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

import numpy
import onnx
import onnxruntime
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
import torchvision
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODELS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "wide_resnet50_2", "vgg11",
          "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn", "alexnet", "mobilenet_v2", "vit_b_16"]
FLOAT_BOUND = 1e-4  # sums in another order
MEDIAN_BOUND = 1e-5  # of half of the images, of luqtrain against float64
SENSITIVITY_FACTOR = 3  # without float64: how much more than a change in the last digit
LEAST_TOP1 = 0.9
FIRST_LAYERS = ("conv1.weight", "features.0.weight", "features.0.0.weight", "conv_proj.weight")
LEFT_OUT = {"grey16.png"}  # Pillow clips 16-bit grey where the upper bits are meant (docs/data.md)

TRAINING = """
model: {{name: {model}, weights: {weights}}}
data: {{name: image_folder, path: {data}, workers: 1}}
run: {{directory: {run}}}
optimizer: {{lr: 0.0001}}
train: {{epochs: 1, max_steps: 3, batch_size: 4}}
eval: {{batch_size: 4, max_images: 4}}
quantization:
  weights: {{format: int4}}
  activations: {{format: int4}}
  gradients: {{format: fp4}}
"""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="*", default=MODELS)
    parser.add_argument("--luqtrain", default=str(ROOT / "build/luqtrain"))
    return parser.parse_args()


def replay(model, images):
    """The logits of an exported CNN, computed in float64."""
    functional = torch.nn.functional
    values = {tensor.name: torch.tensor(onnx.numpy_helper.to_array(tensor).astype(
        numpy.int64 if tensor.data_type == onnx.TensorProto.INT64 else numpy.float64))
        for tensor in model.graph.initializer}
    low = {tensor.name: 0 if tensor.data_type == onnx.TensorProto.UINT4 else -8 for tensor in model.graph.initializer}
    values["images"] = torch.tensor(images, dtype=torch.float64)
    for node in model.graph.node:
        x, *rest = (values[name] for name in node.input)
        keys = {key.name: onnx.helper.get_attribute_value(key) for key in node.attribute}
        pads = keys.get("pads", [0, 0])[:2]
        match node.op_type:
            case "Conv":
                y = functional.conv2d(x, *rest, stride=keys["strides"], padding=pads, dilation=keys["dilations"],
                                      groups=keys["group"])
            case "Gemm":
                y = functional.linear(x, *rest)
            case "MatMul":
                y = x @ rest[0]
            case "Add":
                y = x + rest[0]
            case "Max":
                y = torch.maximum(x, rest[0])
            case "Min":
                y = torch.minimum(x, rest[0])
            case "Relu":
                y = functional.relu(x)
            case "BatchNormalization":
                weight, bias, mean, variance = rest
                y = functional.batch_norm(x, mean, variance, weight, bias, eps=keys["epsilon"])
            case "MaxPool":
                y = functional.max_pool2d(x, keys["kernel_shape"], keys["strides"], pads)
            case "GlobalAveragePool":
                y = x.mean((2, 3), keepdim=True)
            case "QuantizeLinear":
                least = low[node.input[2]]
                y = torch.round(x / rest[0]).clamp(least, least + 15)
            case "DequantizeLinear":
                y = x * rest[0]
            case "Transpose":
                y = x.permute(keys["perm"])
            case "Flatten":
                y = x.flatten(1)
            case "Reshape":
                y = x.reshape([x.shape[i] if extent == 0 else int(extent) for i, extent in enumerate(rest[0])])
            case "Identity":
                y = x
            case _:
                return None
        values[node.output[0]] = y
    return values["logits"].numpy()


class Checks:
    def __init__(self, program, folder):
        self.program, self.folder, self.failures = program, folder, 0
        images = ROOT / "tests/golden/images"
        self.images = sorted(path for path in images.iterdir()
                             if path.suffix.lower() in (".jpg", ".jpeg", ".png") and path.name not in LEFT_OUT)
        transform = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
        self.batch = torch.stack([transform(Image.open(path).convert("RGB")) for path in self.images])
        # Two classes, the same files in both splits: only there to give the layers activation scales.
        for split in ("train", "val"):
            for index, path in enumerate(self.images):
                target = folder / "data" / split / f"class{index % 2}"
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target / path.name)

    def luqtrain(self, *words):
        process = subprocess.run([self.program, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 text=True, check=False)
        if process.returncode != 0:
            sys.exit(f"luqtrain {' '.join(map(str, words))}\n{process.stderr}")
        return process.stdout

    def predict(self, file, *words):
        logits = self.folder / "logits"
        self.luqtrain("predict", "--checkpoint", file, "--logits", logits, *words, *self.images)
        return safetensors.numpy.load_file(logits)["logits"]

    def run_onnx(self, file):
        model = onnx.load(str(file))
        onnx.checker.check_model(model, full_check=True)
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return model, session.run(["logits"], {"images": self.batch.numpy()})[0]

    def report(self, what, text, fine):
        self.failures += not fine
        print(f"  {what:<13} {text}{'' if fine else '   FAILED'}", flush=True)

    def compare(self, what, ours, theirs, bound, detail="", top1=LEAST_TOP1):
        """The largest difference."""
        scale = numpy.abs(theirs).max(axis=1)
        difference = numpy.abs(ours - theirs).max(axis=1) / scale
        # A class may only differ where the two largest logits are nearer than the bound.
        classes = ours.argmax(axis=1) == theirs.argmax(axis=1)
        self.report(what, f"largest difference {difference.max():.1e}, mean {difference.mean():.1e}; top-1 agrees on "
                          f"{classes.sum()} of {len(classes)} images{detail}",
                    bool(difference.max() <= bound and classes.mean() >= top1))
        return difference.max()

    def model(self, name):
        print(name, flush=True)
        torch.manual_seed(1)
        model = getattr(torchvision.models, name)().eval()
        with torch.no_grad():
            for key, tensor in model.named_buffers():
                if key.endswith("running_mean"):
                    tensor.normal_(0, 0.1)
                elif key.endswith("running_var"):
                    tensor.uniform_(0.75, 1.25)
            for key, tensor in model.named_parameters():  # a head of zeros tells nothing
                if key == "heads.head.weight":
                    tensor.normal_(0, 0.02)
            theirs = model(self.batch).numpy()
        plain, again, graph = (self.folder / file for file in ("plain", "again", "model.onnx"))
        safetensors.torch.save_file({key: value.contiguous() for key, value in model.state_dict().items()}, plain)
        ours = self.predict(plain, "--model", name)
        self.compare("import", ours, theirs, FLOAT_BOUND)

        self.luqtrain("export", "--checkpoint", plain, "--model", name, "--format", "safetensors", "--output", again)
        exported = safetensors.torch.load_file(again)
        other = getattr(torchvision.models, name)()
        other.load_state_dict(exported, strict=True)
        equal = all(torch.equal(value, exported[key]) for key, value in model.state_dict().items())
        self.report("safetensors", f"load_state_dict(strict=True); {len(exported)} tensors, all equal", equal)

        self.luqtrain("export", "--checkpoint", plain, "--model", name, "--format", "onnx", "--output", graph)
        _, theirs = self.run_onnx(graph)
        self.compare("onnx", ours, theirs, FLOAT_BOUND)
        self.quantized(name, plain)

    def quantized(self, name, plain):
        run, config = self.folder / "run", self.folder / "config.yaml"
        shutil.rmtree(run, ignore_errors=True)
        config.write_text(TRAINING.format(model=name, weights=plain, data=self.folder / "data", run=run))
        self.luqtrain("--config", config)
        checkpoint, packed, graph = run / "checkpoints/last.safetensors", self.folder / "packed", self.folder / "q.onnx"
        ours = self.predict(checkpoint)
        text = self.luqtrain("export", "--checkpoint", checkpoint, "--format", "packed", "--output", packed)
        tensors, weights = safetensors.numpy.load_file(packed), safetensors.numpy.load_file(checkpoint)
        with safetensors.safe_open(packed, "numpy") as file:
            metadata = file.metadata()
        layers, largest, bytes_packed, bytes_float = 0, 0.0, 0, 0
        for key in [key for key in tensors if key.endswith(".codes")]:
            weight, scale = weights[key[:-6]], tensors[key[:-6] + ".scale"]
            shape = json.loads(metadata[key])["shape"]
            codes = numpy.stack([tensors[key] & 15, tensors[key] >> 4], 1).reshape(-1)[:weight.size]
            integers = ((codes.astype(numpy.int8) ^ 8) - 8).reshape(shape)
            nearest = numpy.clip(weight / scale, -7, 7)
            largest = max(largest, float(numpy.abs(nearest - integers).max()))
            layers += 1
            bytes_packed += tensors[key].nbytes + scale.nbytes
            bytes_float += weight.nbytes
        share = bytes_packed / bytes_float
        self.report("packed", f"{layers} layers, {share:.4f} of float32; farthest weight {largest:.5f} steps from its code; "
                              + text.splitlines()[-1], largest <= 0.5 + 1e-4 and share <= 0.13)
        self.report("packed predict", "logits equal the checkpoint's to the bit",
                    bool(numpy.array_equal(self.predict(packed), ours)))
        first = next(key for key in FIRST_LAYERS if key in tensors)
        tensors[first] = tensors[first] * numpy.float32(1 + 1e-6)
        moved = self.folder / "moved"
        safetensors.numpy.save_file(tensors, moved, metadata)
        # What to expect of 4 bits, not a check.
        sensitivity = self.compare("sensitivity", self.predict(moved), ours, numpy.inf, top1=0)
        self.luqtrain("export", "--checkpoint", checkpoint, "--format", "onnx", "--output", graph)
        model, theirs = self.run_onnx(graph)
        types = {}
        for tensor in model.graph.initializer:
            if tensor.dims and tensor.data_type != onnx.TensorProto.FLOAT:
                kind = onnx.TensorProto.DataType.Name(tensor.data_type)
                types[kind] = types.get(kind, 0) + 1
        pairs = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
        exact = replay(model, self.batch.numpy())
        bound = SENSITIVITY_FACTOR * sensitivity if exact is None else numpy.inf
        self.compare("onnx 4-bit", ours, theirs, bound,
                     f"; {types.get('INT4', 0)} INT4 weights, {pairs} quantised inputs, {graph.stat().st_size:,} bytes")
        if exact is None:
            return
        medians, equal = [], []
        for logits in (ours, theirs):
            difference = numpy.abs(logits - exact).max(axis=1) / numpy.abs(exact).max(axis=1)
            medians.append(float(numpy.median(difference)))
            equal.append(int((difference <= 1e-5).sum()))
        self.report("float64", f"luqtrain {medians[0]:.1e}, onnxruntime {medians[1]:.1e} in the median; within 1e-5 on "
                               f"{equal[0]} and {equal[1]} of {len(exact)} images", medians[0] <= MEDIAN_BOUND)


def main():
    args = arguments()
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, text=True,
                            check=False).stdout.strip()
    print(f"luqtrain at {commit}; Python {platform.python_version()}, torch {torch.__version__}, torchvision "
          f"{torchvision.__version__}, safetensors {safetensors.__version__}, onnx {onnx.__version__}, onnxruntime "
          f"{onnxruntime.__version__}")
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    with tempfile.TemporaryDirectory(prefix="luq_interop_") as folder:
        checks = Checks(args.luqtrain, pathlib.Path(folder))
        print(f"{len(checks.images)} images; differences relative to an image's largest logit")
        for name in args.model:
            checks.model(name)
    print("all within bounds" if checks.failures == 0 else f"{checks.failures} checks FAILED")
    return 1 if checks.failures else 0


if __name__ == "__main__":
    sys.exit(main())
