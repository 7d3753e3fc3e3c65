"""An installed copy: luqtrain finds its configurations, and a model from outside the tree builds and trains."""
import os
import pathlib
import re
import shutil

from harness import Case, LUQTRAIN, SOURCE, main, run

BUILD = pathlib.Path(LUQTRAIN).resolve().parent


class Installed(Case):
    def setUp(self):
        super().setUp()
        self.prefix = self.folder / "prefix"
        self.assert_exit(run(["cmake", "--install", BUILD, "--prefix", self.prefix], self.folder), 0)

    def test_program(self):
        for prefix in (self.prefix, self.folder / "moved"):
            if prefix != self.prefix:
                shutil.move(self.prefix, prefix)
            process = run([prefix / "bin/luqtrain", "--config", "resnet20_fp32.yaml", "--dry-run"], self.folder)
            self.assert_exit(process, 0)
            self.assertIn("resnet20", process.stdout)
            # The module that reads BMP files is found beside the moved program.
            for split in ("train", "val"):
                (self.folder / "data" / split / "ant").mkdir(parents=True, exist_ok=True)
                shutil.copy(SOURCE / "tests/golden/formats/rgb.bmp", self.folder / "data" / split / "ant")
            process = run([prefix / "bin/luqtrain", "validate-data", "--path", "data"], self.folder)
            self.assert_exit(process, 0)
            self.assertIn("1 training and 1 test images, 0 broken", process.stdout)
            # CUDA's libraries are looked for where the build found them.
            built, installed = (run([program, "doctor"], self.folder).stdout for program in (LUQTRAIN, prefix / "bin/luqtrain"))
            self.assertEqual(*(re.search("(?m)^CUDA .*$", text)[0] for text in (built, installed)))

    def test_external_model(self):
        cache = (BUILD / "CMakeCache.txt").read_text()
        if "-fsanitize" in cache:
            self.skipTest("a sanitized library wants a sanitized example")
        build = self.folder / "build"
        generator = re.search("^CMAKE_GENERATOR:INTERNAL=(.*)$", cache, re.MULTILINE).group(1)  # make may not be there
        for step in (["cmake", "-S", SOURCE / "examples/external_model", "-B", build, "-G", generator,
                      f"-DCMAKE_PREFIX_PATH={self.prefix}"],
                     ["cmake", "--build", build]):
            self.assert_exit(run(step, self.folder), 0)
        process = run([build / "external_model", SOURCE / "examples/external_model/tiny_net.yaml",
                       "run.directory=run"], self.folder, env={**os.environ, "OMP_WAIT_POLICY": "passive"})
        self.assert_exit(process, 0)
        self.assertIn("1 of 3 convolutions and linear layers in 4 bits", process.stdout)
        top1 = float(process.stdout.split("test top-1")[-1].split()[0])
        self.assertGreater(top1, 30)

    def test_document(self):
        """docs/adding_a_model.md shows the example's code."""
        text = (SOURCE / "docs/adding_a_model.md").read_text()
        for name in ("external_model.cc", "CMakeLists.txt", "tiny_net.yaml"):
            self.assertIn((SOURCE / "examples/external_model" / name).read_text(), text)


if __name__ == "__main__":
    main()
