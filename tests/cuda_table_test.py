"""tools/cuda_table.py: no hot kernel of the build spills, and a kernel that has a stack is found.

    python3 tests/cuda_table_test.py SOURCE_DIR NVCC LIBRARY
"""
import pathlib
import subprocess
import sys
import tempfile

SOURCE, NVCC, LIBRARY = sys.argv[1:]
# An array that is indexed by what only a launch knows lies in memory.
KERNEL = """
__global__ void __launch_bounds__(96) spills(int* x, int n) {
  int values[64];
  for (int i = 0; i < n; ++i) values[(i * n) & 63] = x[i];
  for (int i = 0; i < n; ++i) x[i] = values[(i ^ n) & 63];
}
__global__ void __launch_bounds__(64) stays(float* x) {
  extern __shared__ float shared[];
  shared[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  asm volatile("{ .reg .b32 luq_shared_256; }");
  x[threadIdx.x] = shared[63 - threadIdx.x];
}
"""


def table(*arguments):
    return subprocess.run([sys.executable, pathlib.Path(SOURCE) / "tools/cuda_table.py", *arguments], capture_output=True,
                          text=True)


with tempfile.TemporaryDirectory() as folder:
    code, made = pathlib.Path(folder) / "code.cu", pathlib.Path(folder) / "code.o"
    code.write_text(KERNEL)
    subprocess.run([NVCC, "--compress-mode=none", "-gencode=arch=compute_80,code=[compute_80,sm_80]", "-c", code, "-o", made],
                   check=True)
    check = table("--check", made)
    assert check.returncode == 1 and "spills (sm_80): 256 bytes of stack" in check.stdout, check
    assert "2 kernels, 1 hot ones with a stack" in check.stdout, check
    lines = {line.split()[0]: line.split() for line in table(made).stdout.splitlines() if "80" in line.split()}
    assert lines["spills"][3:6] == ["96", "0", "256"], lines  # threads, shared memory, stack
    assert lines["stays"][3:6] == ["64", "256", "0"], lines
    assert lines["stays"][6] == "64/64", lines

check = table("--check", LIBRARY)
print(check.stdout, check.stderr)
sys.exit(check.returncode)
