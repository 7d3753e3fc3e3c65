#!/usr/bin/env python3
"""What nvcc made of the CUDA kernels, a line per kernel and architecture, without a device.

    tools/cuda_table.py [FILE ...]           the table; FILE: objects, libraries or programs (default build/libluq_kernels.a)
    tools/cuda_table.py --check [FILE ...]   exit status 1 when a hot kernel has a stack, which is where spills lie
    tools/cuda_table.py --markdown           for docs/performance.md: the worst of a kernel's instances, and predictions

Registers, threads, static shared memory and stack are read from the machine code's own records; the dynamic shared
memory from the name that shared_memory<T>() leaves in the PTX. Instructions need cuobjdump: in PATH, in
/usr/local/cuda/bin, or --cuobjdump PATH; without one their columns are "-".
"""
import argparse
import collections
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile

# Kernels that may have a stack: what runs once, and an average pool over channels that are no multiple of 4.
COLD = {"do_nothing", "gather_of_means<Adaptive, 1>"}

# Of a multiprocessor: warps, blocks, bytes of shared memory. All have 65536 registers, given out 256 at a time to a
# warp and to 4 warps at once, and keep 1 KiB of shared memory for themselves a block. CUDA C++ Programming Guide,
# "Compute Capabilities", tables "Technical Specifications per Compute Capability".
Limits = collections.namedtuple("Limits", "warps blocks shared")
LIMITS = {80: Limits(64, 32, 164 << 10), 86: Limits(48, 16, 100 << 10), 89: Limits(48, 24, 100 << 10),
          90: Limits(64, 32, 228 << 10), 100: Limits(64, 32, 228 << 10), 120: Limits(48, 24, 100 << 10)}
REGISTERS, REGISTER_UNIT, WARP_UNIT, RESERVED_SHARED = 65536, 256, 4, 1 << 10

# GB/s and dense int8 TOP/s. Data sheets: "NVIDIA A100 80GB" (SXM), "NVIDIA H100" (SXM), "NVIDIA H200" (SXM). mma.sync
# reaches about 0.6 of Hopper's rate, which is that of wgmma.
Device = collections.namedtuple("Device", "name bandwidth int8")
DEVICES = [Device("A100", 2039, 624), Device("H100", 3350, 0.6 * 1979), Device("H200", 4800, 0.6 * 1979)]

# What the essays at the head of the .cu files state: bytes of global memory and operations of the tensor cores.
# (what, unit, bytes, operations)
WORK = [
    ("stats of float32", "element", 4, 0),
    ("stats of bfloat16", "element", 2, 0),
    ("encode of float32", "element", 4.5, 0),
    ("encode of bfloat16", "element", 2.5, 0),
    ("batch norm's moments, bfloat16", "element", 2, 0),
    ("batch norm forward with ReLU, bfloat16", "element", 4.125, 0),
    ("the same with a residual", "element", 6.125, 0),
    ("relu of float32, no mask", "element", 8, 0),
    ("add of float32", "element", 12, 0),
    ("SGD with momentum", "weight", 20, 0),
    ("4-bit matmul, a block of 128 x 128 for 64 of K, operands not in L2", "block and step", 8192, 2 ** 21),
]

FATBIN = struct.pack("<IHH", 0xBA55ED50, 1, 16)
PTX, CUBIN = 1, 2
MAX_THREADS, REGISTER_COUNT, FRAME_SIZE = 0x05, 0x2F, 0x11  # kinds of records in .nv.info


