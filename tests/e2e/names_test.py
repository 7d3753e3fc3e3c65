"""Paths and class names are bytes: what is no UTF-8, or means something to YAML or JSON, comes back as it was."""
import json
import os

from harness import Case, Checkpoint, LUQ_CONFIG, LUQTRAIN, arguments, main, run, write_png

# Latin-1, as unzipped from an archive made on Windows; with what makes YAML quote; a line break; a BOM of UTF-16.
NASTY = [os.fsdecode(name) for name in (b"caf\xe9", b"caf\xe9: x", b" #\n'\"\\\t\x01", b"\xff\xfea", b"1e3", b"~x")]


def run_bytes(line, cwd):
    return run(line, cwd, errors="surrogateescape")


class Names(Case):
    def class_folders(self, path, classes):
        for split, count in (("train", 4), ("val", 2)):
            for index, name in enumerate(classes):
                folder = path / split / name
                folder.mkdir(parents=True)
                for image in range(count):
                    write_png(folder / f"{image}.png", 10 * index + image, 16)

    def settings(self, data, **more):
        keys = {"data__name": "image_folder", "data__path": data, "data__image_size": 16, "data__eval_resize": 16,
                "data__augment__pad_crop": 0, "train__batch_size": 4, "train__epochs": 1}
        keys.update(more)
        return keys

    def test_folders(self):
        """A run whose data, folder and start file have such a name is saved, evaluated, resumed, exported, drawn."""
        for name in NASTY[1:4]:
            with self.subTest(name=name):
                data, cwd = self.folder / ("data" + name), self.folder / ("cwd" + name)
                cwd.mkdir()
                self.class_folders(data, ["a", "b", "c"])
                keys = self.settings(data, run__directory=cwd / ("run" + name))
                process = run_bytes(arguments(LUQ_CONFIG, **keys), cwd)
                self.assert_exit(process, 0)
                last = cwd / ("run" + name) / "checkpoints/last.safetensors"
                for line in ([LUQTRAIN, "eval", "--checkpoint", last],
                             [LUQTRAIN, "export", "--checkpoint", last, "--format", "packed", "--output", "p" + name],
                             [LUQTRAIN, "eval", "--checkpoint", "p" + name],
                             [LUQTRAIN, "plot", last.parent.parent, "--output", name + ".svg"],
                             arguments(LUQ_CONFIG, "--resume", **{**keys, "train__epochs": 2}),
                             [LUQTRAIN, "--config", last.parent.parent / "config.yaml", "--overwrite", "--set",
                              "train.max_steps=1"],
                             arguments(LUQ_CONFIG, **{**keys, "run__directory": "again", "model__weights": last,
                                                      "train__max_steps": 1})):
                    process = run_bytes(line, cwd)
                    self.assert_exit(process, 0)
                (cwd / (name + ".svg")).read_text(encoding="utf-8")
                # What --dry-run prints is that configuration.
                process = run_bytes(arguments(LUQ_CONFIG, "--dry-run", **keys), cwd)
                (cwd / "shown.yaml").write_text(process.stdout, encoding="utf-8")
                process = run_bytes([LUQTRAIN, "--config", "shown.yaml", "--overwrite"], cwd)
                self.assert_exit(process, 0)

    def test_classes(self):
        """Classes by their folders' names."""
        cwd, data = self.subfolder("cwd"), self.folder / "data"
        self.class_folders(data, NASTY)
        keys = self.settings(data, train__max_steps=2)
        process = run_bytes(arguments(LUQ_CONFIG, **keys), cwd)
        self.assert_exit(process, 0)
        names = json.loads(Checkpoint(self.last(cwd)).metadata["data"])["class_names"]
        names = [name if isinstance(name, str) else os.fsdecode(bytes(name)) for name in names]
        self.assertEqual(names, sorted(NASTY, key=os.fsencode))
        self.assert_exit(run_bytes([LUQTRAIN, "eval", "--checkpoint", self.last(cwd)], cwd), 0)
        keys["train__max_steps"] = 4
        self.assert_exit(run_bytes(arguments(LUQ_CONFIG, "--resume", **keys), cwd), 0)
        image = data / "val" / NASTY[0] / "0.png"
        process = run_bytes([LUQTRAIN, "predict", "--checkpoint", self.last(cwd), "--logits", "l.safetensors", image], cwd)
        self.assert_exit(process, 0)
        stored = json.loads(Checkpoint(cwd / "l.safetensors").metadata["images"])
        self.assertEqual([os.fsdecode(bytes(name)) for name in stored], [str(image)])
        # Another class of that place is another data set.
        for split in ("train", "val"):
            (data / split / NASTY[0]).rename(data / split / os.fsdecode(b"caf\xe8"))
        process = run_bytes(arguments(LUQ_CONFIG, "--resume", **{**keys, "train__max_steps": 6}), cwd)
        self.assert_exit(process, 2)
        self.assertIn("was 'caf\\xe9' and is 'caf\\xe8'", process.stderr)

    def test_refused(self):
        """What no file system holds is refused before anything is made."""
        for text in ('run: {directory: "a\\0b"}', 'model: {name: resnet20, weights: "\\0"}'):
            (self.folder / "c.yaml").write_text(f"{text}\ndata: {{name: synthetic}}\n")
            for flags in ((), ("--dry-run",), ("--smoke",)):
                process = run([LUQTRAIN, "--config", "c.yaml", *flags], self.folder)
                self.assert_exit(process, 2)
                self.assertIn("c.yaml:1", process.stderr)
                self.assertIn("NUL", process.stderr)
        self.assertEqual([path.name for path in self.folder.iterdir()], ["c.yaml"])


if __name__ == "__main__":
    main()
