"""Writes the golden files of tests/golden/zoo/, one per model of torchvision, with PyTorch in float64:

    python3 tests/golden/make_zoo.py [MODEL...]

needs torch, torchvision and safetensors; a file's metadata names the versions it was made with. Models have their full
size: 224x224, 1000 classes, a batch of 2. Parameters, running statistics, images and dropout masks come from the
counter-based generator of counter.py, keyed by name, in torchvision's layout, so that a file holds results alone:

  metadata "state_dict"     names and shapes of the parameters and buffers, num_batches_tracked left out, as JSON
  logits                    in evaluation mode
  training_logits           of the models of GRADIENTS, in training mode
  gradient:<parameter>      the norm and 16 signed sums (counter.py) of the gradient of the mean cross-entropy there
  off:<parameter>           how far another computation of the gradient may be off, as below

A sign that rounding decides cannot be compared: of a network's millions of ReLU inputs some lie within float32's rounding
of 0, and each that falls on the other side passes its gradient or not. So does each near tie of a max pool. Therefore
gradients of models with batch norm start from norms that keep the inputs of ReLU apart from 0 (channels that are on,
channels that are off and, where there is a ceiling, channels that are above it), and from images and first weights on a
coarse grid: their products are exact in float32, so that two inputs of the max pool behind them are equal or far apart.
Both distances are measured here, and a file is written only when they are large. "off" is the distance of PyTorch's
float32 gradient from its float64 one.

VGG has no norms. There "off" is the largest of that distance and of those in two further runs in float64 in which every
input of ReLU and of max pooling is moved at random by at most MOVE of its root mean square. ViT has neither: there it is that
distance alone.
"""
import json
import math
import pathlib
import sys

import numpy
import safetensors.numpy
import torch
import torchvision

from counter import CountedDropout, random32, signed_sums, uniform

BATCH, SIZE, CLASSES = 2, 224, 1000
MODELS = ["alexnet", "mobilenet_v2", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d",
          "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "vit_b_16",
          "wide_resnet50_2"]
GRADIENTS = ["mobilenet_v2", "resnet18", "resnext50_32x4d", "vgg11", "vit_b_16"]
MARGIN = 2e-5  # inputs of ReLU and of max pooling come no nearer to a tie; float32's errors there are below 1e-6
MOVE = 4e-6
# Norms at the end of a residual branch, smaller so that a hundred layers neither explode nor forget their input.
LAST_NORMS = (".bn2.weight", ".bn3.weight", ".conv.2.weight", ".conv.3.weight")


# ---- Values, repeated in zoo_test.cc --------------------------------------------------------------------------------

def value(name, shape):
    """A parameter or buffer for evaluation."""
    if len(shape) > 1:  # keeps variances through a ReLU (He et al. 2015)
        bound = math.sqrt(6.0 / math.prod(shape[1:]))
        return uniform(name, shape, -bound, bound)
    if name.endswith(LAST_NORMS):
        return uniform(name, shape, 0.25, 0.5)
    if name.endswith((".weight", ".running_var")):
        return uniform(name, shape, 0.7, 1.3)
    return uniform(name, shape, -0.2, 0.2)


def value_apart(name, shape):
    """A parameter or buffer of a model with batch norm for gradients."""
    is_head = name.startswith(("fc.", "classifier."))
    if name == "conv1.weight":  # in front of the max pool
        return on_grid(uniform(name, shape, -0.25, 0.25), 64)
    is_linear = ".conv.2." in name or ".conv.3." in name  # no ReLU6 behind it
    if len(shape) > 1 or is_head or is_linear or "running" in name:
        return value(name, shape) * numpy.float32(0.1 if is_head else 1)
    if name.endswith(".weight"):
        return uniform(name, shape, 0.04, 0.08)
    array = uniform(name, shape, 0.7, 1.0)
    if name.endswith("bn1.bias"):
        array[1::2] *= -1
    if name.endswith((".0.1.bias", ".1.1.bias")):  # ReLU6 behind it
        array[1::3] *= -1
        array[2::3] += 6
    return array


def on_grid(array, steps):
    return numpy.floor(array * numpy.float32(steps) + numpy.float32(0.5)) / numpy.float32(steps)


def images():
    """Noise on squares of 32x32 pixels, so that features differ between the images after all pooling."""
    noise = uniform("images", (BATCH, SIZE, SIZE, 3), -0.5, 0.5)
    squares = uniform("squares", (BATCH, SIZE // 32, SIZE // 32, 3), -1, 1)
    pixels = noise + squares.repeat(32, axis=1).repeat(32, axis=2)
    return torch.from_numpy(on_grid(pixels, 8)).permute(0, 3, 1, 2)


def labels():
    return torch.from_numpy((random32("labels", BATCH) % CLASSES).astype(numpy.int64))


# ---- Models ----------------------------------------------------------------------------------------------------------

def state_of(model):
    return {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}


def new_model(name, values, dtype=torch.float64):
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None, num_classes=CLASSES)
    for layer, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Dropout):
            parent, _, child = layer.rpartition(".")
            setattr(model.get_submodule(parent), child, CountedDropout(layer, module.p))
    model.to_empty(device="cpu").to(dtype)
    for key, tensor in state_of(model).items():
        tensor.copy_(torch.from_numpy(values(key, tuple(tensor.shape))))
    return model


