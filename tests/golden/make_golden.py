"""Writes the golden files of tests/golden/ with PyTorch, in float64:

    python3 tests/golden/make_golden.py

needs torch, torchvision and safetensors; the files in the repository were made with PyTorch 2.15.0 and torchvision
0.29.2. Nothing random travels in the files: parameters, images, labels and dropout masks come from the counter-based
generator of counter.py.

A sign that rounding decides cannot be compared: with weights as training has them, some of ResNet-20's four million ReLU
inputs in ten steps lie within 1e-7 of zero, and PyTorch's own float32 ends 100 % away from its float64. So its ten steps
start from norms that keep ReLU inputs apart from zero (channels that are on, and channels that are off). The smallest
distance is measured here, and a file is written only when it is far above float32's rounding; logits and gradients come
from weights without that care.

resnet20.safetensors holds, per parameter, the norm and 16 signed sums instead of all values (signed_sums of counter.py);
vgg_small.safetensors holds everything. Layouts and names are luqtrain's: weights (O, KH, KW, I), activations NHWC.
"""
import pathlib

import numpy
import safetensors.numpy
import torch
import torchvision

from counter import CountedDropout, random32, signed_sums, uniform

STEPS = 10
BATCH = 8
SIZES = {"resnet20": 16, "vgg_small": 12}
FIRST_BATCH = {"resnet20": 0, "vgg_small": 360}  # of the stream of images and labels; chosen for MARGINS
CLASSES = 10
LABEL_SMOOTHING = 0.1
RECIPES = {
    "resnet20": dict(lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "vgg_small": dict(lr=0.02, momentum=0.9, nesterov=False, weight_decay=1e-3),
}
# How near to a tie the inputs of ReLU and max pooling may come in ten steps; float32's errors are near 1e-6.
MARGINS = {"resnet20": 0.05, "vgg_small": 1e-5}

# ---- Models ----------------------------------------------------------------------------------------------------------

class ResNet20(torch.nn.Module):
    """torchvision's blocks in the shape of He et al. 2016, section 4.2, with 1x1 shortcuts."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(16)
        channels = 16
        for stage, width in enumerate((16, 32, 64)):
            blocks = []
            for block in range(3):
                stride = 2 if stage > 0 and block == 0 else 1
                shortcut = None
                if stride != 1 or channels != width:
                    shortcut = torch.nn.Sequential(torch.nn.Conv2d(channels, width, 1, stride, bias=False),
                                                   torch.nn.BatchNorm2d(width))
                blocks.append(torchvision.models.resnet.BasicBlock(channels, width, stride, shortcut))
                channels = width
            setattr(self, f"layer{stage + 1}", torch.nn.Sequential(*blocks))
        self.relu = torch.nn.ReLU()
        self.fc = torch.nn.Linear(64, CLASSES)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x))))))
        return self.fc(x.mean(dim=(2, 3)))


class VggSmall(torch.nn.Module):
    """torchvision's VGG, small: pooling to 2x2 and 32 hidden units."""

    def __init__(self):
        super().__init__()
        self.features = torchvision.models.vgg.make_layers([8, "M", 16, "M"], batch_norm=True)
        self.classifier = torch.nn.Sequential(
            torch.nn.Linear(16 * 2 * 2, 32), torch.nn.ReLU(), CountedDropout("classifier.2"), torch.nn.Linear(32, 32),
            torch.nn.ReLU(), CountedDropout("classifier.5"), torch.nn.Linear(32, CLASSES))

    def forward(self, x):
        x = torch.nn.functional.adaptive_avg_pool2d(self.features(x), 2)
        return self.classifier(x.flatten(1))


def to_ours(model, name, tensor):
    """A parameter's values in luqtrain's layout."""
    tensor = tensor.detach()
    if tensor.dim() == 4:
        return tensor.permute(0, 2, 3, 1).contiguous()
    if isinstance(model, VggSmall) and name == "classifier.0.weight":  # reads pixels in NHWC order
        return tensor.reshape(-1, 16, 2, 2).permute(0, 2, 3, 1).reshape(tensor.shape).contiguous()
    return tensor


def from_ours(model, name, array, like):
    tensor = torch.from_numpy(array).double()
    if like.dim() == 4:
        return tensor.permute(0, 3, 1, 2)
    if isinstance(model, VggSmall) and name == "classifier.0.weight":
        return tensor.reshape(-1, 2, 2, 16).permute(0, 3, 1, 2).reshape(like.shape)
    return tensor


def fill(model, apart):
    """Weights within the bound that keeps variances (He et al. 2015), norms around 1, biases around 0. apart: norms that
    leave no ReLU input near 0, in a block's first half above and below in turn, so that half the channels are off."""
    for name, parameter in model.named_parameters():
        shape = to_ours(model, name, parameter).shape
        if parameter.dim() > 1:
            bound = numpy.sqrt(6.0 / numpy.prod(shape[1:])) * (0.1 if apart and name.startswith("fc") else 1.0)
            array = uniform(name, shape, -bound, bound)
        elif apart and "fc" not in name:
            array = uniform(name, shape, 0.7, 1.0) if "bias" in name else uniform(name, shape, 0.05, 0.1)
            if name.endswith(".bn1.bias"):
                array[1::2] *= -1
        elif "bias" in name:
            array = uniform(name, shape, -0.2, 0.2)
        else:
            array = uniform(name, shape, 0.7, 1.3)
        parameter.data = from_ours(model, name, array, parameter)


# ---- What is stored --------------------------------------------------------------------------------------------------

def batch(name, step):
    number, size = FIRST_BATCH[name] + step, SIZES[name]
    images = torch.from_numpy(uniform(f"images:{number}", (BATCH, size, size, 3), -1, 1)).double()
    labels = torch.from_numpy((random32(f"labels:{number}", BATCH) % CLASSES).astype(numpy.int64))
    return images.permute(0, 3, 1, 2), labels


def forward_backward(model, name, step):
    images, labels = batch(name, step)
    for module in model.modules():
        if isinstance(module, CountedDropout):
            module.step = step
    model.zero_grad()
    logits = model(images)
    loss = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=LABEL_SMOOTHING)
    loss.backward()
    return logits.detach().numpy(), loss.item()


