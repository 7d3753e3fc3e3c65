"""Advice and reasons: what a mistyped command is told, and the commands that messages print, pasted."""
import json
import os
import shlex
import struct
import sys

from harness import Case, Checkpoint, LUQTRAIN, SOURCE, main, run, write_png

# What was typed, and what must be in the answer.
MISTYPED = [
    ("train", "luqtrain --config resnet20_luq.yaml\n"),
    ("train none --set seed=1", "no experiment or run none; it trains without a command, for example: "
     "luqtrain --config resnet20_luq.yaml --set seed=1\n"),
    ("train none --resume", "there is no run in none; that in runs/a goes on with luqtrain --config runs/a/config.yaml"),
    ("train --config c.yaml --set seed=1", "luqtrain --config c.yaml --set seed=1"),
    ("train c.yaml", "luqtrain --config c.yaml"),
    ("train --set seed=1 c.yaml", "luqtrain --set seed=1 --config c.yaml\n"),
    ("c.yaml", "luqtrain --config c.yaml"),
    ("resume --config c.yaml", "luqtrain --config c.yaml --resume"),
    ("resume runs/a", "luqtrain --config runs/a/config.yaml --set run.directory=runs/a --resume\n"),
    ("train runs/a/ --resume", "luqtrain --config runs/a/config.yaml --set run.directory=runs/a --resume\n"),
    ("fit runs/a/checkpoints/last.safetensors --set seed=1",
     "luqtrain --config runs/a/config.yaml --set run.directory=runs/a --resume --set seed=1\n"),
    ("resume --config c.yaml runs/a", "luqtrain --set run.directory=runs/a --resume --config c.yaml\n"),
    ("resume", "luqtrain --config runs/a/config.yaml --set run.directory=runs/a --resume\n"),
    ("resume none --set seed=1", "there is no run in none; that in runs/a goes on with "
     "luqtrain --config runs/a/config.yaml --set run.directory=runs/a --resume --set seed=1\n"),
    ("resume --config c.yaml none", "there is no run in none; it trains without a command: "
     "luqtrain --config c.yaml --resume\n"),
    ("runs/a --resume", "luqtrain --config runs/a/config.yaml --set run.directory=runs/a --resume?\n"),
    ("eval --checkpoint f word", "word is not expected here\nRun with"),
    ("pack data out", "luqtrain pack --input data --output out?\n"),
    ("pack --input data out", "luqtrain pack --input data --output out?\n"),
    ("export runs/a out --format onnx",
     "luqtrain export --checkpoint runs/a/checkpoints/best.safetensors --output out --format onnx?\n"),
    ("predict f.safetensors a.png", "luqtrain predict --checkpoint f.safetensors a.png?\n"),
    ("predict a.png runs/a", "luqtrain predict a.png --checkpoint runs/a/checkpoints/best.safetensors?\n"),
    ("pack --input a --output b --workers abc", "--workers: expected an integer, got 'abc'"),
    ("profile --config c.yaml --steps 1.5", "--steps: expected an integer, got '1.5'"),
    ("validate-data --path runs --workers 99999999999999999999", "--workers: expected an integer, got '99999"),
    ("plot runs/a --x foo", "--x: expected epochs or steps, got 'foo'"),
    ("predict --checkpoint f.safetensors runs", "--images runs"),
    ("convert x.pth", "/convert_checkpoint.py x.pth OUTPUT.safetensors\n"),
    ("--config c.yaml --resume runs/a", "luqtrain --config runs/a/config.yaml --set run.directory=runs/a --resume"),
    ("--config c.yaml --resume runs/a/checkpoints/last.safetensors",
     "luqtrain --config runs/a/config.yaml --set run.directory=runs/a --resume"),
    ("--config c.yaml --resume=runs/a", "--set run.directory=runs/a --resume"),
    ("--config c.yaml --resume other", "luqtrain --config c.yaml --resume"),
    ("--config c.yaml --dry-run yes", "luqtrain --config c.yaml --dry-run"),
    ("--config c.yaml --set a=1 b=2", "luqtrain --config c.yaml --set a=1 --set b=2"),
    ("--config c.yaml --set seed 1", "luqtrain --config c.yaml --set seed=1"),
    ("--config c.yaml --epochs 3", "--set train.epochs=3"),
    ("--config c.yaml --epochs=3", "--set train.epochs=3"),
    ("--config c.yaml --train.epochs 3", "--set train.epochs=3"),
    ("--config c.yaml --lr 0.1", "--set optimizer.lr=0.1"),
    ("--config c.yaml --batch-size 8", "--set train.batch_size=8"),
    ("--config c.yaml --eopchs 3", "--set train.epochs=3"),
    ("--config c.yaml --name x", "--set model.name=x, or --set data.name=x"),
    ("--config c.yaml --gpu 0", "--set device=cuda"),
    ("--config c.yaml --output x", "--set run.directory=x"),
    ("-c c.yaml", "luqtrain --config c.yaml"),
    ("-config c.yaml", "luqtrain --config c.yaml"),
    ("--config c.yaml --dryrun", "luqtrain --config c.yaml --dry-run"),
    ("help", "luqtrain --help"),
    ("help eval", "luqtrain eval --help"),
    ("version", "luqtrain --version"),
    ("evaluate --checkpoint f", "luqtrain eval --checkpoint f"),
    ("evl --checkpoint f", "luqtrain eval --checkpoint f"),
    ("--checkpoint f", "luqtrain eval --checkpoint f"),
    ("--checkpoint runs/a", "luqtrain eval --checkpoint runs/a/checkpoints/best.safetensors"),
    ("eval runs/a", "luqtrain eval --checkpoint runs/a/checkpoints/best.safetensors"),
    ("eval --checkpoint runs/a", "runs/a/checkpoints/best.safetensors is in it"),
    ("eval --checkpoint f --set seed=1", "--config"),
    ("eval --checkpoint f --dry-run", "an option of training"),
    ("--output x export", "luqtrain export --output x"),
    ("--config c.yaml eval --checkpoint f", "options of eval come behind it"),
    ("predict --checkpont f a.jpg", "--checkpoint"),
    ("validate-data c.yaml", "luqtrain validate-data --config c.yaml"),
    ("nonsense", "the commands are eval, "),
    ("--config c.yaml --set seed", "key.path=value"),
    ("--config runs/a/checkpoints/best.safetensors", "expected a text file, got a safetensors file"),
    ("--config runs", "is a folder"),
    ("--config runs/none/c.yaml", "runs/none is no folder"),
    ("eval --checkpoint c.yaml", "--config"),
    ("eval --checkpoint a.png", "got a PNG image"),
    ("eval --checkpoint empty", "is empty"),
    ("plot c.yaml", "it is a file"),
    ("plot runs", "no config.yaml"),
]

