"""Every #include of the project against the layers of docs/architecture.md: a file that includes upward fails.

    python3 tests/layering_test.py SOURCE_DIR
"""
import pathlib
import re
import sys

# A layer may include itself and these.
ALLOWED = {
    "core": set(),
    "quant": {"core"},
    "autograd": {"core", "quant"},
    "ops": {"core", "quant", "autograd"},
    "nn": {"core", "quant", "autograd", "ops"},
    "models": {"core", "quant", "autograd", "ops", "nn"},
    "data": {"core"},
    "config": {"core", "quant"},
    "train": {"core", "quant", "autograd", "ops", "nn", "models", "data", "config"},
}
# The files of src/ that call kernels.
MAY_CALL_KERNELS = ["src/core/", "src/quant/", "src/autograd/", "src/ops/", "src/data/", "src/train/optimizer.cc",
                    "src/train/ema.cc"]
# What src/ may include of kernels/: the contract; the profile also counts the bytes of a call by its list of arrays.
CONTRACT = {"kernels/kernels.h", "kernels/numerics.h"}
MAY_ALSO_INCLUDE = {"src/core/profile.cc": "kernels/operands.h"}
# What kernels/ may know of the library: plain structs and enums, no Tensor.
KERNELS_MAY_INCLUDE = {"luq/core/" + name for name in
                       ("format.h", "grid.h", "rng.h", "bfloat16.h", "conv_shape.h", "device.h", "host_device.h", "image_edit.h", "error.h", "statistics.h")}
INCLUDE = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]', re.MULTILINE)
# What code calls a format by; a comment may.
FORMAT = re.compile(r"^(?:(?!//).)*\b(?:Format|FormatRow|is_4bit|k(?:Int4|Uint4|Fp4)Row)\b", re.MULTILINE)
CONDITIONAL = re.compile(r"^\s*#\s*(?:if|ifdef|ifndef|elif)\b.*$", re.MULTILINE)


def problems_of(path, text):
    """The violations in one file; path is relative to the project, with forward slashes."""
    found = []
    parts = path.split("/")
    includes = INCLUDE.findall(text)
    if any(name.startswith("tests/") for name in includes) and parts[0] != "tests":
        found.append("nothing may include tests/")
    if parts[0] == "kernels":
        for name in includes:
            if name.startswith("luq/") and name not in KERNELS_MAY_INCLUDE:
                found.append(f"kernels/ may not include {name}")
        if FORMAT.search(text):
            found.append("kernels get grids and tables, and know no format by name")
        if path not in ("kernels/select.cc", "kernels/cuda/runtime.cc") and "luq/core/error.h" in includes:
            found.append("kernels throw nothing: only select.cc and cuda/runtime.cc include luq/core/error.h")
        return found
    if parts[0] == "include":
        layer = parts[2]
    elif parts[0] == "src":
        layer = parts[1]
    else:
        return found
    for name in includes:
        if name.startswith("kernels/"):
            if parts[0] == "include":
                found.append(f"public headers never include {name}")
            elif not any(path.startswith(prefix) for prefix in MAY_CALL_KERNELS):
                found.append(f"{layer} may not call kernels directly ({name})")
            elif name not in CONTRACT and name != MAY_ALSO_INCLUDE.get(path):
                found.append(f"src/ knows kernels through kernels/kernels.h, not {name}")
        elif name.startswith("luq/") or name.startswith("src/"):
            other = name.split("/")[1]
            if other != layer and other not in ALLOWED[layer]:
                found.append(f"{layer} may not include {name}")
        if "yaml-cpp" in name and layer != "config":
            found.append(f"only config uses YAML, not {layer}")
    if parts[0] == "src":
        found += [f"src/ holds no conditional compilation: {line.strip()}" for line in CONDITIONAL.findall(text)]
    return found


def self_test():
    """The check must see each kind of violation."""
    bad = [
        ("include/luq/core/a.h", '#include "luq/quant/format.h"\n'),
        ("include/luq/ops/a.h", '#include "kernels/kernels.h"\n'),
        ("src/nn/a.cc", '#include "kernels/kernels.h"\n'),
        ("src/ops/a.cc", '#include "kernels/ref/conv.h"\n'),
        ("src/core/a.cc", '#include "kernels/operands.h"\n'),
        ("src/train/a.cc", "#include <yaml-cpp/yaml.h>\n"),
        ("src/ops/a.cc", "#ifdef __AVX2__\n"),
        ("src/data/a.cc", '#include "luq/autograd/tape.h"\n'),
        ("kernels/ref/a.cc", '#include "luq/core/tensor.h"\n'),
        ("kernels/ref/a.cc", "// One format.\nconst int offset = format == Format::int4 ? 8 : 64;\n"),
        ("kernels/ref/a.cc", '#include "luq/core/error.h"\n'),
        ("tools/a.cc", '#include "tests/catch.h"\n'),
    ]
    missed = [path + ": " + text for path, text in bad if not problems_of(path, text)]
    assert not missed, missed


def main():
    self_test()
    root = pathlib.Path(sys.argv[1])
    files = [path for folder in ("include", "src", "kernels", "tools") for path in sorted((root / folder).rglob("*"))
             if path.suffix in (".h", ".cc", ".cu", ".cuh")]
    assert len(files) > 30, f"only {len(files)} source files below {root}"
    failures = 0
    for path in files:
        relative = path.relative_to(root).as_posix()
        for problem in problems_of(relative, path.read_text()):
            print(f"{relative}: {problem}")
            failures += 1
    print(f"{len(files)} files, {failures} violations")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