def pool_margin(x):
    """The smallest lead of the largest over the second in 2x2 windows that are not all zero."""
    windows = x.unfold(2, 2, 2).unfold(3, 2, 2).reshape(-1, 4)
    first, second = windows.topk(2, dim=1).values.unbind(1)
    return (first - second)[first > 0].min().item()


def make(name, new_model, folder, whole, apart):
    tensors = {}

    def store(key, parameter_name, tensor):
        ours = to_ours(model, parameter_name, tensor)
        tensors[key] = ours.numpy() if whole else signed_sums(parameter_name, ours)

    model = new_model().double()
    fill(model, apart=False)
    tensors["logits"], _ = forward_backward(model, name, 0)
    for key, parameter in model.named_parameters():
        store("gradient:" + key, key, parameter.grad)

    model = new_model().double()
    fill(model, apart)
    start = {key: value.detach().clone() for key, value in model.named_parameters()}
    margins = []
    for module in model.modules():
        if isinstance(module, torch.nn.ReLU):
            module.register_forward_pre_hook(lambda _, x: margins.append(x[0].detach().abs().min().item()))
        if isinstance(module, torch.nn.MaxPool2d):
            module.register_forward_pre_hook(lambda _, x: margins.append(pool_margin(x[0].detach())))
    optimizer = torch.optim.SGD(model.parameters(), **RECIPES[name])
    losses = []
    for step in range(STEPS):
        losses.append(forward_backward(model, name, step)[1])
        optimizer.step()
    for key, parameter in model.named_parameters():
        store("update:" + key, key, parameter.data - start[key])
    for key, buffer in model.named_buffers():
        if "running" in key:
            tensors["buffer:" + key] = buffer.numpy()
    model.eval()
    with torch.no_grad():
        tensors["eval_logits"] = model(batch(name, STEPS - 1)[0]).numpy()
    tensors["losses"] = numpy.array(losses)
    print(f"{name}: smallest distance from a tie {min(margins):.2e}, losses {losses}")
    assert min(margins) > MARGINS[name], "ill-conditioned: rounding would decide a ReLU or a max pool"
    file = folder / f"{name}.safetensors"
    safetensors.numpy.save_file({key: numpy.ascontiguousarray(value.astype(numpy.float32))
                                 for key, value in tensors.items()}, str(file),
                                metadata={"pytorch": torch.__version__, "torchvision": torchvision.__version__})
    file.chmod(0o644)
    print(file, file.stat().st_size, "bytes")


def main():
    folder = pathlib.Path(__file__).parent
    torch.use_deterministic_algorithms(True)
    make("resnet20", ResNet20, folder, whole=False, apart=True)
    make("vgg_small", VggSmall, folder, whole=True, apart=False)


if __name__ == "__main__":
    main()
