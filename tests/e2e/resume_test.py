"""A run is the same run, to the bit: done twice, with any number of threads, and after any interruption."""
import pathlib
import tempfile

from harness import Case, Checkpoint, FP32_CONFIG, LUQ_CONFIG, LUQTRAIN, arguments, main, metrics, run, run_and_signal, signal


class Identity(Case):
    def test_twice_identical(self):
        for config in (LUQ_CONFIG, FP32_CONFIG):
            with self.subTest(config=config.name):
                one, two = self.subfolder("one_" + config.stem), self.subfolder("two_" + config.stem)
                for cwd in (one, two):
                    self.train(cwd, config=config, train__epochs=2)
                self.assertEqual(self.last(one).read_bytes(), self.last(two).read_bytes())

    def test_threads_do_not_matter(self):
        folders = [self.subfolder(str(threads)) for threads in (1, 2, 3)]
        for threads, cwd in enumerate(folders, 1):
            self.train(cwd, train__max_steps=20, threads=threads, data__workers=threads)
        for cwd in folders[1:]:
            self.assert_same_tensors(self.last(folders[0]), self.last(cwd))

    def test_seed_matters(self):
        one, two = self.subfolder("one"), self.subfolder("two")
        self.train(one, train__max_steps=3, seed=1)
        self.train(two, train__max_steps=3, seed=2)
        weights = [Checkpoint(self.last(cwd)).tensors["layer1.0.conv1.weight"] for cwd in (one, two)]
        self.assertNotEqual(weights[0], weights[1])


# Long enough for a signal to arrive before the end: 300 steps, in 24 epochs.
LONG = {"train__epochs": 30, "train__max_steps": 300, "train__checkpoint_every": 7}