class Kernel:
    def __init__(self, mangled, architecture):
        self.mangled, self.architecture = mangled, architecture
        self.registers = self.stack = self.threads = self.shared = 0
        self.dynamic = None  # bytes of shared memory that the launch gives
        self.name = mangled
        self.instructions = None

    @property
    def base(self):
        return re.match(r"\w+", self.name).group(0)

    def warps(self):
        """Warps that a multiprocessor holds at once, and how many it could."""
        limits = LIMITS.get(self.architecture)
        if limits is None or not self.threads:
            return None
        warps = -(-self.threads // 32)
        blocks = min(limits.blocks, limits.warps // warps)
        if self.registers:
            warp_registers = -(-self.registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
            blocks = min(blocks, REGISTERS // warp_registers // WARP_UNIT * WARP_UNIT // warps)
        blocks = min(blocks, limits.shared // (self.shared + (self.dynamic or 0) + RESERVED_SHARED))
        return blocks * warps, limits.warps


def images(data):
    """(kind, architecture, bytes) of what lies in the fat binaries of a file."""
    at = data.find(FATBIN)
    while at >= 0:
        size = struct.unpack_from("<Q", data, at + 8)[0]
        place, end = at + 16, at + 16 + size
        while place < end:
            kind, _, header, payload = struct.unpack_from("<HHIQ", data, place)
            yield kind, struct.unpack_from("<I", data, place + 28)[0], data[place + header:place + header + payload]
            place += header + payload
        at = data.find(FATBIN, max(end, at + 1))


def sections_of(elf):
    """name -> bytes, and the names of symbols in order."""
    offset, = struct.unpack_from("<Q", elf, 40)
    size, count, names_index = struct.unpack_from("<HHH", elf, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", elf, offset + i * size) for i in range(count)]

    def text(table, at):
        return table[at:table.index(b"\0", at)].decode()

    names = elf[headers[names_index][4]:][:headers[names_index][5]]
    sections, sizes, symbols = {}, {}, []
    for name, kind, _, _, at, length, link, _, _, entry in headers:
        title = text(names, name)
        sizes[title] = length
        sections[title] = b"" if kind == 8 else elf[at:at + length]  # 8: no bytes in the file
        if kind == 2:
            strings = elf[headers[link][4]:][:headers[link][5]]
            symbols = [text(strings, struct.unpack_from("<I", elf, at + i)[0]) for i in range(0, length, entry)]
    return sections, sizes, symbols


def records(info):
    """(kind, payload) of a section .nv.info."""
    at = 0
    while at < len(info):
        form, kind, value = struct.unpack_from("<BBH", info, at)
        at += 4
        payload = b""
        if form == 4:  # the others hold their value in the two bytes
            payload = info[at:at + value]
            at += value
        yield kind, payload


def kernels_of(elf, architecture):
    sections, sizes, symbols = sections_of(elf)
    found = {name[6:]: Kernel(name[6:], architecture) for name in sections if name.startswith(".text.")}
    for kind, payload in records(sections.get(".nv.info", b"")):
        if kind in (REGISTER_COUNT, FRAME_SIZE):
            symbol, value = struct.unpack("<II", payload)
            kernel = found.get(symbols[symbol])
            if kernel is not None:
                setattr(kernel, "registers" if kind == REGISTER_COUNT else "stack", value)
    for name, kernel in found.items():
        kernel.shared = sizes.get(".nv.shared." + name, 0)
        if architecture >= 90 and kernel.shared >= RESERVED_SHARED:  # there the reserved bytes are in the section too
            kernel.shared -= RESERVED_SHARED
        for kind, payload in records(sections.get(".nv.info." + name, b"")):
            if kind == MAX_THREADS:
                x, y, z = struct.unpack("<III", payload)
                kernel.threads = x * y * z
    return found.values()


def dynamic_shared(ptx):
    """kernel -> bytes, from the names in PTX."""
    sizes = {}
    for part in ptx.split(".entry ")[1:]:
        size = re.search(r"\bluq_shared_(\d+)", part)
        sizes[re.match(r"\s*([\w$]+)", part).group(1)] = int(size.group(1)) if size else 0
    return sizes


def demangle(kernels):
    tool = shutil.which("c++filt")
    if not tool:
        return
    names = subprocess.run([tool], input="\n".join(k.mangled for k in kernels), capture_output=True, text=True,
                           check=True).stdout.split("\n")
    for kernel, name in zip(kernels, names):
        name = re.sub(r"\(anonymous namespace\)::|luq::(kernels::)?(cuda::)?(qconv::)?|^void ", "", name)
        depth, end = 0, len(name)
        for i, letter in enumerate(name):  # up to the parameters
            depth += (letter == "<") - (letter == ">" and name[i - 1] != "-")
            if letter == "(" and depth == 0:
                end = i
                break
        kernel.name = re.sub(r"\((\w+)\)(-?\d+)", r"\2", name[:end])


def find_cuobjdump(given):
    if given:
        return given
    return shutil.which("cuobjdump") or shutil.which("cuobjdump", path="/usr/local/cuda/bin")


def instructions_of(tool, elf):
    """kernel -> counts of what the table shows."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(elf)
        file.flush()
        text = subprocess.run([tool, "-sass", file.name], capture_output=True, text=True, check=True).stdout
    result, counts = {}, None
    for line in text.split("\n"):
        function = re.match(r"\s*Function : (\S+)", line)
        if function:
            counts = result.setdefault(function.group(1), collections.Counter())
            continue
        match = re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", line)
        if not match or counts is None:
            continue
        words = match.group(1).split(".")
        counts[words[0]] += 1
        if words[0] in ("LDG", "STG", "LDGSTS"):
            bits = next((int(w) for w in words if w in ("64", "128")), 8 if "U8" in words else 16 if "U16" in words else 32)
            counts[words[0] + " bits"] = max(counts[words[0] + " bits"], bits)
    return result


def widest(counts, *names):
    return max((counts[name + " bits"] for name in names), default=0)


def read(files, cuobjdump):
    kernels, shared = [], {}
    for path in files:
        for kind, architecture, content in images(path.read_bytes()):
            if kind == CUBIN and content.startswith(b"\x7fELF"):
                here = list(kernels_of(content, architecture))
                if cuobjdump:
                    counts = instructions_of(cuobjdump, content)
                    for kernel in here:
                        kernel.instructions = counts.get(kernel.mangled)
                kernels += here
            elif kind == PTX and b".version" in content[:4096]:
                shared.update(dynamic_shared(content.decode(errors="replace")))
    for kernel in kernels:
        kernel.dynamic = shared.get(kernel.mangled)
    demangle(kernels)
    return sorted(kernels, key=lambda k: (k.name, k.architecture))


HEADERS = ["registers", "threads", "shared", "stack", "warps", "IMMA", "HMMA", "local", "load", "store"]


def cells(kernel):
    warps, counts = kernel.warps(), kernel.instructions
    dynamic = "-" if kernel.dynamic is None else kernel.shared + kernel.dynamic
    row = [kernel.registers, kernel.threads, dynamic, kernel.stack, f"{warps[0]}/{warps[1]}" if warps else "-"]
    if counts is None:
        return row + ["-"] * 5
    return row + [counts["IMMA"], counts["HMMA"], counts["LDL"] + counts["STL"], widest(counts, "LDG", "LDGSTS") or "-",
                  widest(counts, "STG") or "-"]


def print_table(kernels):
    width = min(100, max(len(k.name) for k in kernels))
    print(f"{'kernel':{width}} sm  " + " ".join(f"{h:>9}" for h in HEADERS))
    for kernel in kernels:
        print(f"{kernel.name[:width]:{width}} {kernel.architecture:<3} " + " ".join(f"{c!s:>9}" for c in cells(kernel)))


def print_markdown(kernels):
    """Of a kernel's instances on an architecture the one with a stack or the fewest warps; the widest load of all."""
    groups = collections.defaultdict(list)
    for kernel in kernels:
        groups[kernel.base, kernel.architecture].append(kernel)
    print("| kernel | sm | instances | " + " | ".join(HEADERS) + " |\n|" + "---|" * (len(HEADERS) + 3))
    for (base, architecture), group in sorted(groups.items()):
        worst = max(group, key=lambda k: (k.stack, -(k.warps() or (0, 1))[0], k.registers))
        wide = [max((c for c in column if c != "-"), default="-") for column in zip(*(cells(k)[-2:] for k in group))]
        print(f"| {base} | {architecture} | {len(group)} | " + " | ".join(str(c) for c in cells(worst)[:-2] + wide) + " |")
    print("\n| what | bytes | " + " | ".join(f"{d.name}, ns a thousand" for d in DEVICES) + " | held by |\n|" +
          "---|" * (len(DEVICES) + 3))
    for what, unit, size, operations in WORK:
        times = [(size / d.bandwidth, operations / d.int8 / 1000) for d in DEVICES]
        held = ["memory" if moved >= computed else "tensor cores" for moved, computed in times]
        held = held[0] if len(set(held)) == 1 else ", ".join(f"{d.name}: {h}" for d, h in zip(DEVICES, held))
        print(f"| {what} | {size} per {unit} | " + " | ".join(f"{1000 * max(t):.3g}" for t in times) + f" | {held} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=pathlib.Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--cuobjdump")
    arguments = parser.parse_args()
    files = arguments.files or [pathlib.Path(__file__).resolve().parent.parent / "build/libluq_kernels.a"]
    for path in files:
        if not path.is_file():
            sys.exit(f"cuda_table: expected a file, got '{path}'; build with CUDA first")
    tool = None if arguments.check else find_cuobjdump(arguments.cuobjdump)
    kernels = read(files, tool)
    if not kernels:
        sys.exit(f"cuda_table: expected CUDA kernels, got none in {', '.join(map(str, files))}; build with LUQ_CUDA=ON")
    if arguments.check:
        bad = [k for k in kernels if k.stack and not {k.base, k.name} & COLD]
        for kernel in bad:
            print(f"{kernel.name} (sm_{kernel.architecture}): {kernel.stack} bytes of stack")
        print(f"{len(kernels)} kernels, {len(bad)} hot ones with a stack")
        sys.exit(1 if bad else 0)
    if not tool:
        print("no cuobjdump: columns of instructions are '-'\n")
    (print_markdown if arguments.markdown else print_table)(kernels)


if __name__ == "__main__":
    main()