def gradients(model):
    """Logits and gradients in training mode."""
    model.train()
    model.zero_grad()
    logits = model(images().to(next(model.parameters()).dtype))
    torch.nn.functional.cross_entropy(logits, labels()).backward()
    return logits.detach(), {key: parameter.grad.double() for key, parameter in model.named_parameters()}


def hook(model, kinds, function):
    return [module.register_forward_pre_hook(function) for module in model.modules() if isinstance(module, kinds)]


RELU = (torch.nn.ReLU, torch.nn.ReLU6)


def watch_margins(model, margins):
    """Notes in `margins` how near inputs of ReLU come to its bends, and two unequal ones of a max pool to each other."""

    def relu(module, inputs):
        x = inputs[0].detach()
        margins.append(x.abs().min().item())
        if isinstance(module, torch.nn.ReLU6):
            margins.append((x - 6).abs().min().item())

    def pool(module, inputs):
        k, s, p = module.kernel_size, module.stride, module.padding
        x = torch.nn.functional.pad(inputs[0].detach(), (p, p, p, p), value=-math.inf)
        largest = x.unfold(2, k, s).unfold(3, k, s).reshape(-1, k * k).topk(2, dim=1).values
        lead = (largest[:, 0] - largest[:, 1])[largest[:, 0] > 0]
        margins.append(lead[lead > 0].min().item())

    hook(model, RELU, relu)
    hook(model, torch.nn.MaxPool2d, pool)


def move_inputs(model, seed):
    generator = torch.Generator().manual_seed(seed)

    def move(_, inputs):
        x = inputs[0]
        noise = torch.rand(x.shape, generator=generator, dtype=x.dtype) * 2 - 1
        return x + noise * (MOVE * x.detach().square().mean().sqrt())

    hook(model, RELU + (torch.nn.MaxPool2d,), move)


# ---- Files -----------------------------------------------------------------------------------------------------------

def make_gradients(name, tensors):
    has_norm = any("running" in key for key in state_of(new_model(name, value)))
    values = value_apart if has_norm else value
    model, margins = new_model(name, values), []
    if has_norm:
        watch_margins(model, margins)
    tensors["training_logits"], exact = gradients(model)
    if has_norm:
        print(f"{name}: smallest distance from a tie {min(margins):.2e}", flush=True)
        assert min(margins) > MARGIN, "ill-conditioned: rounding would decide a ReLU or a max pool"
    others = [gradients(new_model(name, values, torch.float32))[1]]
    for seed in () if has_norm else (1, 2):
        moved = new_model(name, values)
        move_inputs(moved, seed)
        others.append(gradients(moved)[1])
    shares = []
    for key, gradient in exact.items():
        off = max((other[key] - gradient).norm().item() for other in others)
        tensors["gradient:" + key] = signed_sums(key, gradient)
        tensors["off:" + key] = numpy.array([off])
        shares.append(off / max(gradient.norm().item(), 1e-30))
    print(f"{name}: gradients are off by {numpy.median(shares):.2e} of their norms (median)", flush=True)


def make(name, folder):
    model = new_model(name, value).eval()
    with torch.no_grad():
        logits = model(images().double()).numpy()
    spread = numpy.abs(logits[0] - logits[1]).mean() / logits.std()
    print(f"{name}: logits' standard deviation {logits.std():.3f}, largest {numpy.abs(logits).max():.3f}, "
          f"difference between the images {spread:.3f} of that", flush=True)
    assert 0.1 < logits.std() < 10 and spread > 0.01, "the ranges do not suit this model"
    metadata = {"pytorch": torch.__version__, "torchvision": torchvision.__version__,
                "state_dict": json.dumps({key: list(tensor.shape) for key, tensor in state_of(model).items()},
                                         separators=(",", ":"))}
    del model
    tensors = {"logits": logits}
    if name in GRADIENTS:
        make_gradients(name, tensors)
    file = folder / f"{name}.safetensors"
    safetensors.numpy.save_file({key: numpy.ascontiguousarray(numpy.asarray(tensor, numpy.float32))
                                 for key, tensor in tensors.items()}, str(file), metadata=metadata)
    file.chmod(0o644)
    print(file, file.stat().st_size, "bytes", flush=True)


def main():
    folder = pathlib.Path(__file__).parent / "zoo"
    folder.mkdir(exist_ok=True)
    torch.use_deterministic_algorithms(True)
    for name in sys.argv[1:] or MODELS:
        make(name, folder)


if __name__ == "__main__":
    main()
