"""Training steps of a model in PyTorch, for `luqbench step --compare torch`.

For each line on standard input it runs one step (forward, loss, backward, update) on one batch of random images and
prints the seconds, the loss and the peak memory in bytes: the process's resident memory, or what tensors took on the GPU. Run by tools/setup_torch.sh's Python.
"""
import argparse
import resource
import sys
import time

import torch
import torchvision
from torch import nn
from torch.nn import functional


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.relu(self.bn2(self.conv2(y)) + self.downsample(x), inplace=True)


class CifarResNet(nn.Module):
    """ResNet of He et al. 2016, section 4.2, with 6 n + 2 layers; torchvision has none of these."""

    def __init__(self, n, channels, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks, inputs = [], 16
        for outputs, stride in ((16, 1), (32, 2), (64, 2)):
            for block in range(n):
                blocks.append(BasicBlock(inputs, outputs, stride if block == 0 else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(64, classes)

    def forward(self, x):
        y = self.blocks(functional.relu(self.bn1(self.conv1(x)), inplace=True))
        return self.fc(y.mean((2, 3)))


def make_model(name, channels, classes):
    cifar = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9}
    if name in cifar:
        return CifarResNet(cifar[name], channels, classes)
    if channels != 3:
        sys.exit(f"torch_step: torchvision's {name} takes 3 channels, not {channels}")
    try:
        return torchvision.models.get_model(name, num_classes=classes)
    except ValueError as error:
        sys.exit(f"torch_step: {error}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--channels", type=int, required=True)
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    options = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    model = make_model(options.model, options.channels, options.classes).train()
    model = model.to(options.device, memory_format=torch.channels_last)
    images = torch.randn(options.batch, options.channels, options.image_size, options.image_size)
    images = images.to(options.device, memory_format=torch.channels_last)
    labels = torch.randint(0, options.classes, (options.batch,)).to(options.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    forward = torch.compile(model) if options.compile else model
    for _ in sys.stdin:
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(options.device, dtype=torch.bfloat16, enabled=options.bf16):
            logits = forward(images)
        loss = functional.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()
        if options.device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if options.device == "cuda":
            peak = torch.cuda.max_memory_allocated()
        print(seconds, loss.item(), peak, torch.__version__, flush=True)


if __name__ == "__main__":
    main()
