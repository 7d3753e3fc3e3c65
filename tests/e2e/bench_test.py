"""luqbench and luqtrain profile: what they print and write. That they are fast is nothing a test may ask."""
import json
import pathlib
import shutil

from harness import Case, LUQTRAIN, SMALL, SOURCE, LUQ_CONFIG, main, run

LUQBENCH = pathlib.Path(LUQTRAIN).with_name("luqbench")
SMALL_MODEL = ["--model", "resnet20", "--batch", "4", "--image-size", "12", "--threads", "2"]


class Bench(Case):
    def luqbench(self, *words, code=0):
        process = run([LUQBENCH, *words], self.folder)
        self.assert_exit(process, code)
        return process

    def test_step(self):
        process = self.luqbench("step", *SMALL_MODEL, "--rounds", "2", "--json", "step.json")
        result = json.loads((self.folder / "step.json").read_text())
        names = {"luq", "luq_recompute", "luq_exempt_shortcuts", "fp32", "bf16"}
        for key in ("images_per_second", "peak_rss_bytes", "step_seconds"):
            self.assertEqual(set(result[key]), names)
        for name in names:
            self.assertIn(name, process.stdout)
            self.assertGreater(result["images_per_second"][name], 0)
            self.assertGreater(result["peak_rss_bytes"][name], 1 << 20)
            self.assertGreaterEqual(len(result["step_seconds"][name]), 2)
        self.assertEqual((result["model"], result["batch"], result["threads"]), ("resnet20", 4, 2))

    def test_step_of_some_configurations(self):
        self.luqbench("step", *SMALL_MODEL, "--rounds", "1", "--only", "luq", "--set", "precision=float32", "--json",
                      "step.json")
        self.assertEqual(set(json.loads((self.folder / "step.json").read_text())["images_per_second"]), {"luq"})

    def test_model_without_shortcuts(self):
        self.luqbench("step", "--model", "vgg11_bn", "--batch", "2", "--image-size", "32", "--rounds", "1", "--json",
                      "step.json")
        self.assertEqual(set(json.loads((self.folder / "step.json").read_text())["images_per_second"]),
                         {"luq", "luq_recompute", "fp32", "bf16"})

    def test_layers(self):
        process = self.luqbench("layers", *SMALL_MODEL, "--repeats", "1", "--json", "layers.json")
        result = json.loads((self.folder / "layers.json").read_text())
        self.assertEqual({row["product"] for row in result["layers"]}, {"forward", "backward_data", "backward_weight"})
        self.assertEqual(sum(row["count"] for row in result["layers"]), 3 * 20)
        self.assertEqual(set(result["all"]), {"forward", "backward_data", "backward_weight"})
        self.assertIn("16 -> 16, 3x3", process.stdout)

    def test_kernels(self):
        self.luqbench("kernels", "--mebibytes", "1", "--repeats", "1", "--json", "kernels.json")
        result = json.loads((self.folder / "kernels.json").read_text())
        self.assertLessEqual({"stats", "encode_int4", "encode_fp4"}, set(result["kernels"]))

    def test_loader(self):
        for split in ("train", "val"):
            for kind in ("jpg", "png"):
                shutil.copytree(SOURCE / "tests/golden/images", self.folder / "images" / split / kind,
                                ignore=lambda _, names: [name for name in names if not name.endswith(kind)])
        process = self.luqbench("loader", "--path", "images", "--batch", "4", "--epochs", "2", "--json", "loader.json")
        result = json.loads((self.folder / "loader.json").read_text())
        for key in ("images_per_second", "images_per_cpu_second"):
            self.assertEqual(set(result[key]), {"luqtrain", "luqtrain, scaled_decode"})
        self.assertEqual(result["images"], len(list((self.folder / "images/train").rglob("*.*"))))
        self.assertIn("libjpeg-turbo", process.stdout)

    def test_mistakes(self):
        for words, part in ((["step", "--model", "resnet19"], "resnet19"),
                            (["loader", "--path", "nowhere/images"], "nowhere/images"),
                            (["loader"], "--path"),
                            (["step", *SMALL_MODEL, "--only", "luk"], "luk"),
                            (["step", *SMALL_MODEL, "--rounds", "0"], "--rounds"),
                            (["step", *SMALL_MODEL, "--set", "optimizer.rate=1"], "optimizer.rate"),
                            (["step", *SMALL_MODEL, "--set", "train.batch_size=2"], "--batch"),
                            (["step", "--model", "resnet20", "--image-size", "12", "--batch", "1"], "train.batch_size"),
                            (["step", "--batch", "0"], "--batch"),
                            (["step", *SMALL_MODEL, "--json", "nowhere/step.json"], "nowhere/step.json"),
                            (["step", *SMALL_MODEL, "--compare", "torch", "--python", "nowhere/python"], "nowhere/python"),
                            (["layers", "--model", "resnet19"], "resnet19"),
                            (["kernels", "--mebibytes", "0"], "--mebibytes")):
            process = self.luqbench(*words, code=2)
            self.assertIn(part, process.stderr)
            self.assertFalse((self.folder / "nowhere").exists())


class Profile(Case):
    def test_profile(self):
        line = [LUQTRAIN, "profile", "--config", LUQ_CONFIG, "--steps", "1", "--shapes"]
        for key, value in SMALL.items():
            line += ["--set", f"{key}={value}"]
        process = run(line, self.folder)
        self.assert_exit(process, 0)
        for word in ("machine", "% of limit", "forward", "backward", "update", "encode", "qconv_backward_weight",
                     "sgd", "images/s", "8x8x8x16 -> 16, 3x3"):
            self.assertIn(word, process.stdout)
        rows = [line.split() for line in process.stdout.splitlines()
                if line.startswith(("forward ", "backward ", "update ", "total "))]
        self.assertGreater(len(rows), 20)
        for row in rows:  # the tensors of these shapes fit into any cache
            self.assertTrue(row[-1] in ("-", "cache", "beaten") or 0 <= int(row[-1]) <= 100, row)
        self.assertFalse((self.folder / "run").exists())


if __name__ == "__main__":
    main()
