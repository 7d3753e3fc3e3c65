"""Image files of the formats beside JPEG and PNG, and what Pillow 13.0.0 makes of them: tests/golden/formats/.

    python3 tests/golden/make_formats.py     # needs Pillow 13.0.0, numpy 2.4.6, tifffile 2026.3.3, imagecodecs 2026.3.6, safetensors

pixels.safetensors holds, as uint8 (height, width, 3):
  pil/FILE    Image.open(FILE).convert("RGB")
  ours/FILE   grey of 16 bits, which Pillow clips: made 8 bits as it makes colours of the same format 8 bits; and what Pillow
              reads wrongly, as the file says it
Files without an entry are refused, by this project if not by Pillow.
"""
import io
import pathlib
import struct

import numpy
import safetensors.numpy
import tifffile
from PIL import Image

FOLDER = pathlib.Path(__file__).resolve().parent / "formats"
HEIGHT, WIDTH = 19, 23
RANDOM = numpy.random.default_rng(0)
OURS = {}


def noise(*shape, high=256, dtype=numpy.uint8):
    return RANDOM.integers(0, high, shape, dtype=dtype)


RGB, RGBA, GREY = noise(HEIGHT, WIDTH, 3), noise(HEIGHT, WIDTH, 4), noise(HEIGHT, WIDTH)
GREY16, RGB16, RGBA16 = (noise(HEIGHT, WIDTH, *more, high=65536, dtype=numpy.uint16) for more in ((), (3,), (4,)))
IMAGE, ALPHA, GREY_IMAGE = Image.fromarray(RGB), Image.fromarray(RGBA), Image.fromarray(GREY)
SMOOTH = numpy.clip(numpy.add.outer(numpy.arange(40) * 3, numpy.arange(36) * 2)[..., None] * [1, 1.3, 0.7], 0, 255).astype(numpy.uint8)
PALETTE = noise(256, 4)


def put(name, data):
    (FOLDER / name).write_bytes(data)


def grey(values):
    return numpy.repeat(numpy.asarray(values).astype(numpy.uint8)[..., None], 3, axis=2)


# ---- BMP ----------------------------------------------------------------------------------------------------------

