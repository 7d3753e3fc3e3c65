"""What torchvision 0.29.2 makes of a small image with each of its colour and geometry operations, on Pillow 13.0.0:

    python3 tests/golden/make_augment.py           # needs Pillow, torchvision, numpy, safetensors

augment.safetensors holds `image` and, as uint8 (height, width, 3), the results: OP/MAGNITUDE of RandAugment's and
TrivialAugment's operations, and adjust_*/FACTOR of ColorJitter's; `rand_augment` (ops, 31) and `trivial_augment` hold
the magnitudes of an image of 40 x 52, float32.
"""
import pathlib

import numpy
import safetensors.numpy
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandAugment, TrivialAugmentWide, functional
from torchvision.transforms.autoaugment import _apply_op

FOLDER = pathlib.Path(__file__).resolve().parent / "images"
OPS = {
    "Identity": [0], "ShearX": [0.27, -0.99], "ShearY": [-0.09, 0.6], "TranslateX": [7.6, -20.2],
    "TranslateY": [-3.9, 32], "Rotate": [-9.0, 30.0, 90.0, 121.5], "Brightness": [0.27, -0.6], "Color": [0.9, -0.99],
    "Contrast": [0.27, -0.45], "Sharpness": [0.9, -0.99], "Posterize": [7, 4, 2], "Solarize": [178.5, 0.0],
    "AutoContrast": [0], "Equalize": [0],
}
ADJUST = {"brightness": [0.3, 1.7], "contrast": [0.3, 1.7], "saturation": [0.2, 1.9], "hue": [-0.5, -0.13, 0.1, 0.5]}


def magnitudes(space):
    rows = [numpy.broadcast_to(values.numpy().astype(numpy.float32), 31) for values, _ in space.values()]
    assert list(space) == list(OPS)
    return numpy.stack(rows)


def main():
    image = Image.open(FOLDER / "png_named.JPEG").convert("RGB").crop((9, 4, 9 + 52, 4 + 40))
    image = image.point([20 + i * 4 // 5 for i in range(256)] * 3)  # so that there is contrast to gain
    golden = {"image": numpy.asarray(image)}
    for op, values in OPS.items():
        for value in values:
            result = _apply_op(image, op, float(value), InterpolationMode.NEAREST, None)
            golden[f"{op}/{value}"] = numpy.asarray(result)
    for name, factors in ADJUST.items():
        for factor in factors:
            golden[f"adjust_{name}/{factor}"] = numpy.asarray(getattr(functional, f"adjust_{name}")(image, factor))
    golden["rand_augment"] = magnitudes(RandAugment()._augmentation_space(31, (40, 52)))
    golden["trivial_augment"] = magnitudes(TrivialAugmentWide()._augmentation_space(31))
    safetensors.numpy.save_file(golden, FOLDER / "augment.safetensors")
    print(f"{len(golden)} tensors, {(FOLDER / 'augment.safetensors').stat().st_size} bytes")


if __name__ == "__main__":
    main()
