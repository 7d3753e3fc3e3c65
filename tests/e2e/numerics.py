"""docs/numerics.md written down once more, in plain Python: what a second implementation would do."""
import math
import struct


def f32(x):
    """x rounded to float32."""
    return struct.unpack("<f", struct.pack("<f", x))[0]


def bits(x):
    return struct.unpack("<I", struct.pack("<f", x))[0]


def statistics(x):
    """(sum of |x|, sum of x^2, largest |x|): chunks of 4096, 64 lanes, folded, added in double."""
    total_abs = total_sq = 0.0
    for begin in range(0, len(x), 4096):
        lanes_abs, lanes_sq = [0.0] * 64, [0.0] * 64
        for i, value in enumerate(x[begin:begin + 4096]):
            lanes_abs[i % 64] = f32(lanes_abs[i % 64] + abs(value))
            lanes_sq[i % 64] = f32(lanes_sq[i % 64] + f32(value * value))
        half = 32
        while half:
            for i in range(half):
                lanes_abs[i] = f32(lanes_abs[i] + lanes_abs[i + half])
                lanes_sq[i] = f32(lanes_sq[i] + lanes_sq[i + half])
            half //= 2
        total_abs += lanes_abs[0]
        total_sq += lanes_sq[0]
    return total_abs, total_sq, max((abs(value) for value in x), default=0.0)


def usable(scale):
    return scale if scale >= 2.0**-126 else 0.0


def sawb_scale(x, levels):
    total_abs, total_sq, largest = statistics(x)
    if not x:
        return 0.0
    rms = math.sqrt(total_sq / len(x))
    clip = 12.035 * rms - 12.03 * (total_abs / len(x))
    clip = f32(clip) if rms <= clip <= largest else largest
    return usable(f32(clip / levels))


def integer_codes(x, scale, low, high):
    inverse = f32(1.0 / scale) if scale else 0.0
    return [round(min(max(f32(value * inverse), low), high)) & 15 for value in x]  # round(): ties to even


def philox(key, counter):
    c, (k0, k1) = list(counter), key
    for _ in range(7):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p1 >> 32 ^ c[1] ^ k0, p1 & 0xFFFFFFFF, p0 >> 32 ^ c[3] ^ k1, p0 & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


def mix64(z):
    mask = (1 << 64) - 1
    z = (z + 0x9E3779B97F4A7C15) & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    return z ^ z >> 31


def stream(seed, name, step, sample):
    """random16(index) of a stream."""
    fnv = 0xCBF29CE484222325
    for byte in name.encode():
        fnv = (fnv ^ byte) * 0x100000001B3 & ((1 << 64) - 1)
    key = mix64(mix64(seed) ^ fnv)

    def random16(index):
        block = index // 8
        words = philox((key & 0xFFFFFFFF, key >> 32),
                       (block & 0xFFFFFFFF, block >> 32, step & 0xFFFFFFFF, sample))
        return words[index % 8 // 2] >> (index % 2 * 16) & 0xFFFF

    return random16


def luq_codes(x, alpha, random16):
    inverse = f32(1.0 / alpha) if alpha else 0.0
    codes = []
    for i, value in enumerate(x):
        r = f32(abs(value) * inverse)
        s = f32(1.0 + r) if r < 1 else r
        exponent = (bits(s) + 64 + (random16(i) << 7) >> 23) - 127
        magnitude = min(exponent if r < 1 else exponent + 1, 7)
        negative = math.copysign(1.0, value) < 0
        codes.append(0 if magnitude == 0 else magnitude | (8 if negative else 0))
    return codes


def decode(form, code):
    if form == "uint4":
        return code
    if form == "int4":
        return code - 16 if code & 8 else code
    magnitude = 0 if code & 7 == 0 else 1 << (code & 7) - 1
    return -magnitude if code & 8 else magnitude


def quantize(form, x, seed=0, name="", step=0, sample=0):
    """(scale, codes) of a list of float32 values."""
    if form == "fp4":
        alpha = usable(f32(statistics(x)[2] / 64))
        return alpha, luq_codes(x, alpha, stream(seed, name, step, sample))
    levels = 15 if form == "uint4" else 7
    scale = sawb_scale(x, levels)
    return scale, integer_codes(x, scale, 0 if form == "uint4" else -7, levels)
