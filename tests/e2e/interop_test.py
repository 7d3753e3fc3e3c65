"""Weights in and out: state_dicts, starting from weights, evaluating them, predictions, exports."""
import json
import math
import resource
import shutil
import signal
import struct

from harness import (Case, Checkpoint, FP32_CONFIG, LUQ_CONFIG, LUQTRAIN, SMALL, SOURCE, logits_of, main, run,
                     write_png)


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


def protobuf(data):
    """The fields of a message: number -> list of values (integers, or bytes)."""
    fields, at = {}, 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            value = varint()
        else:
            length = {1: 8, 2: None, 5: 4}[key & 7]
            length = varint() if length is None else length
            value, at = data[at:at + length], at + length
        fields.setdefault(key >> 3, []).append(value)
    return fields


class Interop(Case):
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

    def export(self, checkpoint, form, output, *words):
        return self.luqtrain("export", "--checkpoint", checkpoint, "--format", form, "--output", output, *words).stdout


class Weights(Interop):
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


class Exports(Interop):
    def test_safetensors(self):
        checkpoint = self.trained("float")
        self.assertIn("state_dict of resnet20", self.export(checkpoint, "safetensors", "plain"))
        exported = Checkpoint(self.folder / "plain")
        self.assertEqual(exported.metadata, {})
        counters = {name for name in exported.tensors if name.endswith(".num_batches_tracked")}
        self.assertEqual(len(counters), 21)  # one each norm
        self.assertTrue(all(exported.tensors[name] == ("I64", (), bytes(8)) for name in counters))
        self.assertEqual({name: tensor for name, tensor in exported.tensors.items() if name not in counters},
                         state_dict_of(checkpoint))

    def test_a_state_dict_comes_through_unchanged(self):
        checkpoint = self.trained("float", data__synthetic__channels=3)
        self.export(checkpoint, "safetensors", "plain")
        self.export("plain", "safetensors", "again", "--model", "resnet20")
        self.assertEqual((self.folder / "plain").read_bytes(), (self.folder / "again").read_bytes())

    def test_packed(self):
        checkpoint = self.trained("luq", config=LUQ_CONFIG)
        report = self.export(checkpoint, "packed", "packed")
        packed, full = Checkpoint(self.folder / "packed"), Checkpoint(checkpoint)
        codes = {name[:-len(".codes")] for name in packed.tensors if name.endswith(".codes")}
        self.assertEqual(len(codes), 20)
        small = sum(len(packed.tensors[name + kind][2]) for name in codes for kind in (".codes", ".scale"))
        large = sum(len(full.tensors[name][2]) for name in codes)
        self.assertLessEqual(small, 0.13 * large)
        self.assertIn(f"{small:,} of {large:,} bytes", report)
        # A code is the nearest multiple of the scale in -7..7; the low nibble first.
        name = "layer1.0.conv1.weight"
        scale, = struct.unpack("<f", packed.tensors[name + ".scale"][2])
        values = struct.unpack(f"<{len(full.tensors[name][2]) // 4}f", full.tensors[name][2])
        nibbles = [nibble for byte in packed.tensors[name + ".codes"][2] for nibble in (byte & 15, byte >> 4)]
        integers = [nibble - 16 if nibble > 7 else nibble for nibble in nibbles]
        for value, integer in zip(values, integers):
            self.assertLessEqual(abs(max(-7, min(7, value / scale)) - integer), 0.5 + 1e-5)
        self.assertEqual(json.loads(packed.metadata[name + ".codes"])["shape"], list(full.tensors[name][1]))
        self.assertEqual(packed.tensors["bn1.weight"], full.tensors["bn1.weight"])

        # It is read like a checkpoint, with the same results to the bit.
        for number in range(3):
            write_png(self.folder / f"{number}.png", number)
        images = [f"{number}.png" for number in range(3)]
        own = self.luqtrain("predict", "--checkpoint", checkpoint, "--logits", "own", *images)
        other = self.luqtrain("predict", "--checkpoint", "packed", "--logits", "other", *images)
        self.assertEqual(own.stdout, other.stdout)
        self.assertEqual(logits_of(self.folder / "own"), logits_of(self.folder / "other"))
        evaluations = [self.luqtrain("eval", "--checkpoint", file).stdout.split(": ", 1)[1]
                       for file in (checkpoint, "packed")]
        self.assertEqual(*evaluations)
        self.trained("from_packed", config=LUQ_CONFIG, model__weights="packed")
        self.assertIn("(a packed file)", (self.folder / "from_packed/log.txt").read_text())
        self.export("packed", "packed", "again")
        self.assertEqual((self.folder / "packed").read_bytes(), (self.folder / "again").read_bytes())

    def test_onnx(self):
        for config, four_bit in ((FP32_CONFIG, 0), (LUQ_CONFIG, 20)):
            checkpoint = self.trained(config.stem, config=config)
            self.export(checkpoint, "onnx", "model.onnx")
            model = protobuf((self.folder / "model.onnx").read_bytes())
            self.assertEqual(protobuf(model[8][0])[2], [21])  # opset
            graph = protobuf(model[7][0])
            nodes = [protobuf(node) for node in graph[1]]
            count = {}
            for node in nodes:
                count[node[4][0].decode()] = count.get(node[4][0].decode(), 0) + 1
            self.assertEqual((count["Conv"], count["BatchNormalization"], count["Add"], count["Gemm"]), (21, 21, 9, 1))
            tensors = {protobuf(tensor)[8][0].decode(): protobuf(tensor) for tensor in graph[5]}
            # 22 is INT4.
            self.assertEqual(sum(tensor[2] == [22] and 1 in tensor for tensor in tensors.values()), four_bit)
            activations = count.get("QuantizeLinear", 0)
            self.assertEqual(activations > 0, four_bit > 0)
            self.assertEqual(count.get("DequantizeLinear", 0), four_bit + activations)
            self.assertIn("fc.weight", tensors)
            # Every operand is the input, an initializer or an earlier result.
            known = {"images", *tensors}
            for node in nodes:
                self.assertLessEqual({name.decode() for name in node[1]}, known)
                known |= {name.decode() for name in node[2]}
            self.assertIn("logits", known)
            if four_bit:
                self.export(checkpoint, "packed", "packed")
                codes = Checkpoint(self.folder / "packed").tensors["layer1.0.conv1.weight.codes"][2]
                self.assertEqual(tensors["layer1.0.conv1.weight"][9], [codes])

    def test_mistakes(self):
        checkpoint = self.trained("float", data__synthetic__channels=3)
        self.export(checkpoint, "safetensors", "plain")

        def refused(*words, code=2):
            return self.luqtrain("export", "--output", "out", *words, code=code).stderr

        self.assertIn("no layer of it has 4-bit weights", refused("--checkpoint", checkpoint, "--format", "packed"))
        self.assertIn("expected safetensors, onnx or packed",
                      refused("--checkpoint", checkpoint, "--format", "keras"))
        self.assertIn("is of the model resnet20, not vgg11",
                      refused("--checkpoint", checkpoint, "--format", "onnx", "--model", "vgg11"))
        self.assertIn("give --model", refused("--checkpoint", "plain", "--format", "onnx"))
        self.assertIn("missing: layer1.3.",
                      refused("--checkpoint", "plain", "--format", "onnx", "--model", "resnet32"))
        self.assertIn("another file", self.luqtrain("export", "--checkpoint", checkpoint, "--format", "safetensors",
                                                    "--output", checkpoint, code=2).stderr)
        (self.folder / "cut").write_bytes((self.folder / "plain").read_bytes()[:-9])
        self.assertIn("truncated",
                      refused("--checkpoint", "cut", "--format", "onnx", "--model", "resnet20"))
        self.assertFalse((self.folder / "out").exists())
        for form in ("safetensors", "onnx"):
            self.assertIn("cannot be written", self.luqtrain(
                "export", "--checkpoint", checkpoint, "--format", form, "--output", "missing/out", code=1).stderr)

            def full_disk():
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

            process = run([LUQTRAIN, "export", "--checkpoint", checkpoint, "--format", form, "--output", "out"],
                          self.folder, preexec_fn=full_disk)
            self.assert_exit(process, 1)
            self.assertIn("cannot be written", process.stderr)
            self.assertEqual(list(self.folder.glob("out*")), [])