class Resume(Case):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="luq_e2e_")
        cls.addClassCleanup(folder.cleanup)
        cls.straight = {}
        for config in (LUQ_CONFIG, FP32_CONFIG):
            cwd = pathlib.Path(folder.name) / config.stem
            cwd.mkdir()
            process = run(arguments(config, **LONG), cwd)
            assert process.returncode == 0, process.stderr
            cls.straight[config] = cwd

    def train(self, cwd, *flags, **options):
        """None of these runs misses a line where it goes on."""
        process = super().train(cwd, *flags, **options)
        self.assertNotIn("warning: run/metrics.jsonl", process.stdout)
        return process

    def assert_same_run(self, cwd, straight):
        self.assertEqual(self.last(cwd).read_bytes(), self.last(straight).read_bytes())
        kept = ("kind", "epoch", "step", "loss", "top1", "lr")
        evaluations = [[{key: line[key] for key in kept} for line in metrics(folder / "run") if line["kind"] == "eval"]
                       for folder in (cwd, straight)]
        self.assertEqual(evaluations[0], evaluations[1])
        steps = [[line["step"] for line in metrics(folder / "run") if line["kind"] == "train"]
                 for folder in (cwd, straight)]
        self.assertEqual(steps[0], steps[1])

    def test_sigterm(self):
        """Interrupted three times, the second and third soon after the resume."""
        cwd = self.subfolder("interrupted")
        steps = [0]
        for flags in ((), ("--resume",), ("--resume",)):
            code, output = run_and_signal(arguments(LUQ_CONFIG, *flags, **LONG), cwd, signal.SIGTERM,
                                          "resumed at step" if flags else "step 5/300")
            self.assertEqual(code, 128 + signal.SIGTERM, output)
            self.assertIn("SIGTERM", output)
            steps.append(int(Checkpoint(self.last(cwd)).metadata["step"]))
        self.assertEqual(steps, sorted(steps))
        self.assertLess(steps[-1], 300)
        self.train(cwd, "--resume", **LONG)
        self.assert_same_run(cwd, self.straight[LUQ_CONFIG])

    def test_sigint(self):
        cwd = self.subfolder("interrupted")
        code, output = run_and_signal(arguments(LUQ_CONFIG, **LONG), cwd, signal.SIGINT, "step 15/300")
        self.assertEqual(code, 128 + signal.SIGINT, output)
        self.assertLess(int(Checkpoint(self.last(cwd)).metadata["step"]), 300)
        self.train(cwd, "--resume", **LONG)
        self.assert_same_run(cwd, self.straight[LUQ_CONFIG])

    def test_sigint_before_the_first_step(self):
        cwd = self.subfolder("interrupted")
        code, output = run_and_signal(arguments(LUQ_CONFIG, **LONG), cwd, signal.SIGINT, "model    ")
        self.assertEqual(code, 128 + signal.SIGINT, output)
        self.assertIn("stopped by SIGINT", output)
        self.train(cwd, "--resume", **LONG)
        self.assert_same_run(cwd, self.straight[LUQ_CONFIG])

    def test_sigkill(self):
        """Checkpoints every 7 steps; killed in the second epoch, and again after the resume."""
        cwd = self.subfolder("killed")
        for flags, when in (((), "step 20/300"), (("--resume",), "step 50/300")):
            code, output = run_and_signal(arguments(LUQ_CONFIG, *flags, **LONG), cwd, signal.SIGKILL, when)
            self.assertEqual(code, -signal.SIGKILL, output)
            step = int(Checkpoint(self.last(cwd)).metadata["step"])
            self.assertEqual(step % 7, 0)
            self.assertLess(step, 300)
        self.train(cwd, "--resume", **LONG)
        self.assert_same_run(cwd, self.straight[LUQ_CONFIG])

    def test_float32(self):
        cwd = self.subfolder("interrupted")
        code, output = run_and_signal(arguments(FP32_CONFIG, **LONG), cwd, signal.SIGTERM, "step 20/300")
        self.assertEqual(code, 128 + signal.SIGTERM, output)
        self.train(cwd, "--resume", config=FP32_CONFIG, **LONG)
        self.assert_same_run(cwd, self.straight[FP32_CONFIG])

    def test_average_of_weights(self):
        """With train.ema_decay: interrupted in mid-epoch and resumed, against straight through."""
        settings = {"train__epochs": 3, "train__ema_decay": 0.9}
        straight, cwd = self.subfolder("straight"), self.subfolder("parts")
        self.train(straight, **settings)
        self.train(cwd, train__max_steps=20, **settings)
        self.train(cwd, "--resume", **settings)
        self.assertEqual(self.last(cwd).read_bytes(), self.last(straight).read_bytes())
        lines = [[(line["step"], line["loss"], line["top1"]) for line in metrics(folder / "run")
                  if line["kind"] == "train" and line["step"] != 20] for folder in (cwd, straight)]
        self.assertEqual(lines[0], lines[1])
        self.refused(cwd, "train.ema_decay", flags=("--resume",), train__epochs=4, train__ema_decay=0.99)

    def test_adamw_micro_batches_clipping(self):
        """Resumed in mid-epoch; the norm is a column of the metrics, the same in both."""
        settings = {"optimizer__name": "adamw", "optimizer__nesterov": "false", "optimizer__lr": 0.001,
                    "train__micro_batches": 4, "train__clip_grad_norm": 0.5, "train__log_every": 1}
        straight, cwd = self.subfolder("straight"), self.subfolder("parts")
        self.train(straight, train__max_steps=20, **settings)
        for flags, steps in (((), 6), (("--resume",), 17), (("--resume",), 20)):
            self.train(cwd, *flags, train__max_steps=steps, **settings)
        self.assert_same_tensors(self.last(cwd), self.last(straight))
        names = Checkpoint(self.last(cwd)).tensors
        for kind in ("exp_avg", "exp_avg_sq"):
            self.assertIn(f"optimizer.{kind}.layer1.0.conv1.weight", names)
        norms = [[line["gradient_norm"] for line in metrics(folder / "run") if line["kind"] == "train"]
                 for folder in (cwd, straight)]
        self.assertEqual(len(norms[0]), 20)
        self.assertEqual(norms[0], norms[1])
        self.assertGreater(min(norms[0]), 0)

    def test_more_steps_at_exact_positions(self):
        """100 steps = 50 + 50; ends in mid-epoch, twice in one epoch, and at an epoch's end."""
        straight = self.subfolder("straight")
        self.train(straight, train__epochs=8, train__max_steps=100)
        cwd = self.subfolder("parts")
        flags = ()
        for steps, epoch, batch in ((50, "3", "11"), (54, "4", "2"), (60, "4", "8"), (78, "6", "0"), (100, "7", "9")):
            self.train(cwd, *flags, train__epochs=8, train__max_steps=steps)
            metadata = Checkpoint(self.last(cwd)).metadata
            self.assertEqual((metadata["step"], metadata["epoch"], metadata["batch"]), (str(steps), epoch, batch))
            flags = ("--resume",)
        self.assert_same_tensors(self.last(cwd), self.last(straight))

    def test_what_may_change(self):
        cwd = self.subfolder("run")
        self.train(cwd, train__max_steps=6)
        error = self.refused(cwd, "optimizer.lr", "train.batch_size", flags=("--resume",), train__max_steps=9,
                             optimizer__lr=0.3, train__batch_size=4, train__log_every=3)
        self.assertNotIn("train.log_every:", error)
        self.train(cwd, "--resume", train__max_steps=9, threads=1, train__log_every=3)
        self.assertEqual(Checkpoint(self.last(cwd)).metadata["step"], "9")

    def test_finished_and_extended(self):
        cwd = self.subfolder("run")
        self.train(cwd, train__epochs=1)
        before = self.last(cwd).read_bytes()
        process = self.train(cwd, "--resume", train__epochs=1)
        self.assertIn("finished", process.stdout)
        self.assertEqual(self.last(cwd).read_bytes(), before)
        self.train(cwd, "--resume", train__epochs=2)
        self.assertEqual(Checkpoint(self.last(cwd)).metadata["step"], "26")
        self.assertEqual([line["step"] for line in metrics(cwd / "run") if line["kind"] == "eval"], [13, 26])

    def test_existing_run(self):
        cwd = self.subfolder("run")
        self.train(cwd, train__max_steps=6)
        self.refused(cwd, "--resume", "--overwrite", train__max_steps=6)
        self.train(cwd, "--overwrite", train__max_steps=3)
        self.assertEqual(Checkpoint(self.last(cwd)).metadata["step"], "3")
        self.assertEqual([line["step"] for line in metrics(cwd / "run")], [3, 3])


