"""Pipes where a file is read: what has to be a regular file is refused at once, text is awaited, a signal ends that."""
import os
import signal
import subprocess
import threading
import time

from harness import Case, LUQ_CONFIG, LUQTRAIN, default_signals, main


class Pipes(Case):
    def setUp(self):
        super().setUp()
        os.mkfifo(self.folder / "pipe")

    def luqtrain(self, *words, timeout=30):
        return subprocess.run([LUQTRAIN, *map(str, words)], cwd=self.folder, text=True, capture_output=True,
                              timeout=timeout, check=False)

    def assert_refused(self, text, *words, code=2):
        process = self.luqtrain(*words)
        self.assert_exit(process, code)
        self.assertIn(text, process.stderr)

    def test_weights_and_checkpoints(self):
        text = "pipe: is not a regular file"
        self.assert_refused(text, "eval", "--checkpoint", "pipe")
        self.assert_refused(text, "quantize", "--input", "pipe", "--format", "int4_sawb", "--output", "o")
        self.assert_refused(text, "--config", LUQ_CONFIG, "--set", "model.weights=pipe", "--dry-run")

    def test_files_of_a_run(self):
        settings = {"train.max_steps": 1, "run.directory": "r"}
        self.train(self.folder, **settings)
        settings["train.max_steps"] = 2
        for name in ("config.yaml", "log.txt", "metrics.jsonl", "checkpoints/last.safetensors", "checkpoints/next.safetensors"):
            path = self.folder / "r" / name
            kept = path.read_bytes() if path.exists() else None
            path.unlink(missing_ok=True)
            os.mkfifo(path)
            if name.endswith("next.safetensors"):
                self.train(self.folder, "--resume", **settings)  # the last one is sound
                continue
            self.refused(self.folder, f"{name}: ", "regular file", flags=["--resume"], **settings)
            if name in ("config.yaml", "metrics.jsonl"):
                self.assert_refused(f"r/{name}: expected a regular file, got a pipe", "plot", "r", "--output", "x.svg")
            path.unlink()
            path.write_bytes(kept)

    def test_text_is_awaited(self):
        for wait in (0, 0.3):
            def write():
                with open(self.folder / "pipe", "w", encoding="utf-8") as pipe:
                    time.sleep(wait)
                    pipe.write("seed: [")
                    pipe.flush()
                    time.sleep(wait)
                    pipe.write("1]\n")
            writer = threading.Thread(target=write)
            writer.start()
            self.assert_refused("pipe:1", "--config", "pipe")
            writer.join(30)
        process = subprocess.run([LUQTRAIN, "--config", "/dev/stdin"], input="sed: 1\n", text=True,
                                 capture_output=True, timeout=30, check=False)
        self.assertIn("did you mean seed?", process.stderr)
        process = subprocess.run([LUQTRAIN, "--config", "/dev/stdin"], input="", text=True, capture_output=True,
                                 timeout=30, check=False)
        self.assert_exit(process, 2)

    def test_text_that_nobody_writes(self):
        self.assert_refused("pipe: cannot be read: nobody has opened this pipe for writing in 10 seconds",
                            "--config", "pipe")

    def test_process_substitution(self):
        command = '"$0" --config <(sleep 0.5; cat "$1") --set run.directory=new --dry-run'
        process = subprocess.run(["bash", "-c", command, LUQTRAIN, str(LUQ_CONFIG)], cwd=self.folder, text=True,
                                 capture_output=True, timeout=30, check=False)
        self.assert_exit(process, 0)
        self.assertIn("directory: new", process.stdout)

    def test_a_signal_ends_the_wait(self):
        process = subprocess.Popen([LUQTRAIN, "--config", "pipe"], cwd=self.folder, stderr=subprocess.PIPE,
                                   preexec_fn=default_signals)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        self.assertIn(b"stopped by SIGTERM", process.communicate(timeout=30)[1])
        self.assertEqual(process.returncode, 128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
