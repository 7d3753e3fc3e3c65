"""luqtrain --smoke: everything of an experiment on a handful of images, with and without its data."""
import os
import unittest.mock

from harness import Case, LUQ_CONFIG, LUQTRAIN, SOURCE, main, run, run_and_signal, signal

IMAGENET = SOURCE / "configs/imagenet/resnet18_luq.yaml"


class Smoke(Case):
    def smoke(self, config, *settings, code=0):
        temporary = self.folder / "temporary"
        temporary.mkdir(exist_ok=True)
        words = [word for setting in settings for word in ("--set", setting)]
        process = run([LUQTRAIN, "--config", config, *words, "--smoke"], self.folder,
                      env={**os.environ, "TMPDIR": str(temporary), "LUQ_DATA_DIR": str(self.folder / "nowhere")})
        self.assert_exit(process, code)
        left = list(temporary.iterdir())
        if code != 1:
            self.assertEqual(left, [])
            self.assertEqual(list(self.folder.iterdir()), [temporary])
        return process, left

    def test_image_files(self):
        """In folders of ImageNet's layout and in shards; parts of a batch, the average of weights, clipping."""
        process, _ = self.smoke(IMAGENET, "data.image_size=48", "data.path=missing", "train.ema_decay=0.9",
                                "train.clip_grad_norm=1")
        for text in ("imagenet, 1,000 training and 1,000 test images of 48x48x3, 1000 classes", "resumed at step 2",
                     "EMA loss", "(6 images)", "Smoke test passed", "missing is not there", "4 images a step"):
            self.assertIn(text, process.stdout)
        process, _ = self.smoke(IMAGENET, "data.image_size=48", "data.name=webdataset", "train.micro_batches=1")
        self.assertIn("made-up JPEG files in 10 classes, since webdataset was not found", process.stdout)

    def test_pixels(self):
        process, _ = self.smoke(LUQ_CONFIG, "data.name=synthetic", "data.synthetic.image_size=8")
        self.assertIn("resnet20 on synthetic.", process.stdout)
        process, _ = self.smoke(LUQ_CONFIG, "data.name=cifar100")
        self.assertIn("resnet20 on made-up images of 32x32x3, since cifar100 was not found in", process.stdout)

    def test_stopped(self):
        temporary = self.subfolder("temporary")
        with unittest.mock.patch.dict(os.environ, TMPDIR=str(temporary)):
            code, output = run_and_signal([LUQTRAIN, "--config", LUQ_CONFIG, "--set", "data.name=synthetic", "--smoke"],
                                          self.folder, signal.SIGINT, "limits   ")
        self.assertEqual(code, 128 + signal.SIGINT, output)
        self.assertIn("[smoke] stopped by SIGINT", output)
        self.assertEqual(list(temporary.iterdir()), [])

    def test_failures(self):
        """A user's mistake leaves nothing; a failure leaves the run, to be looked at."""
        process, _ = self.smoke(LUQ_CONFIG, "model.name=resnet21", "data.name=synthetic", code=2)
        self.assertIn("resnet21", process.stderr)
        process, left = self.smoke(LUQ_CONFIG, "data.name=synthetic", "optimizer.lr=1e38", code=1)
        self.assertEqual(len(left), 1)
        self.assertIn(f"the run stays in {left[0]}", process.stderr)
        process = run([LUQTRAIN, "--config", LUQ_CONFIG, "--smoke", "--resume"], self.folder)
        self.assert_exit(process, 2)


if __name__ == "__main__":
    main()
