"""device=cuda as a user meets it, on emulated kernels: skipped where the build has none."""
import os
import re
import struct

from harness import Case, Checkpoint, LUQ_CONFIG, LUQTRAIN, arguments, logits_of, main, metrics, run, write_png

EMULATED = "emulated on the CPU, a test bed and not for training"
# resnet20 on a few images: an emulated step takes about a second.
TINY = {"device": "cuda", "train__batch_size": 4, "train__max_steps": 3, "train__log_every": 1, "eval__batch_size": 8,
        "eval__max_images": 16}


def built_with_emulation():
    return EMULATED in run([LUQTRAIN, "doctor"], ".").stdout


def write_tensors(path):
    """One float tensor of odd length and one matrix, in safetensors."""
    values = [((i * 7919) % 1009 - 500) / 97 for i in range(1000)]
    data = struct.pack("<1000f", *values)
    header = ('{"odd":{"dtype":"F32","shape":[333],"data_offsets":[0,1332]},'
              '"matrix":{"dtype":"F32","shape":[23,29],"data_offsets":[1332,4000]}}').encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


class Cuda(Case):
    def luqtrain(self, *words, code=0, **environment):
        process = run([LUQTRAIN, *words], self.folder, env={**os.environ, **environment})
        self.assert_exit(process, code)
        return process

    def start(self, name, *flags, expect=0, memory=None, **settings):
        """A run in the folder `name`; settings replace TINY's."""
        cwd = self.folder / name
        cwd.mkdir(exist_ok=True)
        environment = dict(os.environ) if memory is None else {**os.environ, "LUQ_CUDA_EMULATED_BYTES": str(memory)}
        process = run(arguments(LUQ_CONFIG, *flags, **{**TINY, **settings}), cwd, env=environment)
        self.assert_exit(process, expect)
        return process

    def test_the_device_is_described(self):
        self.assertRegex(self.luqtrain("doctor").stdout,
                         rf"(?m)^CUDA +{EMULATED}, compute capability 8\.0, .* GiB; driver for CUDA 13\.0, runtime 13\.0$")
        self.assertRegex(self.luqtrain("doctor", LUQ_CUDA_EMULATED_BYTES="0").stdout, r"(?m)^CUDA +no device: ")
        for memory in ("", "0"):  # the table needs no device
            text = self.luqtrain("kernels", **({"LUQ_CUDA_EMULATED_BYTES": memory} if memory else {})).stdout
            self.assertIn("CUDA: " + ("no device" if memory else EMULATED), text)
            self.assertIn("missing: nothing\n", text)
            self.assertRegex(text, r"(?m)^kernel +cpu +cuda$")
            self.assertRegex(text, r"(?m)^encode +\S+ +cuda$")
            self.assertRegex(text, r"(?m)^resize +\S+ +host$")
        for command in (("kernels",), ("--config", LUQ_CONFIG, "--set", "device=cuda")):
            error = self.luqtrain(*command, code=2, LUQ_CUDA_KERNELS="bogus").stderr
            self.assertIn("[kernels] expected LUQ_CUDA_KERNELS to be one of cuda-plain, got 'bogus'", error)
        self.assertEqual(text, self.luqtrain("kernels", LUQ_CUDA_EMULATED_BYTES="0", LUQ_CUDA_KERNELS="cuda-plain").stdout)

    def test_a_run_moves_between_devices(self):
        """What is trained on one device is used, and goes on, on the other."""
        process = self.start("cuda", train__ema_decay=0.9)
        self.assertRegex(process.stdout, rf"(?m)^device   {EMULATED}, ")
        self.assertIn("qconv_forward cuda", process.stdout)
        self.start("cpu", device="cpu", train__ema_decay=0.9)
        here, there = metrics(self.folder / "cpu/run"), metrics(self.folder / "cuda/run")
        self.assertEqual([line["step"] for line in here], [line["step"] for line in there])
        self.assertAlmostEqual(here[0]["loss"], there[0]["loss"], delta=0.02 * here[0]["loss"])
        cuda, cpu = (self.folder / name / "run/checkpoints/last.safetensors" for name in ("cuda", "cpu"))

        # Evaluation, on either device; without one the way out is named.
        def loss(*words, **environment):
            return float(re.search(r"loss ([0-9.]+)", self.luqtrain("eval", "--checkpoint", *words, **environment).stdout)[1])
        self.assertAlmostEqual(loss(cuda), there[-1]["ema_loss"], delta=1e-4)
        for file in (cuda, cpu):
            self.assertAlmostEqual(loss(file, "--device", "cpu"), loss(file, "--device", "cuda"), delta=0.02)
        self.assertEqual(loss(cuda, "--device", "cpu"), loss(cuda, "--device", "cpu", LUQ_CUDA_EMULATED_BYTES="0"))
        process = self.luqtrain("eval", "--checkpoint", cuda, "--device", "gpu", code=2)
        self.assertIn("--device", process.stderr)

        # Exports are made on the CPU, and are the same wherever the checkpoint came from.
        for name in ("safetensors", "packed", "onnx"):
            self.luqtrain("export", "--checkpoint", cuda, "--format", name, "--output", f"cuda.{name}",
                          LUQ_CUDA_EMULATED_BYTES="0")
        packed = loss("cuda.packed", LUQ_CUDA_EMULATED_BYTES="0")
        self.assertEqual(packed, loss(cuda, "--device", "cpu"))
        stored = Checkpoint(cuda).tensors
        for name, tensor in Checkpoint(self.folder / "cuda.safetensors").tensors.items():
            if not name.endswith("num_batches_tracked"):
                self.assertEqual(tensor, stored["ema." + name], name)

        # Each goes on where the other was.
        self.start("cuda", "--resume", device="cpu", train__ema_decay=0.9, train__max_steps=4)
        self.start("cpu", "--resume", device="cuda", train__ema_decay=0.9, train__max_steps=4)
        for name in ("cuda", "cpu"):
            lines = metrics(self.folder / name / "run")
            self.assertEqual([line["step"] for line in lines if line["kind"] == "train"], [1, 2, 3, 4])
        here, there = metrics(self.folder / "cpu/run"), metrics(self.folder / "cuda/run")
        self.assertAlmostEqual(here[-1]["loss"], there[-1]["loss"], delta=0.1)

    def test_predict(self):
        self.start("run")
        checkpoint = self.folder / "run/run/checkpoints/last.safetensors"
        for i in range(2):
            write_png(self.folder / f"{i}.png", i)
        logits = []
        for device in ("cpu", "cuda"):
            self.luqtrain("predict", "--checkpoint", checkpoint, "--device", device, "--logits", device, "0.png", "1.png")
            logits.append([logit for row in logits_of(self.folder / device) for logit in row])
        for a, b in zip(*logits):
            self.assertAlmostEqual(a, b, delta=0.05)

    def test_dry_run(self):
        text = self.start("plan", "--dry-run").stdout
        self.assertIn("int4 x fp4 [cuda]", text)
        self.assertIn("device: cuda", text)
        self.assertRegex(text, r"(?m)^# memory +\S+ MiB estimated")

    def test_smoke(self):
        self.assertIn("Smoke test passed", self.start("smoke", "--smoke", train__clip_grad_norm=1, train__micro_batches=2,
                                                      precision="bfloat16", data__augment__mixup_alpha=0.2).stdout)

    def test_quantize_gives_the_same_file(self):
        write_tensors(self.folder / "in.safetensors")
        for name in ("int4_sawb", "fp4_luq"):
            outputs = []
            for device in ("cpu", "cuda"):
                report = self.luqtrain("quantize", "--input", "in.safetensors", "--format", name, "--seed", "5",
                                       "--device", device, "--output", f"{device}.safetensors").stdout
                outputs.append((report, (self.folder / f"{device}.safetensors").read_bytes()))
            self.assertEqual(outputs[0], outputs[1])

    def test_a_device_that_cannot_quantize(self):
        """Too small a memory, without the advice that is for trainings; and wrong numbers in the environment."""
        write_tensors(self.folder / "in.safetensors")

        def refusal(**environment):
            return self.luqtrain("quantize", "--input", "in.safetensors", "--format", "fp4_luq", "--device", "cuda",
                                 "--output", "out.safetensors", code=1, **environment).stderr

        error = refusal(LUQ_CUDA_EMULATED_BYTES="3000")
        self.assertIn("out of memory: ", error)
        self.assertNotIn("train.", error)
        for name, value in (("LUQ_CUDA_SEED", "abc"), ("LUQ_CUDA_EMULATED_BYTES", "-1"), ("LUQ_CUDA_EMULATED_BYTES", "1e3")):
            self.assertIn(f"{name}: expected a number, got '{value}'", refusal(**{name: value}))

    def test_out_of_memory(self):
        """Said with tensor and plan, and the run goes on from its checkpoint where there is more."""
        for memory, where in ((100_000, r"\[tensor\]"), (2_600_000, r"\[train\] step 1: \[tensor\]")):
            process = self.start("short", "--overwrite", expect=1, memory=memory)
            self.assertRegex(process.stderr, where + r" \w+ \([0-9,]+\): \[allocate\] cuda:0: out of memory: \d+ bytes "
                             r"wanted, .* lower train.batch_size.*; the experiment's memory is \S+ MiB estimated: ")
        self.start("whole", train__max_steps=4)
        self.start("run", train__max_steps=2)
        saved = (self.folder / "run/run/checkpoints/last.safetensors").read_bytes()
        process = self.start("run", "--resume", train__max_steps=4, expect=1, memory=2_600_000)
        self.assertIn("[train] step 3: [tensor]", process.stderr)
        self.assertIn("out of memory", (self.folder / "run/run/log.txt").read_text())
        self.assertEqual((self.folder / "run/run/checkpoints/last.safetensors").read_bytes(), saved)
        self.start("run", "--resume", train__max_steps=4)
        self.assert_same_tensors(self.folder / "run/run/checkpoints/last.safetensors",
                                 self.folder / "whole/run/checkpoints/last.safetensors")


if __name__ == "__main__":
    if not built_with_emulation():
        print("the build has no emulated CUDA kernels")
        raise SystemExit(77)
    main()