# Enough of PyTorch for the converter: tensors from JSON, {"t": [dtype, values]}.
FAKE_TORCH = '''
import ctypes, json
class DType:
    def __init__(self, name, size): self.name, self.size = name, size
for name, size in (("float32", 4), ("float16", 2), ("bfloat16", 2), ("float64", 8), ("uint8", 1), ("int32", 4),
                   ("int64", 8), ("bool", 1), ("int8", 1), ("int16", 2)):
    globals()[name] = DType(name, size)
strided = "strided"
class Tensor:
    layout, is_quantized = strided, False
    def __init__(self, dtype, values):
        self.dtype, self.shape = dtype, (len(values),)
        self.buffer = ctypes.create_string_buffer(bytes(values) * dtype.size, len(values) * dtype.size + 1)
    def is_complex(self): return False
    def detach(self): return self
    def to(self, where): return self
    def contiguous(self): return self
    def numel(self): return self.shape[0]
    def element_size(self): return self.dtype.size
    def data_ptr(self): return ctypes.addressof(self.buffer)
class serialization: pass
def load(path, map_location, weights_only):
    value = json.load(open(path), object_hook=lambda o: Tensor(globals()[o["t"][0]], o["t"][1]) if "t" in o else o)
    if weights_only and "unsafe" in value: raise RuntimeError("GLOBAL __main__.Config is not allowed")
    return value
'''


def tensor(*values, dtype="float32"):
    return {"t": [dtype, list(values)]}


