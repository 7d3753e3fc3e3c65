#!/usr/bin/env python3
"""Converts the weights of a PyTorch file (.pth, .pt, .ckpt, .bin) to safetensors, which luqtrain reads. Needs PyTorch.

    python3 convert_checkpoint.py model.pth model.safetensors

The file may be a state_dict or what a training script writes around one: {"model": state_dict, "optimizer": ..., ...}.
The prefixes of wrappers ("module." of DistributedDataParallel, "_orig_mod." of torch.compile, "model." of Lightning) go.
"""
import argparse
import collections
import ctypes
import json
import os
import pathlib
import re
import struct
import sys

# Where several state_dicts are in a file, the first of these names is taken.
PREFERRED = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params", "model_ema",
             "ema_state_dict", "state_dict_ema", "ema")
NO_MODEL = ("optim", "sched", "scaler", "amp", "loss", "criterion", "callbacks", "hyper", "args", "config", "rng")
PREFIXES = ("module.", "_orig_mod.", "model.")


def stop(message):
    sys.exit(f"convert_checkpoint: error: {message}")


def read(torch, path, unsafe):
    """What is in the file. Without `unsafe` nothing but tensors, plain containers and harmless classes."""
    harmless = [argparse.Namespace, collections.defaultdict, pathlib.PosixPath]
    if hasattr(torch.serialization, "add_safe_globals"):
        torch.serialization.add_safe_globals(harmless)
    try:
        return torch.load(path, map_location="cpu", weights_only=not unsafe)
    except FileNotFoundError as error:
        stop(f"{path}: {error.strerror}")
    except Exception as error:  # PyTorch raises several kinds, and several of them for one thing
        reason = " ".join(str(error).split())
        if "torch.jit" in reason or "TorchScript" in reason:
            try:
                return torch.jit.load(path, map_location="cpu")
            except Exception as second:
                reason = " ".join(str(second).split())
        if unsafe:
            stop(f"{path}: PyTorch cannot read it: {reason[:300]}")
        classes = re.findall(r"GLOBAL ([\w.]+)", reason)
        if not classes and "weights" not in reason.lower():
            stop(f"{path}: PyTorch cannot read it: {reason[:300]}")
        stop(f"{path}: holds more than weights"
             + (f" (an object of {classes[0]})" if classes else f": {reason[:300]}")
             + ". Where you trust whoever made it, --unsafe reads all of it; that runs code from the file.")


def state_dicts(torch, value, path=(), depth=3):
    """(path, dict) of every dict of tensors by name, outermost first."""
    if hasattr(value, "state_dict") and callable(value.state_dict):
        value = value.state_dict()
    if not isinstance(value, collections.abc.Mapping):
        return
    tensors = [key for key, entry in value.items() if isinstance(key, str) and isinstance(entry, torch.Tensor)]
    inner = []
    for key, entry in value.items() if depth > 0 else ():
        if isinstance(key, str) and not any(word in key.lower() for word in NO_MODEL):
            inner += state_dicts(torch, entry, path + (key,), depth - 1)
    # A tensor beside state_dicts, as best_acc1, makes no state_dict.
    if any("." in key for key in tensors) or (tensors and not inner):
        yield path, value
    else:
        yield from inner


def rank(found):
    path, tensors = found
    known = [PREFERRED.index(name) for name in path if name in PREFERRED]
    return (bool(path), min(known, default=len(PREFERRED)), -len(tensors))


def without_prefixes(tensors):
    """(tensors, the prefixes that all names began with)."""
    removed = ""
    while True:
        # The average of torch.optim.swa_utils counts its steps beside the model.
        names = [name for name in tensors if name != "n_averaged"]
        prefix = next((p for p in PREFIXES if names and all(name.startswith(p) for name in names)), None)
        if prefix is None:
            return tensors, removed
        tensors = {name[len(prefix):]: tensors[name] for name in names}
        removed += prefix


def stored(torch, tensor):
    """(dtype of safetensors, shape, bytes), or None for what the format or luqtrain does not know."""
    types = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64",
             torch.uint8: "U8", torch.int32: "I32", torch.int64: "I64"}
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        return None
    wider = {torch.bool: torch.uint8, torch.int8: torch.int32, torch.int16: torch.int32}
    tensor = tensor.detach().to("cpu").to(wider.get(tensor.dtype, tensor.dtype)).contiguous()
    if tensor.dtype not in types:
        return None
    count = tensor.numel() * tensor.element_size()
    return types[tensor.dtype], list(tensor.shape), ctypes.string_at(tensor.data_ptr(), count) if count else b""


def write(path, entries):
    order = sorted(entries, key=lambda name: entries[name][0] not in ("F64", "I64"))
    header, position = {}, 0
    for name in order:
        dtype, shape, content = entries[name]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + len(content)]}
        position += len(content)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for name in order:
                file.write(entries[name][2])
        os.replace(temporary, path)
    except OSError as error:
        if os.path.exists(temporary):
            os.remove(temporary)
        stop(f"{path}: cannot be written: {error.strerror}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="PyTorch file")
    parser.add_argument("output", help="safetensors file to write")
    parser.add_argument("--key", help="which state_dict to take, as model or checkpoint/model_ema")
    parser.add_argument("--unsafe", action="store_true", help="read all of the file, which runs code in it")
    arguments = parser.parse_args()
    try:
        import torch
    except ImportError as error:
        stop(f"PyTorch is needed ({error}): pip install torch")
    if os.path.exists(arguments.output) and os.path.exists(arguments.input) and os.path.samefile(arguments.input,
                                                                                                 arguments.output):
        stop(f"{arguments.output}: expected another file than the input")

    found = sorted(state_dicts(torch, read(torch, arguments.input, arguments.unsafe)), key=rank)
    shown = {"/".join(path): tensors for path, tensors in found}
    if not found:
        stop(f"{arguments.input}: there is no state_dict in it")
    key = next(iter(shown)) if arguments.key is None else arguments.key
    if key not in shown:
        stop(f"--key {key}: expected one of {', '.join(name or 'the file itself' for name in shown)}")
    tensors = {name: value for name, value in shown[key].items() if isinstance(value, torch.Tensor)}
    others = [str(name) for name in shown[key] if name not in tensors]
    tensors, removed = without_prefixes(tensors)
    entries = {name: stored(torch, tensor) for name, tensor in tensors.items()}
    others += [name for name, entry in entries.items() if entry is None]
    entries = {name: entry for name, entry in entries.items() if entry is not None}
    if not entries:
        stop(f"{arguments.input}: '{key}' holds no tensor that can be stored")
    write(arguments.output, entries)

    print(f"{arguments.output}: {len(entries)} tensors from " + (f"'{key}' of " if key else "") + arguments.input +
          (f", without the prefix '{removed}'" if removed else ""))
    if len(shown) > 1:
        names = ", ".join(f"--key {name}" for name in shown if name != key)
        print(f"There are others in the file: {names}")
    if others:
        print(f"Left out, no tensors or of no type that is known: {', '.join(others[:10])}"
              + (f" and {len(others) - 10} more" if len(others) > 10 else ""))


if __name__ == "__main__":
    main()