class Average(Case):
    def evaluate(self, checkpoint, *flags):
        process = run([LUQTRAIN, "eval", "--checkpoint", checkpoint, *flags], self.folder)
        self.assert_exit(process, 0)
        return process.stdout

    def test_evaluations(self):
        """Evaluations report the weights and their average; checkpoints are evaluated by the average, for any batch."""
        cwd = self.subfolder("run")
        process = self.train(cwd, train__epochs=4, train__ema_decay=0.8, optimizer__lr=0.02)
        self.assertIn("EMA loss", process.stdout)
        lines = [line for line in metrics(cwd / "run") if line["kind"] == "eval"]
        self.assertNotEqual([line["loss"] for line in lines], [line["ema_loss"] for line in lines])
        for line in lines:
            self.assertGreaterEqual(line["ema_top5"], line["ema_top1"])
        best = max(line["ema_top1"] for line in lines)
        self.assertEqual(float(Checkpoint(self.last(cwd)).metadata["best_top1"]), best)
        checkpoint = Checkpoint(self.last(cwd))
        names = {name for name in checkpoint.tensors if not name.startswith(("optimizer.", "ema."))}
        self.assertEqual({name[4:] for name in checkpoint.tensors if name.startswith("ema.")}, names)

        last = lines[-1]
        text = self.evaluate(self.last(cwd))
        self.assertIn(f"test top-1 {last['ema_top1']:.2f} %, top-5 {last['ema_top5']:.2f} %, "
                      f"loss {last['ema_loss']:.4f}, 40 images (EMA", text)
        text = self.evaluate(self.last(cwd), "--no-ema")
        self.assertIn(f"test top-1 {last['top1']:.2f} %, top-5 {last['top5']:.2f} %, loss {last['loss']:.4f}", text)
        self.assertNotIn("EMA", text)
        whole = self.evaluate(self.last(cwd))
        for batch in (1, 7, 64):
            self.assertEqual(self.evaluate(self.last(cwd), "--config", cwd / "run/config.yaml", "--set",
                                           f"eval.batch_size={batch}"), whole)

    def test_few_classes(self):
        """Top-5 of fewer than five classes says nothing, and is left out."""
        cwd = self.subfolder("run")
        self.train(cwd, train__max_steps=2, data__synthetic__num_classes=4)
        self.assertFalse(any("top5" in line for line in metrics(cwd / "run")))
        self.assertNotIn("top-5", self.evaluate(self.last(cwd)))


class RunDirectory(Case):
    def test_files(self):
        cwd = self.subfolder("run")
        process = self.train(cwd, train__epochs=2)
        self.assertIn("step 5/26", process.stdout)
        self.assertNotIn("\r", process.stdout)
        names = sorted(path.relative_to(cwd / "run").as_posix() for path in (cwd / "run").rglob("*")
                       if not path.name.startswith("events.out.tfevents."))
        self.assertEqual(names, ["checkpoints", "checkpoints/best.safetensors", "checkpoints/last.safetensors",
                                 "checkpoints/previous.safetensors", "config.yaml", "log.txt", "metrics.jsonl",
                                 "tensorboard"])
        lines = metrics(cwd / "run")
        self.assertEqual([(line["kind"], line["epoch"], line["step"]) for line in lines],
                         [("train", 1, 5), ("train", 1, 10), ("eval", 1, 13), ("train", 2, 15), ("train", 2, 20),
                          ("train", 2, 25), ("train", 2, 26), ("eval", 2, 26)])
        for line in lines:
            keys = ["kind", "epoch", "step", "time", "loss", "top1", *(["top5"] if line["kind"] == "eval" else []), "lr",
                    "images_per_second", "data_seconds", "compute_seconds"]
            self.assertEqual(list(line), keys + (["percent_of_limit"] if line["kind"] == "train" else []))
            self.assertGreater(line["images_per_second"], 0)
            self.assertTrue(0 <= line["top1"] <= 100)
        # Every test image counts once: accuracies are whole numbers of fortieths.
        for line in lines:
            for key in ("top1", "top5") if line["kind"] == "eval" else ():
                self.assertAlmostEqual(line[key] * 40 / 100, round(line[key] * 40 / 100), places=9)
        best = max(line["top1"] for line in lines if line["kind"] == "eval")
        self.assertEqual(float(Checkpoint(self.last(cwd)).metadata["best_top1"]), best)
        # The configuration that was written is one that trains.
        again = self.subfolder("again")
        self.assert_exit(run([*arguments(cwd / "run/config.yaml")[:3]], again), 0)
        self.assertEqual(self.last(again).read_bytes(), self.last(cwd).read_bytes())


if __name__ == "__main__":
    main()
