"""Image files of many kinds, and what Pillow 13.0.0 and torchvision 0.29.2 make of them: tests/golden/images/.

    python3 tests/golden/make_images.py            # needs Pillow, torchvision, numpy, safetensors, OpenCV

The files are drawn by formulas. golden.safetensors holds, as uint8 (height, width, 3):
  eval/FILE      Resize(256) and CenterCrop(224) of the file, converted to RGB
  crop/FILE/K    resized_crop of part K to 64 x 64; `parts` (K, 4) holds top, left, height, width
  exif/FILE      the file turned by ImageOps.exif_transpose, resized to 48 x 36
"""
import pathlib
import struct
import zlib

import cv2
import numpy
import safetensors.numpy
from PIL import Image, ImageOps
from torchvision.transforms import functional
from torchvision.transforms import CenterCrop, Resize

FOLDER = pathlib.Path(__file__).resolve().parent / "images"
CROPS_ALONE = ["411.jpg", "440.jpg", "bits.png", "grey16.png", "grey_alpha.png", "interlaced.png", "rgb.jpg",
               "small_restart.jpg"]  # to keep the file small
PARTS = [(0, 0, 50, 60), (17, 23, 31, 29), (3, 5, 61, 20)]


def drawing(height, width):
    """Waves, edges and fine lines: something in every frequency."""
    y, x = numpy.mgrid[0:height, 0:width].astype(numpy.float64)
    red = 128 + 80 * numpy.sin(x / 9 + y / 23) + 40 * numpy.sin(x * y / 700)
    green = 128 + 90 * numpy.cos(x / 31 - y / 7) + 30 * ((x // 3 + y // 5) % 2)
    blue = 255 * ((x - width / 2) ** 2 + (y - height / 2) ** 2 < (min(height, width) / 3) ** 2) * 0.7 + 40 * (y % 11 < 5)
    pixels = numpy.stack([red, green, blue], axis=-1)
    return Image.fromarray(numpy.clip(pixels, 0, 255).astype(numpy.uint8))


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels, colour_type, interlaced=False):
    """A PNG of samples (height, width, channels) as Pillow cannot write it: of 16 bits, or in Adam7's seven passes."""
    height, width, _ = pixels.shape
    starts = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    passes = [pixels[y::dy, x::dx] for y, x, dy, dx in starts] if interlaced else [pixels]
    rows = b"".join(b"\0" + row.astype(pixels.dtype.newbyteorder(">")).tobytes() for part in passes if part.size for row in part)
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, colour_type, 0, 0, interlaced)
    return (b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows, 9)) +
            png_chunk(b"IEND", b""))


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def write_files():
    FOLDER.mkdir(exist_ok=True)
    big, odd, tall, small = drawing(227, 301), drawing(199, 333), drawing(311, 101), drawing(66, 83)
    big.save(FOLDER / "420.jpg", quality=90)
    odd.save(FOLDER / "422.jpg", quality=85, subsampling="4:2:2")
    tall.save(FOLDER / "444_tall.jpg", quality=92, subsampling="4:4:4")
    odd.save(FOLDER / "progressive.jpg", quality=88, progressive=True)
    small.save(FOLDER / "small_restart.jpg", quality=90, restart_marker_blocks=3)
    small.save(FOLDER / "rgb.jpg", quality=90, keep_rgb=True)
    big.convert("L").save(FOLDER / "grey.jpg", quality=90)
    big.convert("CMYK").save(FOLDER / "cmyk.jpg", quality=90)
    # The same codes, declared to be YCCK by the transform flag of the Adobe marker.
    codes = bytearray((FOLDER / "cmyk.jpg").read_bytes())
    codes[codes.index(b"Adobe") + 11] = 2
    (FOLDER / "ycck.jpg").write_bytes(codes)
    for orientation in range(1, 9):
        small.save(FOLDER / f"exif_{orientation}.jpg", quality=80, exif=exif(orientation))
    small.save(FOLDER / "exif_6.png", exif=exif(6))
    big.quantize(64).save(FOLDER / "palette.png", optimize=True)
    small.quantize(5).save(FOLDER / "palette_alpha.png", transparency=bytes([0, 128, 255]))
    alpha = small.convert("RGBA")
    alpha.putalpha(small.convert("L"))
    alpha.save(FOLDER / "rgba.png", optimize=True)
    alpha.convert("LA").save(FOLDER / "grey_alpha.png", optimize=True)
    small.convert("1").save(FOLDER / "bits.png", optimize=True)
    small.save(FOLDER / "png_named.JPEG", format="PNG", optimize=True)
    values = numpy.asarray(small).astype(numpy.uint16) * 255 + numpy.arange(83, dtype=numpy.uint16)[:, None]
    (FOLDER / "rgb16.png").write_bytes(png(values, 2))
    (FOLDER / "grey16.png").write_bytes(png(values[:, :, :1], 0))
    (FOLDER / "interlaced.png").write_bytes(png(numpy.asarray(small), 2, interlaced=True))
    for name, factor in (("411.jpg", cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411),
                         ("440.jpg", cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440)):  # which Pillow does not write
        cv2.imwrite(str(FOLDER / name), numpy.asarray(small)[:, :, ::-1],
                    [cv2.IMWRITE_JPEG_QUALITY, 88, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor])


def read(path):
    if path.name == "grey16.png":  # Pillow clips 16-bit grey; the upper 8 bits are meant
        grey = numpy.asarray(Image.open(path)).astype(numpy.uint16) >> 8
        return Image.fromarray(grey.astype(numpy.uint8)).convert("RGB")
    return Image.open(path).convert("RGB")


def main():
    write_files()
    golden = {"parts": numpy.array(PARTS, dtype=numpy.int64)}
    for path in sorted(FOLDER.glob("*.*")):
        if path.suffix == ".safetensors":
            continue
        image = read(path)
        if not path.name.startswith("exif") or path.name == "exif_6.jpg":
            if path.name not in CROPS_ALONE:
                golden[f"eval/{path.name}"] = numpy.asarray(CenterCrop(224)(Resize(256)(image)))
            for k, (top, left, height, width) in enumerate(PARTS):
                golden[f"crop/{path.name}/{k}"] = numpy.asarray(
                    functional.resized_crop(image, top, left, height, width, [64, 64]))
        if path.name.startswith("exif"):
            golden[f"exif/{path.name}"] = numpy.asarray(
                ImageOps.exif_transpose(Image.open(path)).convert("RGB").resize((48, 36), Image.BILINEAR))
    safetensors.numpy.save_file(golden, FOLDER / "golden.safetensors")
    sizes = [path.stat().st_size for path in FOLDER.iterdir()]
    print(f"{len(sizes)} files, {sum(sizes)} bytes")


if __name__ == "__main__":
    main()