class Advice(Case):
    def setUp(self):
        super().setUp()
        checkpoints = self.folder / "runs/a/checkpoints"
        checkpoints.mkdir(parents=True)
        text = b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
        (checkpoints / "best.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\0")
        (checkpoints / "last.safetensors").write_bytes(b"")
        (self.folder / "runs/a/config.yaml").write_text("seed: 1\n")
        (self.folder / "c.yaml").write_text("model: {name: resnet20}\ndata: {name: synthetic}\n")
        (self.folder / "empty").write_bytes(b"")
        write_png(self.folder / "a.png", 1)

    def test_mistyped_commands(self):
        for typed, answer in MISTYPED:
            with self.subTest(typed=typed):
                process = run([LUQTRAIN, *shlex.split(typed)], self.folder)
                self.assert_exit(process, 2)
                self.assertIn(answer, process.stderr)
                self.assertTrue(process.stderr.startswith("luqtrain: error: "), process.stderr)
        process = run([LUQTRAIN, "resume"], self.subfolder("elsewhere"))
        self.assertIn("there is no run in runs; it trains without a command, for example: "
                      "luqtrain --config resnet20_luq.yaml\n", process.stderr)

    def test_a_resume_with_another_end_says_how_the_learning_rate_moves(self):
        self.train(self.folder, train__epochs=1, lr_scheduler__name="cosine", lr_scheduler__warmup_epochs=0)
        said = self.train(self.folder, "--resume", train__epochs=3, train__max_steps=15, lr_scheduler__name="cosine",
                          lr_scheduler__warmup_epochs=0).stdout
        self.assertRegex(said, r"changed  train.epochs 1 -> 3: the learning rate of step 14 is 0\.\d+ instead of 0 \(that of "
                               r"step 13 was 0\.\d+\); cosine spans 39 steps instead of 13\n")
        self.assertIn("changed  train.max_steps 0 (no limit) -> 15: the learning rate does not depend on it\n", said)
        said = self.train(self.folder, "--resume", train__epochs=3, train__max_steps=15, lr_scheduler__name="cosine",
                          lr_scheduler__warmup_epochs=0).stdout
        self.assertNotIn("changed", said)

    def test_conversion_of_pytorch_files(self):
        """The printed command, with a stand-in for PyTorch that reads JSON."""
        fake = self.subfolder("fake")
        (fake / "torch.py").write_text(FAKE_TORCH)
        model = {"conv1.weight": tensor(1, 2), "bn.num_batches_tracked": tensor(7, dtype="int64")}

        def prefixed(prefix):
            return {prefix + name: value for name, value in model.items()}

        files = {
            "bare": (model, "2 tensors from bare.pth\n"),
            "model": ({"model": model, "optimizer": {"state": {"0": {"m": tensor(1)}}}, "epoch": 3, "args": None}, "'model'"),
            "state": ({"state_dict": prefixed("module."), "arch": "resnet", "best_acc1": tensor(1)}, "without the prefix 'module.'"),
            "compiled": ({"model_state_dict": prefixed("_orig_mod.module.")}, "'_orig_mod.module.'"),
            "lightning": ({"state_dict": prefixed("model."), "hyper_parameters": {"x": tensor(1)}}, "'model.'"),
            "average": ({"model_ema": {"n_averaged": tensor(9, dtype="int64"), **prefixed("module.")}}, "'model_ema'"),
            "both": ({"model_ema": prefixed("module."), "model": model}, "--key model_ema"),
            "deep": ({"checkpoint": {"state": {"net": model}}}, "'checkpoint/state/net'"),
            "mixed": ({**model, "epoch": 3, "half": tensor(1, dtype="float16")}, "Left out"),
        }
        environment = {**os.environ, "PYTHONPATH": str(fake)}
        for name, (content, said) in files.items():
            with self.subTest(name=name):
                # Recognised by its first bytes, and then read by the stand-in.
                path = self.folder / f"{name}.pth"
                path.write_bytes(b"PK\x03\x04" + bytes(26) + b"model/data.pkl" + bytes(30))
                error = run([LUQTRAIN, "eval", "--checkpoint", path.name], self.folder)
                self.assert_exit(error, 2)
                command = error.stderr.splitlines()[1]
                self.assertTrue(command.startswith("  python3 "), error.stderr)
                path.write_text(json.dumps(content))
                process = run(["bash", "-c", command.replace("python3", sys.executable, 1).replace("OUTPUT", name)],
                              self.folder, env=environment)
                self.assert_exit(process, 0)
                self.assertIn(said, process.stdout)
                stored = Checkpoint(self.folder / f"{name}.safetensors").tensors
                self.assertEqual(stored["conv1.weight"], ("F32", (2,), bytes([1, 2] * 4)))
                self.assertEqual(stored["bn.num_batches_tracked"][0], "I64")
                self.assertEqual(set(stored), set(model) | ({"half"} if name == "mixed" else set()))
        script = SOURCE / "tools/convert_checkpoint.py"
        for content, words, said in (({"a": 1}, [], "no state_dict"), ({"unsafe": 1, **model}, [], "(an object of __main__.Config). Where you trust"),
                                     ({"model": model}, ["--key", "other"], "expected one of model")):
            (self.folder / "x.pth").write_text(json.dumps(content))
            process = run([sys.executable, script, "x.pth", "x.safetensors", *words], self.folder, env=environment)
            self.assert_exit(process, 1)
            self.assertIn(said, process.stderr)
            self.assertFalse((self.folder / "x.safetensors").exists())
        (self.folder / "x.pth").write_text(json.dumps({"unsafe": 1, **model}))
        self.assert_exit(run([sys.executable, script, "x.pth", "x.safetensors", "--unsafe"], self.folder,
                             env=environment), 0)
        self.assert_exit(run([sys.executable, script, "x.pth", "./x.pth"], self.folder, env=environment), 1)
        self.assert_exit(run([sys.executable, script, "none.pth", "y"], self.folder, env=environment), 1)


if __name__ == "__main__":
    main()
