"""What the golden scripts share: the counter-based generator of include/luq/core/rng.h, which the tests in C++ read the
same way, so that nothing random travels in the files; and what is made with it."""
import numpy
import torch

SEED = 1
MASK64 = (1 << 64) - 1
BLOCKS_AT_ONCE = 1 << 20


def mix64(z):
    z = (z + 0x9E3779B97F4A7C15) & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return z ^ (z >> 31)


def make_rng_key(name, step=0):
    digest = 0xCBF29CE484222325
    for byte in name.encode():
        digest = ((digest ^ byte) * 0x100000001B3) & MASK64
    key = mix64(mix64(SEED) ^ digest)
    return key & 0xFFFFFFFF, key >> 32, step, 0


def philox_blocks(key, first, blocks):
    low32 = numpy.uint64(0xFFFFFFFF)
    c = [numpy.arange(first, first + blocks, dtype=numpy.uint64), numpy.zeros(blocks, numpy.uint64),
         numpy.full(blocks, key[2], numpy.uint64), numpy.full(blocks, key[3], numpy.uint64)]
    k0, k1 = key[0], key[1]
    for _ in range(7):
        p0 = numpy.uint64(0xD2511F53) * c[0]
        p1 = numpy.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> numpy.uint64(32)) ^ c[1] ^ numpy.uint64(k0), p1 & low32,
             (p0 >> numpy.uint64(32)) ^ c[3] ^ numpy.uint64(k1), p0 & low32]
        k0 = (k0 + 0x9E3779B9) & 0xFFFFFFFF
        k1 = (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return numpy.stack(c, axis=1).astype(numpy.uint32)


def philox(key, blocks):
    """Words (blocks, 4) of Philox 4x32-7."""
    words = numpy.empty((blocks, 4), numpy.uint32)
    for first in range(0, blocks, BLOCKS_AT_ONCE):
        count = min(BLOCKS_AT_ONCE, blocks - first)
        words[first:first + count] = philox_blocks(key, first, count)
    return words


def random32(name, count):
    return philox(make_rng_key(name), (count + 3) // 4).reshape(-1)[:count]


def random16(name, count, step=0):
    """The half-words of element 0, 1, ...: the low half of a word first."""
    words = philox(make_rng_key(name, step), (count + 7) // 8).reshape(-1)
    return numpy.stack([words & 0xFFFF, words >> 16], axis=1).reshape(-1)[:count].astype(numpy.uint16)


def uniform(name, shape, low, high):
    """float32 in [low, high), the same roundings as random_tensor of tests/unit/op_test.h."""
    u = (random32(name, int(numpy.prod(shape))) >> 8).astype(numpy.float32) * numpy.float32(2.0**-24)
    low, high = numpy.float32(low), numpy.float32(high)
    return (low + (high - low) * u).reshape(shape)


def signed_sums(name, tensor):
    """(17): the norm, then 16 sums over all elements, the sign in sum j being bit j of the element's 16 random bits."""
    flat = tensor.double().reshape(-1).numpy()
    bits = random16("signs:" + name, flat.size)
    sums = [numpy.sum(numpy.where((bits >> j) & 1, flat, -flat)) for j in range(16)]
    return numpy.array([numpy.sqrt(numpy.sum(flat * flat))] + sums)


class CountedDropout(torch.nn.Module):
    """Dropout with the masks of luqtrain: stream "<layer>:dropout" at the global step."""

    def __init__(self, name, probability=0.5):
        super().__init__()
        self.name, self.probability, self.step = name, probability, 0

    def forward(self, x):
        if not self.training:
            return x
        bits = random16(self.name + ":dropout", x.numel(), self.step).astype(numpy.int64)
        kept = torch.from_numpy(bits >= round(self.probability * 65536)).reshape(x.shape)
        return x * kept / (1 - self.probability)
