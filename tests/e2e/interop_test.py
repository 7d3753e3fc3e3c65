"""Weights in and out: state_dicts, starting from weights, evaluating them."""
import json
import struct

from harness import Case, Checkpoint, FP32_CONFIG, LUQ_CONFIG, LUQTRAIN, SMALL, main, run


def write_safetensors(path, tensors, metadata=None):
    """tensors: name -> (dtype, shape, bytes)."""
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def state_dict_of(checkpoint):
    """The tensors that torchvision has, of a checkpoint of a run."""
    return {name: tensor for name, tensor in Checkpoint(checkpoint).tensors.items()
            if not name.startswith("optimizer.") and not name.endswith(".activation_scale")}


class Weights(Case):
    def luqtrain(self, *words, code=0):
        process = run([LUQTRAIN, *words], self.folder)
        self.assert_exit(process, code)
        return process

    def settings(self, **changes):
        keys = {**SMALL, **{key.replace("__", "."): value for key, value in changes.items()}}
        return [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]

    def trained(self, name, config=FP32_CONFIG, **settings):
        self.train(self.folder, config=config, run__directory=name, **{"train__epochs": 1, **settings})
        return self.folder / name / "checkpoints/last.safetensors"

    def test_a_state_dict_evaluates_as_the_checkpoint_it_came_from(self):
        checkpoint = self.trained("float")
        write_safetensors(self.folder / "plain", state_dict_of(checkpoint))
        own = self.luqtrain("eval", "--checkpoint", checkpoint)
        plain = self.luqtrain("eval", "--checkpoint", "plain", "--config", FP32_CONFIG, *self.settings())
        self.assertEqual(own.stdout.split(": ", 1)[1], plain.stdout.split(": ", 1)[1])
        self.assertEqual(plain.stderr, "")
        self.assertIn("--config", self.luqtrain("eval", "--checkpoint", "plain", code=2).stderr)

        # Quantised layers of a state_dict have no activation scales.
        warning = self.luqtrain("eval", "--checkpoint", "plain", "--config", LUQ_CONFIG, *self.settings()).stderr
        self.assertIn("no activation scales for 20 quantised layers (layer1.0.conv1, ...)", warning)
        quantized = self.trained("luq", config=LUQ_CONFIG)
        self.assertEqual(self.luqtrain("eval", "--checkpoint", quantized).stderr, "")

    def test_training_starts_from_weights(self):
        first = self.trained("first")
        write_safetensors(self.folder / "plain", state_dict_of(first))
        for weights, what in ((first, "a checkpoint"), (self.folder / "plain", "a state_dict")):
            name = "from_" + weights.name
            second = self.trained(name, model__weights=weights)
            self.assertIn(f"({what})", (self.folder / name / "log.txt").read_text())
            self.assertNotEqual(Checkpoint(first).tensors, Checkpoint(second).tensors)
        self.assert_same_tensors(self.folder / "from_last.safetensors/checkpoints/last.safetensors",
                                 self.folder / "from_plain/checkpoints/last.safetensors")
        self.assertNotEqual(Checkpoint(first).tensors["conv1.weight"],
                            Checkpoint(self.trained("other", seed=5)).tensors["conv1.weight"])
        # A resumed run does not read them again.
        (self.folder / "plain").unlink()
        self.train(self.folder, "--resume", config=FP32_CONFIG, run__directory="from_plain", train__epochs=2,
                   model__weights=self.folder / "plain")

    def test_a_head_of_another_number_of_classes_is_replaced(self):
        first = self.trained("first")
        self.trained("second", model__weights=first, data__synthetic__num_classes=3)
        log = (self.folder / "second/log.txt").read_text()
        self.assertIn("its head fc is for 10 classes: replaced by a new one", log)

    def test_what_does_not_fit_is_refused(self):
        first = self.trained("first")
        plain = state_dict_of(first)

        def refused(tensors, *words):
            write_safetensors(self.folder / "plain", tensors)
            process = self.luqtrain("--config", FP32_CONFIG, *self.settings(model__weights="plain"), code=2)
            for word in words:
                self.assertIn(word, process.stderr)
            self.assertFalse((self.folder / "run").exists())

        refused({name: tensor for name, tensor in plain.items() if name != "bn1.bias"}, "missing: bn1.bias")
        refused({**plain, "conv2.weight": ("F32", (1,), bytes(4))}, "unexpected: conv2.weight")
        refused({**plain, "bn1.bias": ("F32", (2,), bytes(8))}, "bn1.bias float32(2), expected float32(16)")
        refused({"module." + name: tensor for name, tensor in plain.items()}, "every name begins with 'module.'")

    def test_a_pytorch_file_is_recognised(self):
        (self.folder / "a.pth").write_bytes(b"PK\x03\x04\x00\x00\x08\x08" + bytes(100))
        self.assertIn("is a PyTorch file", self.luqtrain("eval", "--checkpoint", "a.pth", code=2).stderr)


if __name__ == "__main__":
    main()
