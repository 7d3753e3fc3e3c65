"""Built by nvcc, luqtrain starts and trains on the CPU where cuDNN and cublasLt cannot be loaded, and names them."""
import os
import pathlib
from unittest import mock

from harness import Case, LUQTRAIN, main, run

BENCH = pathlib.Path(LUQTRAIN).with_name("luqbench")
LIBRARY_TESTS = pathlib.Path(LUQTRAIN).with_name("test_cuda_libraries")  # uses cuDNN without a device
# Whichever version the program wants.
FILES = [f"{name}.so.{major}" for name in ("libcudnn", "libcublasLt") for major in range(9, 20)]


def built_by_nvcc():
    return "cublasLt" in run([LUQTRAIN, "doctor"], ".").stdout


class CudaLibraries(Case):
    def setUp(self):
        """Files that are no libraries come first in the search: the same whatever the machine has."""
        super().setUp()
        broken = self.subfolder("broken")
        for name in FILES:
            (broken / name).write_bytes(b"")
        environment = mock.patch.dict(os.environ, LD_LIBRARY_PATH=str(broken))
        environment.start()
        self.addCleanup(environment.stop)

    def test_programs_start(self):
        for line in ([LUQTRAIN, "--version"], [BENCH, "--help"]):
            self.assert_exit(run(line, self.folder), 0)

    def test_training_on_the_cpu(self):
        self.train(self.folder, device="cpu", train__epochs=1)

    def test_they_are_named(self):
        for command in ("doctor", "kernels"):
            process = run([LUQTRAIN, command], self.folder)
            self.assert_exit(process, 0)
            self.assertRegex(process.stdout, r"(?m)^CUDA.*no cuDNN \(.*libcudnn\.so\.\d+: file too short\), "
                                             r"no cublasLt \(.*libcublasLt\.so\.\d+: file too short\)")
        error = self.refused(self.folder, "[cuda] expected", "train with device=cpu", device="cuda")
        if "CUDA             no device" not in run([LUQTRAIN, "doctor"], self.folder).stdout:
            self.assertRegex(error, r"\[cuda\] expected cublasLt \S+ or newer .* file too short; install it")

    def test_their_use_is_refused(self):
        process = run([LIBRARY_TESTS, "[cudnn]"], self.folder)
        self.assertNotEqual(process.returncode, 0)
        output = " ".join(process.stdout.split())  # Catch2 wraps its lines
        self.assertRegex(output, r"\[cuda\] expected cuDNN 9\.8 or newer \(libcudnn\.so\.\d+\), got .*: file too short; "
                                 "install it or put its folder first in LD_LIBRARY_PATH, set LUQ_CUDA_KERNELS=cuda-plain")


if __name__ == "__main__":
    if not built_by_nvcc():
        print("the build has no CUDA kernels by nvcc")
        raise SystemExit(77)
    main()
