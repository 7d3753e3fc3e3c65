"""What goes wrong is said, in words that help, and nothing good is lost."""
import resource
import shutil
import signal
import struct

from harness import Case, Checkpoint, FP32_CONFIG, LUQ_CONFIG, LUQTRAIN, arguments, main, metrics, run


def with_a_full_disk(limit_bytes):
    """No file may grow past the limit: what a full disk does to a checkpoint."""
    def prepare():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    return prepare


class BeforeTheRun(Case):
    """Refused before the run's folder is made."""

    def tearDown(self):
        self.assertFalse((self.folder / "run").exists())

    def test_missing_data_folder(self):
        self.refused(self.folder, "no/such/folder", data__name="fashion_mnist", data__path="no/such/folder")

    def test_batch_sizes(self):
        for size in (0, -1):
            self.refused(self.folder, "train.batch_size", train__batch_size=size)
        self.refused(self.folder, "train.batch_size 105", "104", train__batch_size=105)
        self.refused(self.folder, "train.batch_size 1", "batch norm", train__batch_size=1)

    def test_unknown_model(self):
        self.refused(self.folder, "resnet20", model__name="resnet21")

    def test_warmup_longer_than_the_run(self):
        self.refused(self.folder, "warmup_epochs", lr_scheduler__warmup_epochs=5)

    def test_exempt_pattern_that_matches_nothing(self):
        self.refused(self.folder, "layer9", quantization__exempt="[layer9.*]")

    def test_nothing_to_resume(self):
        self.refused(self.folder, "no run to resume", flags=("--resume",))


class Folders(Case):
    def test_unwritable(self):
        (self.folder / "file").write_text("x")
        self.refused(self.folder, "file", run__directory="file/run")

    def test_not_a_run(self):
        photos = self.subfolder("photos")
        (photos / "cat.png").write_text("x")
        for flags in ((), ("--overwrite",)):
            self.refused(self.folder, "photos", flags=flags, run__directory="photos")
        self.assertEqual([path.name for path in photos.iterdir()], ["cat.png"])


class Checkpoints(Case):
    def test_damaged(self):
        self.train(self.folder, train__max_steps=8, train__checkpoint_every=4)
        last = self.last(self.folder)
        whole = last.read_bytes()
        flipped = bytearray(whole)
        flipped[-1000] ^= 1
        for damaged in (whole[:-1000], whole[:100], b"", bytes(flipped)):
            last.write_bytes(damaged)
            error = self.refused(self.folder, str(last.relative_to(self.folder)), "previous.safetensors", "of step 4",
                                 flags=("--resume",), train__max_steps=8, train__checkpoint_every=4)
            self.refused_by_eval(last)
        # The command in the message works, and leads to the same end.
        command = next(line for line in error.splitlines() if line.strip().startswith("cp "))
        run(["sh", "-c", command], self.folder)
        self.train(self.folder, "--resume", train__max_steps=8, train__checkpoint_every=4)
        self.assertEqual(last.read_bytes(), whole)

    def refused_by_eval(self, checkpoint):
        process = run([LUQTRAIN, "eval", "--checkpoint", checkpoint], self.folder)
        self.assert_exit(process, 2)
        self.assertIn(checkpoint.name, process.stderr)

    def test_of_another_model(self):
        self.train(self.folder, train__max_steps=2)
        line = arguments(self.folder / "run/config.yaml")
        shutil.copy(self.folder / "run/config.yaml", self.folder / "other.yaml")
        text = (self.folder / "other.yaml").read_text()
        self.assertIn("resnet20", text)
        (self.folder / "other.yaml").write_text(text.replace("resnet20", "resnet32"))
        process = run([line[0], "eval", "--checkpoint", self.last(self.folder), "--config", "other.yaml"], self.folder)
        self.assert_exit(process, 2)
        self.assertIn("missing: layer1.3.", process.stderr)
        self.refused(self.folder, "model.name", flags=("--resume",), model__name="resnet32")

    def test_eval_repeats_the_evaluation(self):
        self.train(self.folder, train__max_steps=9)
        line = metrics(self.folder / "run")[-1]
        self.assertEqual(line["kind"], "eval")
        process = run([LUQTRAIN, "eval", "--checkpoint", self.last(self.folder)], self.folder)
        self.assert_exit(process, 0)
        self.assertIn(f"{line['top1']:.2f}", process.stdout)

    def test_full_disk(self):
        keys = {"train__checkpoint_every": 4}
        self.train(self.folder, train__max_steps=10, **keys)
        good = self.last(self.folder).read_bytes()
        process = run(arguments(LUQ_CONFIG, "--resume", train__max_steps=20, **keys), self.folder,
                      preexec_fn=with_a_full_disk(100_000))
        self.assert_exit(process, 1)
        self.assertIn("step 12", process.stdout)
        self.assertIn("step 16", process.stdout)
        self.assertIn("the checkpoint of step 10 stays", process.stdout)
        self.assertIn("File too large", process.stderr)
        self.assertEqual(self.last(self.folder).read_bytes(), good)
        names = sorted(path.name for path in (self.folder / "run/checkpoints").iterdir())
        self.assertEqual(names, ["best.safetensors", "last.safetensors", "previous.safetensors"])
        # With room again the run goes on, to where it would have come.
        self.train(self.folder, "--resume", train__max_steps=20, **keys)
        straight = self.subfolder("straight")
        self.train(straight, train__max_steps=20, **keys)
        self.assert_same_tensors(self.last(self.folder), self.last(straight))


class OtherData(Case):
    def idx_folder(self, name, images):
        """A data set in MNIST's files: 8x8 images whose label is in every pixel."""
        folder = self.subfolder(name)
        for split, count in (("train", images), ("t10k", 20)):
            labels = bytes(index % 10 for index in range(count))
            pixels = b"".join(bytes([label * 20]) * 64 for label in labels)
            (folder / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, count, 8, 8) + pixels)
            (folder / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels)
        return folder

    def test_a_moved_data_set_resumes_and_a_changed_one_does_not(self):
        before, moved, changed = (self.idx_folder(name, images)
                                  for name, images in (("before", 48), ("moved", 48), ("changed", 80)))
        keys = {"data__name": "mnist", "train__batch_size": 8}
        self.train(self.folder, data__path=before, train__max_steps=8, **keys)
        self.refused(self.folder, "another number of images", "data.path", flags=("--resume",), data__path=changed,
                     train__max_steps=14, **keys)
        self.train(self.folder, "--resume", data__path=moved, train__max_steps=14, **keys)
        self.assertEqual(Checkpoint(self.last(self.folder)).metadata["step"], "14")


class NonFinite(Case):
    def test_stops_with_the_step_and_the_layer(self):
        for config in (LUQ_CONFIG, FP32_CONFIG):
            with self.subTest(config=config.name):
                cwd = self.subfolder(config.stem)
                error = self.refused(cwd, "[train] step ", config=config, code=1, optimizer__lr=1e30,
                                     train__checkpoint_every=1)
                self.assertRegex(error, r"layer\d\.\d\.|conv1|fc|bn1")
                if self.last(cwd).exists():
                    self.assertNotIn(b"\x00\x00\xc0\x7f", Checkpoint(self.last(cwd)).tensors["fc.weight"][2])


if __name__ == "__main__":
    main()
