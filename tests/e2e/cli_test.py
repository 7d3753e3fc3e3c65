"""The command line: exit codes, help, plans, and quantising a file, compared with a second implementation."""
import json
import math
import os
import random
import shutil
import struct
import subprocess

import numerics
from harness import Case, Checkpoint, FP32_CONFIG, LUQ_CONFIG, LUQTRAIN, SOURCE, main, run


def write_safetensors(path, tensors):
    """tensors: name -> (dtype, shape, bytes)."""
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def floats(values):
    return struct.pack(f"<{len(values)}f", *values)


def unpacked(content, count):
    codes = []
    for byte in content:
        codes += [byte & 15, byte >> 4]
    return codes[:count]


class Program(Case):
    def luqtrain(self, *words, code=0, **options):
        process = run([LUQTRAIN, *words], self.folder, **options)
        self.assert_exit(process, code)
        return process


class CommandLine(Program):
    def test_help_and_version(self):
        for words in ([], ["eval"], ["plot"], ["kernels"], ["doctor"], ["quantize"]):
            self.assertIn("--help", self.luqtrain(*words, "--help").stdout)
        self.assertRegex(self.luqtrain("--version").stdout, r"^luqtrain \d+\.\d+\.\d+$")

    def test_mistakes_end_with_2(self):
        for words in ([], ["nonsense"], ["--config"], ["--config", "missing.yaml"], ["--resume", "--overwrite"],
                      ["eval"], ["eval", "--checkpoint", "missing"], ["kernels", "extra"], ["--set", "seed=1"],
                      ["--config", FP32_CONFIG, "--set", "train.epochs=x"], ["quantize", "--format", "int4_sawb"]):
            process = self.luqtrain(*words, code=2)
            self.assertTrue(process.stderr + process.stdout)
        environment = {**os.environ, "LUQ_KERNELS": "bogus"}
        self.assertIn("bogus", self.luqtrain("kernels", code=2, env=environment).stderr)

    def test_output_that_cannot_be_written_is_a_failure(self):
        with open("/dev/full", "w") as full:
            process = subprocess.run([LUQTRAIN, "kernels"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(process.returncode, 1)
        self.assertIn("standard output cannot be written", process.stderr)

    def test_kernels_and_doctor(self):
        def table(**options):
            rows, _, about_cuda = self.luqtrain("kernels", **options).stdout.partition("\n\n")
            self.assertTrue(about_cuda.startswith("CUDA: "), about_cuda)
            return [line.split() for line in rows.splitlines()]

        head, *lines = table()
        self.assertEqual(head[:2], ["kernel", "cpu"])
        self.assertGreater(len(lines), 20)
        self.assertTrue(all(len(line) == len(head) for line in lines))
        scalar = table(env={**os.environ, "LUQ_KERNELS": "ref"})[1:]
        self.assertEqual({line[1] for line in scalar}, {"ref", "-"})  # -: optional, not there
        doctor = self.luqtrain("doctor").stdout
        self.assertIn("fashion_mnist", doctor)
        self.assertRegex(doctor, r"(?m)^CUDA  ")
        self.assertRegex(doctor, r"(?m)^images  .*libjpeg-turbo .*libtiff .*giflib .*OpenCV ")

    def test_dry_run(self):
        words = ("--set", "data.name=synthetic", "--set", "data.synthetic.image_size=8", "--set", "seed=3", "--dry-run")
        first = self.luqtrain("--config", LUQ_CONFIG, *words).stdout
        for word in ("layer3.2.conv2", "uint4 x int4", "int4 x fp4", "fp4 x uint4", "parameters", "memory",
                     "images/s in training"):
            self.assertIn(word, first)
        self.assertEqual(list(self.folder.iterdir()), [])
        # All of it is YAML: it can be used as a configuration, and says the same again, but for what is measured.
        (self.folder / "again.yaml").write_text(first)
        again = self.luqtrain("--config", "again.yaml", "--dry-run").stdout

        def unmeasured(text):
            return [line for line in text.splitlines() if not line.startswith(("# speed", "# time"))]

        self.assertEqual(unmeasured(again), unmeasured(first))
        self.assertEqual(len(unmeasured(first)), len(first.splitlines()) - 2)

    def test_bare_name(self):
        process = self.luqtrain("--config", "resnet20_fp32.yaml", "--set", "data.name=synthetic", "--dry-run")
        self.assertIn("name: resnet20", process.stdout)
        self.assertIn("did you mean resnet20_luq.yaml", self.luqtrain("--config", "resnet20_lug.yaml", code=2).stderr)

    def test_a_name_shipped_twice_must_be_given_as_a_path(self):
        program = self.subfolder("build") / "luqtrain"
        shutil.copy(LUQTRAIN, program)
        copies = [self.folder / "configs" / kind / "same.yaml" for kind in ("one", "two")]
        for copy in copies:
            copy.parent.mkdir(parents=True)
            copy.write_text("model: {name: resnet20}\ndata: {name: synthetic}\n")
        elsewhere = self.subfolder("elsewhere")
        process = run([program, "--config", "same.yaml", "--dry-run"], elsewhere)
        self.assert_exit(process, 2)
        for copy in copies:
            self.assertIn(str(copy.resolve()), process.stderr)
        self.assert_exit(run([program, "--config", copies[1], "--dry-run"], elsewhere), 0)
        # The working directory comes first.
        shutil.copy(copies[0], elsewhere)
        self.assert_exit(run([program, "--config", "same.yaml", "--dry-run"], elsewhere), 0)

    def test_every_shipped_configuration_has_a_plan(self):
        configs = sorted((SOURCE / "configs").rglob("*.yaml"))
        self.assertGreater(len(configs), 4)
        for config in configs:
            with self.subTest(config=config.name):
                of_files = config.parent.name == "imagenet"
                small = ["train.batch_size=8", "train.micro_batches=1"]
                small += (["data.image_size=32"] if of_files else
                          ["data.name=synthetic", "data.synthetic.image_size=32"])
                plan = self.luqtrain("--config", config, *(word for key in small for word in ("--set", key)),
                                     "--dry-run").stdout
                self.assertEqual("int4 x fp4" in plan, "_luq" in config.name)
                if of_files:
                    self.assertIn("imagenet: 1,281,167 training and 50,000 test images", plan)

    def test_missing_data(self):
        """Planned for as published, where the set is not in the usual places; refused to train, with what to do."""
        words = ("--config", "resnet18_luq.yaml", "--set", "data.image_size=32")
        environment = {**os.environ, "LUQ_DATA_DIR": str(self.folder / "nowhere")}
        if any(os.path.isdir(folder) for folder in ("/data/imagenet", "/datasets/imagenet")):
            self.skipTest("this machine has ImageNet")
        plan = self.luqtrain(*words, "--dry-run", env=environment).stdout
        for text in ("as published: it is not here", str(self.folder / "nowhere"), "450,360 (90 epochs",
                     "115,292,160 images trained, 4,500,000 evaluated"):
            self.assertIn(text, plan)
        error = self.luqtrain(*words, code=2, env=environment).stderr
        for text in (str(self.folder / "nowhere"), "train/<class>/*.JPEG", "--smoke", "data.name=synthetic",
                     "tools/prepare_photos.sh", "docs/data.md"):
            self.assertIn(text, error)
        for name in ("photos_resnet18_luq.yaml", "elpv_resnet18_luq.yaml"):  # nothing is published of these
            for flags in ((), ("--dry-run",)):
                error = self.luqtrain("--config", name, *flags, code=2, env=environment).stderr
                self.assertIn("--smoke", error)
                self.assertIn("data.name=synthetic", error)
        self.assertIn("elsewhere", self.luqtrain(*words, "--set", "data.path=elsewhere", "--dry-run", code=2).stderr)
        self.assertEqual(list(self.folder.iterdir()), [])


class Quantize(Program):
    def setUp(self):
        super().setUp()
        draw = random.Random(11)
        gaussian = [numerics.f32(draw.gauss(0, 1)) for _ in range(9001)]
        self.values = {
            "gaussian": ([9001], gaussian),
            "relu": ([25, 36], [max(value, 0.0) for value in gaussian[:900]]),
            "zeros": ([3, 5], [0.0] * 15),
            "scalar": ([], [-0.75]),
            "empty": ([0, 4], []),
            "outlier": ([101], [1e4] + [numerics.f32(value * 1e-3) for value in gaussian[:100]]),
            "octaves": ([64], [numerics.f32(2.0**(i % 7)) for i in range(64)]),
            "constant": ([17], [2.5] * 17),
            "tiny": ([4], [numerics.f32(1e-40)] * 4),
        }
        self.source = self.folder / "in.safetensors"

    def write(self, names):
        tensors = {name: ("F32", self.values[name][0], floats(self.values[name][1])) for name in names}
        tensors["counter"] = ("I64", [1], struct.pack("<q", 3))
        write_safetensors(self.source, tensors)

    def check(self, form, names, *flags, **key):
        self.write(names)
        text = self.luqtrain("quantize", "--input", self.source, "--format", form, "--output", "out.safetensors",
                             *flags).stdout
        self.assertIn("counter: left out", text)
        output = Checkpoint(self.folder / "out.safetensors")
        short = form.split("_")[0]
        for name in names:
            with self.subTest(form=form, tensor=name):
                shape, values = self.values[name]
                count = len(values)
                scale, codes = numerics.quantize(short, values, name=name, **key)
                dtype, flat, packed = output.tensors[name + ".codes"]
                self.assertEqual((dtype, flat), ("U8", ((count + 1) // 2,)))
                self.assertEqual(unpacked(packed, count), codes)
                if count % 2:
                    self.assertEqual(packed[-1] >> 4, 0)
                self.assertEqual(output.tensors[name + ".scale"][2], floats([scale]))
                dtype, back, content = output.tensors[name + ".dequantized"]
                self.assertEqual((dtype, back), ("F32", tuple(shape)))
                expected = [numerics.f32(scale * numerics.decode(short, code)) for code in codes]
                self.assertEqual(list(struct.unpack(f"<{count}f", content)), expected)
                self.assertLessEqual(len(set(codes)), 16)
                described = json.loads(output.metadata[name + ".codes"])
                self.assertEqual((described["shape"], described["format"]), (shape, short))
        return text

    def test_int4(self):
        text = self.check("int4_sawb", list(self.values))
        self.assertIn("SQNR", text)

    def test_uint4(self):
        self.check("uint4_sawb", ["relu", "zeros", "octaves", "constant", "empty"])

    def test_fp4(self):
        self.check("fp4_luq", list(self.values))
        self.check("fp4_luq", list(self.values), "--seed", "5", "--step", "4000000001", "--sample", "7", seed=5,
                   step=4000000001, sample=7)

    def test_every_table_gives_the_same_file(self):
        self.write(["gaussian", "relu", "outlier"])
        files = []
        for table in ("ref", "avx2", "avx512", "vnni"):
            for form in ("int4_sawb", "fp4_luq"):
                self.luqtrain("quantize", "--input", self.source, "--format", form, "--output", f"{table}.{form}",
                              env={**os.environ, "LUQ_KERNELS": table})
            files.append([(self.folder / f"{table}.{form}").read_bytes() for form in ("int4_sawb", "fp4_luq")])
        for other in files[1:]:
            self.assertEqual(files[0], other)

    def refuse(self, *words, form="int4_sawb", tensors=None, output="out.safetensors", code=2):
        if tensors is not None:
            write_safetensors(self.source, tensors)
        process = self.luqtrain("quantize", "--input", self.source, "--format", form, "--output", output, code=code)
        for word in words:
            self.assertIn(word, process.stderr)
        self.assertFalse((self.folder / "out.safetensors").exists())

    def test_refusals(self):
        self.refuse("in.safetensors", "No such file")
        good = {"w": ("F32", [2], floats([1, -1]))}
        self.refuse("one of int4_sawb, uint4_sawb, fp4_luq", form="fp8", tensors=good)
        self.refuse("tensor w", "negative", form="uint4_sawb", tensors=good)
        for bad in (math.nan, math.inf, -math.inf):
            for form in ("int4_sawb", "fp4_luq"):
                self.refuse("tensor w", "finite", form=form, tensors={"w": ("F32", [2], floats([1, bad]))})
        for option in ("--seed", "--step"):
            for number in ("-1", "18446744073709551616", "1.5"):
                process = self.luqtrain("quantize", "--input", self.source, "--format", "int4_sawb", "--output", "out",
                                        option, number, code=2)
                self.assertIn(option, process.stderr)
        self.refuse("no float tensor", tensors={"n": ("I32", [1], b"\0\0\0\0")})
        self.refuse("another file", tensors=good, output=self.source)
        self.refuse("nowhere", tensors=good, output="nowhere/out.safetensors", code=1)
        self.source.write_bytes(b"not a file of tensors")
        self.refuse("in.safetensors")


if __name__ == "__main__":
    main()