def bmp(name, bits, data, palette=b"", compression=0, masks=(), top_down=False, header=40, colours=0):
    info = struct.pack("<IiiHHIIiiII", header, WIDTH, -HEIGHT if top_down else HEIGHT, 1, bits, compression, len(data), 0, 0,
                       colours or len(palette) // 4, 0)
    behind = struct.pack(f"<{len(masks)}I", *masks)
    if header > 40:
        info, behind = info + behind.ljust(header - 40, b"\0"), b""
    offset = 14 + len(info) + len(behind) + len(palette)
    put(name, b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + info + behind + palette + data)


def rows(pixels):
    lines = [numpy.ascontiguousarray(row).tobytes() for row in pixels]
    return b"".join(line + b"\0" * (-len(line) % 4) for line in lines)


def run_lengths(bits):
    """Runs and stretches of random pixels, every row to its end."""
    out = b""
    for _ in range(HEIGHT):
        x = 0
        while x < WIDTH:
            if RANDOM.integers(0, 3) == 0 and WIDTH - x >= 3:
                count = int(RANDOM.integers(3, WIDTH - x + 1))
                stretch = noise(count if bits == 8 else (count + 1) // 2).tobytes()
                out += bytes([0, count]) + stretch + b"\0" * (len(stretch) % 2)
            else:
                count = int(RANDOM.integers(1, WIDTH - x + 1))
                out += bytes([count, int(noise(1)[0])])
            x += count
        out += b"\0\0"
    return out + b"\0\1"


def bmp_os2(name, bits, data, palette=b""):
    offset = 26 + len(palette)
    put(name, b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, bits) +
        palette + data)


def write_bmp():
    IMAGE.save(FOLDER / "rgb.bmp")
    ALPHA.save(FOLDER / "rgba.bmp")
    GREY_IMAGE.save(FOLDER / "grey.bmp")
    IMAGE.convert("1").save(FOLDER / "bits.bmp")
    IMAGE.quantize(60).save(FOLDER / "palette.bmp")
    words, quads = noise(HEIGHT, WIDTH, high=65536, dtype=numpy.uint16).astype("<u2"), rows(RGBA.reshape(HEIGHT, -1))
    bmp("555.bmp", 16, rows(words))
    bmp("555_masks.bmp", 16, rows(words), compression=3, masks=(0x7c00, 0x3e0, 0x1f))
    bmp("565_masks.bmp", 16, rows(words), compression=3, masks=(0xf800, 0x7e0, 0x1f))
    bmp("top_down.bmp", 24, rows(RGB.reshape(HEIGHT, -1)), top_down=True)
    bmp("32.bmp", 32, quads)
    bmp("32_top_down.bmp", 32, quads, top_down=True)
    bmp("32_masks.bmp", 32, quads, compression=3, masks=(0xff0000, 0xff00, 0xff))
    for order, masks in {"rgba": (0xff, 0xff00, 0xff0000, 0xff000000), "bgra": (0xff0000, 0xff00, 0xff, 0xff000000),
                         "abgr": (0xff000000, 0xff0000, 0xff00, 0xff), "xbgr": (0xff000000, 0xff0000, 0xff00, 0),
                         "bgxr": (0xff000000, 0xff00, 0xff, 0), "bgar": (0xff000000, 0xff00, 0xff, 0xff0000)}.items():
        bmp(f"32_{order}.bmp", 32, quads, compression=3, masks=masks, header=108)
    bmp("32_odd_masks.bmp", 32, quads, compression=3, masks=(0x3ff, 0xffc00, 0x3ff00000, 0), header=108)  # refused
    bmp("v5.bmp", 32, quads, compression=3, masks=(0xff0000, 0xff00, 0xff, 0xff000000), header=124)
    nibbles, bits = noise(HEIGHT, (WIDTH + 1) // 2), noise(HEIGHT, (WIDTH + 7) // 8)
    bmp("palette_8.bmp", 8, rows(GREY), PALETTE.tobytes())
    bmp("palette_short.bmp", 8, rows(GREY), PALETTE[:100].tobytes())
    bmp("palette_short_grey.bmp", 8, rows(GREY), bytes(x for i in range(100) for x in (i, i, i, 0)))
    bmp("palette_4.bmp", 4, rows(nibbles), PALETTE[:16].tobytes())
    bmp("palette_4_top_down.bmp", 4, rows(nibbles), PALETTE[:16].tobytes(), top_down=True)
    bmp("palette_1.bmp", 1, rows(bits), PALETTE[:2].tobytes())
    bmp("rle8.bmp", 8, run_lengths(8), PALETTE.tobytes(), compression=1)
    bmp("rle4.bmp", 4, run_lengths(4), PALETTE[:16].tobytes(), compression=2)
    bmp("rle8_short_rows.bmp", 8, bytes([5, 7, 0, 0]) * HEIGHT + b"\0\1", PALETTE.tobytes(), compression=1)
    bmp("rle8_delta.bmp", 8, bytes([5, 7, 0, 2, 10, 2, 6, 9, 0, 0]) + b"".join(bytes([WIDTH, i, 0, 0]) for i in range(HEIGHT - 3)) +
        b"\0\1", PALETTE.tobytes(), compression=1)
    bmp_os2("os2_24.bmp", 24, rows(RGB.reshape(HEIGHT, -1)))
    bmp_os2("os2_8.bmp", 8, rows(GREY), PALETTE[:, :3].tobytes())


def jumps(bits):
    """Runs that may be longer than their row, stretches that may go on in the next one, jumps."""
    out, at, x, row_begins = b"", 0, 0, True
    while at < HEIGHT * WIDTH:
        kind = RANDOM.integers(0, 4)
        if kind == 0:
            count = int(RANDOM.integers(1, WIDTH))
            out += bytes([count, int(noise(1)[0])])
            count = min(count, max(WIDTH - x, 0))
            at, x, row_begins = at + count, x + count, False
        elif kind == 1:
            count = int(RANDOM.integers(3, 12))
            stretch = noise(count if bits == 8 else (count + 1) // 2).tobytes()
            out += bytes([0, count]) + stretch + b"\0" * (len(stretch) % 2)
            at, x, row_begins = at + count, x + count, False
        elif kind == 2:
            right, rows_up = int(RANDOM.integers(0, WIDTH // 2)), int(RANDOM.integers(0, 2))
            out += bytes([0, 2, right, rows_up])
            at, row_begins = at + right + rows_up * WIDTH, row_begins and right == 0
            x = at % WIDTH
        elif not row_begins:  # PIL passes over rows without a pixel
            out += b"\0\0"
            at, x, row_begins = -(-at // WIDTH) * WIDTH, 0, True
    return out + b"\0\1"


def write_jumps():
    for bits in (8, 4):
        bmp(f"rle{bits}_jumps.bmp", bits, jumps(bits), PALETTE[:1 << bits].tobytes(), compression=1 if bits == 8 else 2)
        bmp(f"rle{bits}_jumps_top_down.bmp", bits, jumps(bits), PALETTE[:1 << bits].tobytes(), compression=1 if bits == 8 else 2,
            top_down=True)
    # Two rows without a pixel, and an end before the last row, which PIL does not take: the first colour.
    bmp("rle8_empty_rows.bmp", 8, b"\0\0" * 2 + bytes([7, 200, 0, 0]) + b"\0\1", PALETTE.tobytes(), compression=1)
    indexes = numpy.zeros((HEIGHT, WIDTH), int)
    indexes[HEIGHT - 3, :7] = 200
    OURS["rle8_empty_rows.bmp"] = PALETTE[indexes][..., 2::-1]
    IMAGE.save(FOLDER / "rgb.dib")
    IMAGE.quantize(60).save(FOLDER / "palette.dib")
    bmp("rgb_32.dib", 32, rows(RGBA.reshape(HEIGHT, -1)), compression=3, masks=(0xff0000, 0xff00, 0xff))
    put("rgb_32.dib", (FOLDER / "rgb_32.dib").read_bytes()[14:])


# ---- PNM ----------------------------------------------------------------------------------------------------------

def write_pnm():
    GREY_IMAGE.save(FOLDER / "p5.pgm")
    IMAGE.save(FOLDER / "p6.ppm")
    IMAGE.convert("1").save(FOLDER / "p4.pbm")
    bits = [[str(x & 1) for x in row] for row in GREY]
    size = f"{WIDTH} {HEIGHT}"
    put("p1.pbm", (f"P1\n# a comment\n{size}\n" + "\n".join(" ".join(row) for row in bits)).encode())
    put("p1_dense.pbm", (f"P1\n{size}\n" + "\n".join("".join(row) for row in bits) + "\n").encode())

    def text(kind, largest, values):
        lines = "\n".join(" ".join(map(str, row)) for row in values.reshape(HEIGHT, -1))
        return f"{kind}\n{size}\n{largest}\n{lines}\n".encode()

    for largest in (255, 1, 15, 100, 254, 1023, 65535):
        colours = RGB16.astype(int) % (largest + 1)
        greys = GREY16.astype(int) % (largest + 1)
        wide = ">u2" if largest > 255 else "u1"
        put(f"p2_{largest}.pgm", text("P2", largest, greys))
        put(f"p3_{largest}.ppm", text("P3", largest, colours))
        put(f"p5_{largest}.pgm", f"P5 {size} {largest}\n".encode() + greys.astype(wide).tobytes())
        put(f"p6_{largest}.ppm", f"P6 {size} {largest}\n".encode() + colours.astype(wide).tobytes())
        if largest > 255:
            OURS[f"p2_{largest}.pgm"] = OURS[f"p5_{largest}.pgm"] = grey(numpy.rint(greys / largest * 255))


# ---- GIF ----------------------------------------------------------------------------------------------------------

def lzw(indexes, bits):
    """Codes of one width: the table is cleared before it grows."""
    value = used = count = 0
    data, clear = bytearray(), 1 << bits
    codes = [clear]
    for index in indexes.reshape(-1):
        codes.append(int(index))
        count += 1
        if count == clear - 2:
            codes.append(clear)
            count = 0
    for code in codes + [clear + 1]:
        value |= code << used
        used += bits + 1
        while used >= 8:
            data.append(value & 255)
            value, used = value >> 8, used - 8
    if used:
        data.append(value & 255)
    blocks = b"".join(bytes([len(data[i:i + 255])]) + bytes(data[i:i + 255]) for i in range(0, len(data), 255))
    return bytes([bits]) + blocks + b"\0"


def gif(name, indexes, bits, palette=b"", own_palette=b"", screen=(20, 18), left=3, top=4, transparent=None, interlaced=False):
    def flags(colours):
        return 0x80 | (len(colours) // 3).bit_length() - 2 if colours else 0

    height, width = indexes.shape
    order = [y for first, step in ((0, 8), (4, 8), (2, 4), (1, 2)) for y in range(first, height, step)] if interlaced else range(height)
    data = b"GIF89a" + struct.pack("<HH", *screen) + bytes([flags(palette), 0, 0]) + palette
    if transparent is not None:
        data += b"!\xf9\x04" + bytes([1, 0, 0, transparent]) + b"\0"
    data += b"!\xfe\x05hello\0," + struct.pack("<HHHH", left, top, width, height)
    data += bytes([flags(own_palette) | (0x40 if interlaced else 0)]) + own_palette
    put(name, data + lzw(indexes[list(order)], bits) + b";")


def write_gif():
    palettes = IMAGE.quantize(60)
    palettes.save(FOLDER / "palette.gif")
    palettes.save(FOLDER / "transparent.gif", transparency=7)
    palettes.save(FOLDER / "interlaced.gif", interlace=1)
    GREY_IMAGE.save(FOLDER / "grey.gif")
    IMAGE.convert("1").save(FOLDER / "bits.gif")
    ALPHA.save(FOLDER / "alpha.gif")
    palettes.save(FOLDER / "animation.gif", save_all=True, append_images=[Image.fromarray(RGB[::-1]).quantize(60)], disposal=2)
    of_16, of_8 = noise(48).tobytes(), noise(24).tobytes()
    grey_8 = bytes(x for i in range(8) for x in (i, i, i))
    small, whole = noise(9, 10, high=16), dict(screen=(10, 9), left=0, top=0)
    gif("small_frame.gif", small, 4, of_16)
    gif("small_frame_transparent.gif", small, 4, of_16, transparent=5)
    gif("own_palette.gif", small % 8, 4, of_16, of_8)
    gif("own_palette_transparent.gif", small, 4, of_16, of_8, transparent=11)
    gif("own_grey_palette.gif", small % 8, 4, of_16, grey_8, transparent=3)
    gif("outside.gif", noise(19, 25, high=16), 4, of_16)
    gif("no_palette.gif", small, 4, **whole)
    gif("grey_palette.gif", small, 4, grey_8, **whole)
    gif("beyond_palette.gif", noise(9, 10), 8, of_16, **whole)
    gif("interlaced_small.gif", small, 4, of_16, interlaced=True)


# ---- TIFF ---------------------------------------------------------------------------------------------------------

def tiff(name, bits, photometric, data, samples=1, order="<", **tags):
    """A TIFF of one strip, tag by tag, as no library writes it."""
    numbers = {"fill": 266, "orientation": 274, "extra": 338, "colours": 320, "compression": 259, "format": 339}
    entries = {256: [WIDTH], 257: [HEIGHT], 258: [bits] * samples, 259: [1], 262: [photometric], 273: [8], 277: [samples],
               278: [HEIGHT], 279: [len(data)]}
    entries.update({numbers[key]: list(value) for key, value in tags.items()})
    data += b"\0" * (len(data) % 2)
    end = 8 + len(data) + 6 + 12 * len(entries)
    table, behind = b"", b""
    for tag, values in sorted(entries.items()):
        letter, kind = ("I", 4) if tag in (273, 279) else ("H", 3)
        raw = struct.pack(f"{order}{len(values)}{letter}", *values)
        table += struct.pack(order + "HHI", tag, kind, len(values))
        table += raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack(order + "I", end + len(behind))
        behind += raw if len(raw) > 4 else b""
    put(name, (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(data)) + data +
        struct.pack(order + "H", len(entries)) + table + struct.pack(order + "I", 0) + behind)


def write_tiff():
    for kind, image in {"rgb": IMAGE, "rgba": ALPHA, "grey": GREY_IMAGE, "palette": IMAGE.quantize(60), "bits": IMAGE.convert("1"),
                        "cmyk": IMAGE.convert("CMYK"), "ycbcr": IMAGE.convert("YCbCr"),
                        "grey_alpha": Image.merge("LA", [GREY_IMAGE, Image.fromarray(GREY[::-1])])}.items():
        image.save(FOLDER / f"{kind}.tif")
        image.save(FOLDER / f"{kind}_lzw.tif", compression="tiff_lzw")
    IMAGE.save(FOLDER / "deflate.tif", compression="tiff_adobe_deflate")
    IMAGE.save(FOLDER / "packbits.tif", compression="packbits")
    IMAGE.convert("1").save(FOLDER / "group3.tif", compression="group3")
    IMAGE.convert("1").save(FOLDER / "group4.tif", compression="group4")
    for orientation in range(2, 9):
        tags = Image.Exif()
        tags[0x0112] = orientation
        IMAGE.save(FOLDER / f"orientation_{orientation}.tif", exif=tags)

    def write(name, pixels, **options):
        tifffile.imwrite(FOLDER / name, pixels, metadata=None, software=False, **options)

    for layout, options in {"strips": {"rowsperstrip": 7}, "tiles": {"tile": (16, 16)}}.items():
        for planes in ("contig", "separate"):
            def write_planes(kind, pixels, **more):
                pixels = numpy.moveaxis(pixels, 2, 0).copy() if planes == "separate" else pixels
                write(f"{kind}_{layout}_{planes}.tif", pixels, photometric="rgb", planarconfig=planes, **options, **more)
            write_planes("rgb", RGB, compression="lzw", predictor=True)
            write_planes("rgba", RGBA, extrasamples=["unassalpha"])
            write_planes("rgb16", RGB16, compression="deflate")
    write("cmyk_planes.tif", numpy.moveaxis(RGBA, 2, 0).copy(), photometric="separated", planarconfig="separate")
    write("cmyk16.tif", RGBA16, photometric="separated")
    write("rgba16.tif", RGBA16, photometric="rgb", extrasamples=["unassalpha"])
    write("rgba_multiplied.tif", RGBA, photometric="rgb", extrasamples=["assocalpha"])
    write("rgba16_multiplied.tif", RGBA16, photometric="rgb", extrasamples=["assocalpha"])
    write("six.tif", noise(HEIGHT, WIDTH, 6), photometric="rgb", extrasamples=["unspecified"] * 3)
    write("pages.tif", numpy.stack([RGB, RGB[::-1]]), photometric="rgb")
    write("big.tif", GREY, photometric="minisblack", bigtiff=True)
    write("big_endian_big.tif", RGB, photometric="rgb", bigtiff=True, byteorder=">")
    OURS["big_endian_big.tif"] = RGB
    write("zstd.tif", RGB, photometric="rgb", compression="zstd")
    write("lzma.tif", RGB, photometric="rgb", compression="lzma")
    write("grey16.tif", GREY16, photometric="minisblack")
    write("grey16_big_endian.tif", GREY16, photometric="minisblack", byteorder=">", compression="lzw")
    write("white16.tif", GREY16, photometric="miniswhite")
    OURS.update({"grey16.tif": grey(GREY16 >> 8), "grey16_big_endian.tif": grey(GREY16 >> 8), "white16.tif": grey(255 - (GREY16 >> 8))})
    write("jpeg_rgb.tif", SMOOTH, photometric="rgb", compression="jpeg")
    write("jpeg_420.tif", SMOOTH, photometric="ycbcr", compression="jpeg", subsampling=(2, 2))
    write("jpeg_422_tiles.tif", SMOOTH, photometric="ycbcr", compression="jpeg", subsampling=(2, 1), tile=(16, 16))
    write("jpeg_grey.tif", SMOOTH[..., 0].copy(), photometric="minisblack", compression="jpeg")
    for bits in (1, 2, 4, 8):
        data = noise((WIDTH * bits + 7) // 8 * HEIGHT).tobytes()
        tiff(f"white_{bits}.tif", bits, 0, data)
        tiff(f"black_{bits}_big_endian.tif", bits, 1, data, order=">")
        tiff(f"black_{bits}_reversed.tif", bits, 1, data, fill=[2])
        tiff(f"palette_{bits}.tif", bits, 3, data, colours=noise(3 << bits, high=65536, dtype=numpy.uint16).tolist())
    plain = noise(HEIGHT * WIDTH * 4).tobytes()
    tiff("rgba_unsaid.tif", 8, 2, plain, samples=4)
    tiff("grey_unspecified.tif", 8, 1, plain[:HEIGHT * WIDTH * 2], samples=2, extra=[0])
    colours = noise(768, high=65536, dtype=numpy.uint16).tolist()
    tiff("palette_alpha.tif", 8, 3, plain[:HEIGHT * WIDTH * 2], samples=2, extra=[2], colours=colours)
    # Refused.
    tiff("palette_missing.tif", 8, 3, plain[:HEIGHT * WIDTH])
    tiff("lab.tif", 8, 8, plain[:HEIGHT * WIDTH * 3], samples=3)
    tiff("grey_multiplied.tif", 8, 1, plain[:HEIGHT * WIDTH * 2], samples=2, extra=[1])
    tiff("signed.tif", 8, 1, plain[:HEIGHT * WIDTH], format=[2])
    write("float.tif", GREY.astype(numpy.float32), photometric="minisblack")
    write("32_bits.tif", GREY.astype(numpy.uint32), photometric="minisblack")
    write("webp.tif", RGB, photometric="rgb", compression="webp")


# ---- WebP ---------------------------------------------------------------------------------------------------------

def write_webp():
    IMAGE.save(FOLDER / "lossy.webp", quality=80)
    IMAGE.save(FOLDER / "lossless.webp", lossless=True)
    ALPHA.save(FOLDER / "alpha.webp", lossless=True, exact=True)
    ALPHA.save(FOLDER / "alpha_lossy.webp", quality=80)
    tags = Image.Exif()
    tags[0x0112] = 6
    IMAGE.save(FOLDER / "exif_6.webp", exif=tags, lossless=True)
    for name, image, options in (("animation.webp", IMAGE, {"lossless": True}), ("animation_lossy.webp", IMAGE, {"quality": 80}),
                                 ("animation_alpha.webp", ALPHA, {"quality": 80})):
        image.save(FOLDER / name, save_all=True, append_images=[image.transpose(Image.FLIP_LEFT_RIGHT)], **options)

    def chunk(kind, data):
        return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    def three(*numbers):
        return b"".join(number.to_bytes(3, "little") for number in numbers)

    stream = io.BytesIO()
    IMAGE.save(stream, "WEBP", lossless=True)
    frame = three(6 // 2, 8 // 2, WIDTH - 1, HEIGHT - 1, 100) + b"\0" + stream.getvalue()[12:]
    body = (b"WEBP" + chunk(b"VP8X", bytes([2, 0, 0, 0]) + three(39, 34)) + chunk(b"ANIM", b"\xff\x10\x20\x30\0\0") + chunk(b"ANMF", frame))
    put("animation_small_frame.webp", b"RIFF" + struct.pack("<I", len(body)) + body)


def main():
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.iterdir():
        path.unlink()
    for write in (write_bmp, write_pnm, write_gif, write_tiff, write_webp, write_jumps):
        write()
    put("p7.pam", b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\nabc")
    pixels = {}
    for path in sorted(FOLDER.iterdir()):
        if path.name in OURS:
            pixels["ours/" + path.name] = OURS[path.name]
            continue
        try:
            pixels["pil/" + path.name] = numpy.asarray(Image.open(path).convert("RGB"))
        except (OSError, ValueError) as error:
            print(f"{path.name}: {error}")
    for name in ("float.tif", "32_bits.tif", "lab.tif", "signed.tif"):
        pixels.pop("pil/" + name, None)
    safetensors.numpy.save_file({name: numpy.ascontiguousarray(value) for name, value in pixels.items()}, FOLDER / "pixels.safetensors")
    sizes = [path.stat().st_size for path in FOLDER.iterdir()]
    print(f"{len(sizes)} files, {sum(sizes)} bytes, {len(pixels)} of them with pixels")


if __name__ == "__main__":
    main()
