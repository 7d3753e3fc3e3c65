"""What goes wrong is said, in words that help, and nothing good is lost."""
import json
import math
import resource
import shutil
import signal
import struct
import subprocess

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

    def test_full_disk_at_the_start(self):
        """What cannot be saved does not train, and what was saved stays."""
        keys = {"train__checkpoint_every": 4}
        process = run(arguments(LUQ_CONFIG, train__max_steps=10, **keys), self.folder,
                      preexec_fn=with_a_full_disk(100_000))
        self.assert_exit(process, 1)
        self.assertIn("could not be saved, so it does not begin", process.stderr)
        self.assertNotIn("loss", process.stdout)
        # There is no run yet: the same command starts it when there is room.
        self.train(self.folder, train__max_steps=10, **keys)
        good = self.last(self.folder).read_bytes()
        process = run(arguments(LUQ_CONFIG, "--resume", train__max_steps=20, **keys), self.folder,
                      preexec_fn=with_a_full_disk(100_000))
        self.assert_exit(process, 1)
        for text in ("could not be saved", "File too large", "the checkpoint of step 10 stays"):
            self.assertIn(text, process.stderr)
        self.assertNotIn("loss", process.stdout)
        self.assertEqual(self.last(self.folder).read_bytes(), good)
        self.assertEqual(self.checkpoint_names(), ["best.safetensors", "last.safetensors", "previous.safetensors"])

    def test_full_disk_in_the_middle(self):
        keys = {"train__checkpoint_every": 4, "train__max_steps": 150, "train__epochs": 12}
        with subprocess.Popen([str(word) for word in arguments(LUQ_CONFIG, **keys)], cwd=self.folder,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            output = ""
            for line in process.stdout:
                output += line
                if "step 15/" in line:
                    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
            error = process.stderr.read()
            self.assertEqual(process.wait(), 1, output + error)
        self.assertGreater(output.count("File too large"), 5)
        self.assertRegex(output, r"the checkpoint of step \d+ stays, and the run goes on")
        self.assertIn("step 150/150", output)
        self.assertIn("File too large", error)
        step = int(Checkpoint(self.last(self.folder)).metadata["step"])
        self.assertIn(f"the checkpoint of step {step} stays", error)
        self.assertEqual(self.checkpoint_names(), ["best.safetensors", "last.safetensors", "previous.safetensors"])
        # With room again the run goes on, to where it would have come.
        self.train(self.folder, "--resume", **keys)
        straight = self.subfolder("straight")
        self.train(straight, **keys)
        self.assertEqual(self.last(self.folder).read_bytes(), self.last(straight).read_bytes())

    def checkpoint_names(self):
        return sorted(path.name for path in (self.folder / "run/checkpoints").iterdir())

    def test_the_last_one_is_missing(self):
        """The run goes on from the one before it, with a word; and from one that was being written, when it is newer."""
        keys = {"train__checkpoint_every": 4}
        self.train(self.folder, train__max_steps=8, **keys)
        straight = self.last(self.folder).read_bytes()
        previous = self.last(self.folder).with_name("previous.safetensors")
        self.last(self.folder).unlink()
        process = self.train(self.folder, "--resume", train__max_steps=8, **keys)
        self.assertIn("there is no run/checkpoints/last.safetensors; the run goes on from "
                      "run/checkpoints/previous.safetensors, of step 4", process.stdout)
        self.assertIn("resumed at step 4", process.stdout)
        self.assertEqual(self.last(self.folder).read_bytes(), straight)
        for kept in (True, False):
            self.last(self.folder).rename(previous.with_name("next.safetensors"))
            if kept:
                previous.rename(self.last(self.folder))
            process = self.train(self.folder, "--resume", train__max_steps=12, **keys)
            self.assertIn("next.safetensors is", process.stdout)
            self.assertIn("resumed at step " + ("8" if kept else "12") if kept else "the run is finished", process.stdout)
        best = previous.with_name("best.safetensors")
        for path in (self.last(self.folder), previous, best.with_name("next.safetensors")):
            if path.exists():
                path.unlink()
        error = self.refused(self.folder, "no checkpoint to go on from", "best one is sound", "cp ", flags=("--resume",),
                             train__max_steps=12, **keys)
        best.unlink()
        error = self.refused(self.folder, "--overwrite starts the run anew", flags=("--resume",), train__max_steps=12,
                             **keys)
        self.assertNotIn("cp ", error)

    def test_files_that_are_gone_are_named(self):
        self.train(self.folder, train__max_steps=13)
        (self.folder / "run/checkpoints/best.safetensors").unlink()
        finished = self.train(self.folder, "--resume", train__max_steps=13).stdout
        self.assertIn("warning: run/checkpoints/best.safetensors is not there any more; "
                      "run/checkpoints/last.safetensors holds the state of step 13", finished)
        (self.folder / "run/metrics.jsonl").unlink()
        log = self.train(self.folder, "--resume", train__max_steps=26).stdout
        self.assertIn("warning: run/metrics.jsonl holds none of the lines up to step 13", log)
        self.assertIn("warning: run/checkpoints/best.safetensors is not there any more; the next evaluation makes one", log)
        self.assertIn("best.safetensors", self.checkpoint_names())
        lines = (self.folder / "run/metrics.jsonl").read_text().splitlines()
        damaged = "\n".join([lines[0], "garbage", *lines[1:]]) + "\n{half"
        (self.folder / "run/metrics.jsonl").write_text(damaged)
        log = self.train(self.folder, "--resume", train__max_steps=39).stdout
        self.assertIn("warning: 1 lines of run/metrics.jsonl cannot be read and are left out", log)
        self.assertEqual((self.folder / "run/metrics.jsonl.damaged").read_text(), damaged)

    def test_lines_that_are_missing_at_the_end(self):
        """They are said once, with what is there; a run that stopped between two of its lines misses none."""
        keys = {"train__checkpoint_every": 4, "train__max_steps": 18}
        whole = self.subfolder("whole")
        self.train(whole, **keys)  # lines at 5, 10, 13 (an evaluation), 15, and two at 18; checkpoints at 16 and 18
        lines = (whole / "run/metrics.jsonl").read_text().splitlines(keepends=True)
        self.assertEqual([json.loads(line)["step"] for line in lines], [5, 10, 13, 15, 18, 18])
        for kept, step, missing in ((6, 18, ""), (6, 16, ""), (4, 16, ""),
                                    (5, 18, "ends at step 18, and the run goes on from step 18: the evaluation of that "
                                            "step is missing"),
                                    (4, 18, "ends at step 15, and the run goes on from step 18: lines in between are"),
                                    (3, 16, "ends at step 13, and the run goes on from step 16: lines in between are"),
                                    (0, 16, "holds none of the lines up to step 16")):
            with self.subTest(kept=kept, step=step):
                cwd = self.folder / f"kept_{kept}_of_{step}"
                shutil.copytree(whole, cwd)
                (cwd / "run/metrics.jsonl").write_text("".join(lines[:kept]))
                if step == 16:
                    self.last(cwd).unlink()
                log = self.train(cwd, "--resume", **{**keys, "train__max_steps": 19}).stdout
                self.assertIn(f"resumed at step {step}", log)
                self.assertEqual(log.count("warning: run/metrics.jsonl"), 1 if missing else 0, log)
                self.assertIn(f"warning: run/metrics.jsonl {missing}" if missing else "", log)
        # Nor does one that stopped before its first line, whatever train.log_every is now.
        self.train(self.folder, train__checkpoint_every=4, train__max_steps=6)
        self.last(self.folder).unlink()
        log = self.train(self.folder, "--resume", train__checkpoint_every=4, train__max_steps=6, train__log_every=2).stdout
        self.assertIn("resumed at step 4", log)
        self.assertNotIn("warning: run/metrics.jsonl", log)


class Starts(Case):
    def test_cut_off_before_the_first_checkpoint(self):
        """A folder that such a start left takes any start, and nothing else does."""
        layouts = (["run/checkpoints/"], ["run/checkpoints/", "run/log.txt"],
                   ["run/checkpoints/next.safetensors.luqtmp", "run/log.txt", "run/metrics.jsonl", "run/config.yaml",
                    "run/config.yaml.luqtmp", "run/tensorboard/events.out.tfevents.1.luqtrain"])
        for layout in layouts:
            for flags in ((), ("--resume",), ("--overwrite",)):
                with self.subTest(layout=layout, flags=flags):
                    for name in layout:
                        path = self.folder / name
                        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
                        if not name.endswith("/"):
                            path.write_text("" if "metrics" in name else "x")
                    process = self.train(self.folder, *flags, train__max_steps=1)
                    self.assertEqual("begins at its first step" in process.stdout, flags == ("--resume",))
                    self.assertEqual([line["step"] for line in metrics(self.folder / "run")], [1, 1])
                    shutil.rmtree(self.folder / "run")
        # What the program does not make is somebody's.
        for name in ("run/checkpoints/mine.bin", "run/notes.txt", "run/config.yaml", "run/tensorboard/x"):
            path = self.folder / name
            path.parent.mkdir(parents=True)
            path.write_text("mine")
            for flags in ((), ("--resume",)):
                self.refused(self.folder, "run.directory", flags=flags)
            self.assertEqual(path.read_text(), "mine")
            shutil.rmtree(self.folder / "run")

    def test_start_files_are_scanned(self):
        """NaN, infinity and negative variances are refused by name and element before anything is trained or said."""
        colour = {"data__synthetic__channels": 3}  # as --model alone expects
        self.train(self.folder, config=FP32_CONFIG, train__max_steps=1, **colour)
        output = self.folder / "state.safetensors"
        export = [LUQTRAIN, "export", "--checkpoint", self.last(self.folder), "--format", "safetensors", "--output"]
        self.assert_exit(run([*export, output], self.folder), 0)
        sound = output.read_bytes()
        length = struct.unpack("<Q", sound[:8])[0]
        header = json.loads(sound[8:8 + length])
        for name, element, value, words in (("layer1.0.bn1.running_var", 3, -0.5, "0 or more, got -0.5 at element 3"),
                                            ("layer1.0.bn1.running_var", 0, math.nan, "got nan at element 0"),
                                            ("layer2.0.conv1.weight", 77, math.inf, "got inf at element 77"),
                                            ("fc.bias", 9, -math.inf, "got -inf at element 9")):
            at = 8 + length + header[name]["data_offsets"][0] + 4 * element
            output.write_bytes(sound[:at] + struct.pack("<f", value) + sound[at + 4:])
            for flags in ((), ("--dry-run",)):
                error = self.refused(self.folder, str(output), name, words, flags=flags, config=FP32_CONFIG,
                                     run__directory="other", model__weights=output, **colour)
                self.assertNotIn("optimizer.lr", error)
            for line in (["eval", "--checkpoint", output, "--config", "run/config.yaml"],
                         ["export", "--checkpoint", output, "--model", "resnet20", "--format", "onnx", "--output", "o"]):
                process = run([LUQTRAIN, *line], self.folder)
                self.assert_exit(process, 2)
                self.assertIn(f"{name}: expected finite values", process.stderr)
        self.assertFalse((self.folder / "other").exists())


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
