"""What the trials of faults share. Python's standard library only.

Each program here takes --full for every trial there is, and without it does a few of them within seconds, as a test.
LUQTRAIN names the program and LUQ_SOURCE_DIR the source folder, as for the tests in tests/e2e."""
import os
import pathlib
import shutil
import subprocess
import sys

SOURCE = pathlib.Path(os.environ.get("LUQ_SOURCE_DIR", pathlib.Path(__file__).resolve().parents[2]))
LUQTRAIN = pathlib.Path(os.environ.get("LUQTRAIN", SOURCE / "build/luqtrain")).resolve()
SKIPPED = 77


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(SKIPPED)


def preloaded(name, folder):
    """The library that tests/faults/<name>.c makes; ends the program as skipped where it cannot be used."""
    compilers = (os.environ.get("CC", "cc"), "cc", "gcc", "clang")
    compiler = next((path for path in compilers if shutil.which(path)), None)
    if compiler is None:
        skip("no C compiler")
    if b"__asan_init" in LUQTRAIN.read_bytes():
        skip("AddressSanitizer has an allocator of its own")
    library = pathlib.Path(folder) / f"{name}.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, SOURCE / f"tests/faults/{name}.c", "-ldl"],
                   check=True)
    return library


def spread(count, wanted):
    """`wanted` numbers of 1..count, as even as may be, the first and the last among them; all where there are fewer."""
    if count <= wanted:
        return list(range(1, count + 1))
    return sorted({1 + round(i * (count - 1) / (wanted - 1)) for i in range(wanted)})
