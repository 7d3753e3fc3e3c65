"""Epochs of torchvision's loader, for `luqbench loader --compare torch`: ImageFolder, PIL, RandomResizedCrop, flip, ToTensor,
Normalize, in worker processes.

For each line on standard input it reads one epoch and prints the images, the seconds, and the seconds of CPU that all its
processes took. Run by tools/setup_torch.sh's Python.
"""
import argparse
import multiprocessing
import os
import resource
import sys
import time

import torch
from torchvision import datasets, transforms


def cpu_seconds():
    """Of this process and of its running children."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    total = own.ru_utime + own.ru_stime
    for child in multiprocessing.active_children():
        with open(f"/proc/{child.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime
    return total


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--path", required=True)
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    options = parser.parse_args()
    torch.manual_seed(0)
    transform = transforms.Compose([
        transforms.RandomResizedCrop(224),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])
    images = torch.utils.data.Subset(datasets.ImageFolder(options.path, transform), range(options.images))
    loader = torch.utils.data.DataLoader(images, options.batch, shuffle=True, num_workers=options.workers,
                                         persistent_workers=True)
    for _ in sys.stdin:
        start, cpu_before, count = time.perf_counter(), cpu_seconds(), 0
        for batch, _ in loader:
            count += len(batch)
        print(count, time.perf_counter() - start, cpu_seconds() - cpu_before, flush=True)


if __name__ == "__main__":
    main()