class Predictions(Interop):
    def test_predictions(self):
        checkpoint = self.trained("luq", config=LUQ_CONFIG)
        for number, name in enumerate(("b.png", "a.PNG", "c.png")):
            write_png(self.folder / name, number)
        (self.folder / "folder/deep").mkdir(parents=True)
        write_png(self.folder / "folder/z.png", 3)
        write_png(self.folder / "folder/deep/a.png", 4)
        (self.folder / "folder/notes.txt").write_text("no image")

        def predict(*words, code=0):
            return self.luqtrain("predict", "--checkpoint", checkpoint, *words, code=code)

        process = predict("--logits", "all", "--images", "folder", "c.png", "a.PNG", "b.png")
        order = ["c.png", "a.PNG", "b.png", "folder/deep/a.png", "folder/z.png"]
        lines = process.stdout.splitlines()
        self.assertEqual(lines[::6], order)
        self.assertEqual(json.loads(Checkpoint(self.folder / "all").metadata["images"]), order)
        rows = logits_of(self.folder / "all")
        self.assertEqual(len(rows), 5)
        # The text says what the logits say.
        for index, row in enumerate(rows):
            total = sum(math.exp(logit - max(row)) for logit in row)
            best = sorted(range(10), key=lambda label: -row[label])[:5]
            for line, label in zip(lines[6 * index + 1:6 * index + 6], best):
                probability, percent, number, name = line.split(None, 3)
                self.assertAlmostEqual(float(probability), 100 * math.exp(row[label] - max(row)) / total, delta=0.006)
                self.assertEqual((percent, number, name), ("%", str(label), f"class {label}"))
        # An image does not depend on its neighbours.
        predict("--logits", "one", "b.png")
        self.assertEqual(logits_of(self.folder / "one"), [rows[2]])

        (self.folder / "labels").write_text("".join(f"name {label}\r\n" for label in range(10)) + "\r\n")
        self.assertIn("name ", predict("--labels", "labels", "b.png").stdout)
        (self.folder / "labels").write_text("one\ntwo\n")
        self.assertIn("expected 10 lines", predict("--labels", "labels", "b.png", code=2).stderr)

        # Images that cannot be read are named, and the others done.
        (self.folder / "broken.png").write_bytes((self.folder / "b.png").read_bytes()[:60])
        write_png(self.folder / "large.png", 5, size=9)
        for target in ("b.png", checkpoint):
            self.assertIn("expected another file than the input", predict("--logits", target, "b.png", code=2).stderr)
        process = predict("--logits", "some", "broken.png", "b.png", "missing.png", "large.png", code=1)
        for name, reason in (("broken.png", ""), ("missing.png", "cannot be read"), ("large.png", "8x8")):
            self.assertRegex(process.stderr, f"{name}.*{reason}")
        some = logits_of(self.folder / "some")
        self.assertEqual(some[1], rows[2])
        for index in (0, 2, 3):
            self.assertTrue(all(math.isnan(logit) for logit in some[index]))
        self.assertIn("--images FOLDER", predict(code=2).stderr)
        self.assertIn("is not a folder", predict("--images", "nowhere", code=2).stderr)
        (self.folder / "folder/deep/again").symlink_to(self.folder / "folder")
        self.assertIn("folder/deep/again: a link to a folder in which it lies",
                      predict("--images", "folder/", code=2).stderr)

    def test_a_state_dict_means_imagenet(self):
        self.export(self.trained("float", data__synthetic__channels=3), "safetensors", "plain")
        photo = SOURCE / "tests/golden/images/rgb.jpg"
        process = self.luqtrain("predict", "--checkpoint", "plain", "--model", "resnet20", photo)
        self.assertEqual(len(process.stdout.splitlines()), 6)
        self.assertIn("give --model", self.luqtrain("predict", "--checkpoint", "plain", photo, code=2).stderr)
        self.export(self.trained("grey"), "safetensors", "grey_plain")
        self.assertIn("takes 1 channels", self.luqtrain("predict", "--checkpoint", "grey_plain", "--model", "resnet20",
                                                        photo, code=2).stderr)

    def test_evaluating_a_state_dict_on_class_folders(self):
        self.export(self.trained("float", data__synthetic__channels=3, data__synthetic__num_classes=2), "safetensors",
                    "plain")
        photos = sorted((SOURCE / "tests/golden/images").glob("*.jpg"))[:6]
        for index, photo in enumerate(photos):
            folder = self.folder / "data/val" / ("left", "right")[index % 2]
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, folder)
        self.luqtrain("predict", "--checkpoint", "plain", "--model", "resnet20", "--logits", "logits", *photos)
        correct = sum((row[1] > row[0]) == index % 2 for index, row in enumerate(logits_of(self.folder / "logits")))
        words = ("eval", "--checkpoint", "plain", "--data", "data")
        self.assertIn(f"test top-1 {100 * correct / 6:.2f} %",
                      self.luqtrain(*words, "--model", "resnet20").stdout)
        self.assertIn("--model NAME --data FOLDER", self.luqtrain(*words, code=2).stderr)


if __name__ == "__main__":
    main()
