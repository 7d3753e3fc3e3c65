"""Strings arrive as they were typed: the home folder, values on the command line, and commands that can be pasted."""
import os
import signal
import subprocess

from harness import Case, LUQTRAIN, SMALL, default_signals, main, write_png

# Names of folders that a shell, YAML or an option's parser may take for something else.
NAMES = [b"my run", b"it's", b'"', b"$HOME", b"a;b", b"!x", b"-x", b"#x", b"a: b", b"caf\xc3\xa9", b"caf\xe9", b"a\nb",
         b"*", b"a\\b", b"'q'x", b"a~b", b"[x]", b"trail ", b"a=b", b"%s", b"{}", b"\xff"]


def settings(**changed):
    words = []
    for key, value in {**SMALL, "train.epochs": 1, **{k.replace("__", "."): v for k, v in changed.items()}}.items():
        if value is not None:
            words += ["--set", os.fsencode(f"{key}=") + (value if isinstance(value, bytes) else str(value).encode())]
    return words


class Strings(Case):
    def setUp(self):
        super().setUp()
        self.home = self.subfolder("home of me")
        self.work = self.subfolder("work")
        self.environment = {**os.environ, "HOME": str(self.home)}
        (self.work / "c.yaml").write_text("model: {name: resnet20}\ndata: {name: synthetic}\n")

    def luqtrain(self, *words, code=0, cwd=None):
        process = subprocess.run([LUQTRAIN, *words], cwd=cwd or self.work, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, env=self.environment, timeout=120, check=False)
        self.assertEqual(process.returncode, code, process.stdout + process.stderr)
        return process

    def paste(self, line, cwd=None):
        """What bash does with a printed command, luqtrain being the program of this test."""
        process = subprocess.run(["bash", "-c", b'luqtrain() { "$PROGRAM" "$@"; }\n' + line],
                                 env={**self.environment, "PROGRAM": LUQTRAIN}, cwd=cwd or self.work,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120, check=False)
        return process

    def interrupted(self, *words, pass_fds=(), **changed):
        """The command that is printed when Ctrl-C ends a training at its fifth step."""
        with subprocess.Popen([LUQTRAIN, *words, *settings(train__epochs=100000, **changed)], cwd=self.work,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self.environment, pass_fds=pass_fds,
                              preexec_fn=default_signals) as process:
            output = b""
            for line in process.stdout:
                output += line
                if b"step 5/" in line:
                    process.send_signal(signal.SIGINT)
        return self.printed(output, b"Saved. To go on: ")

    def printed(self, output, beginning):
        """The command behind these words; a name with a line break is quoted without one."""
        lines = [line for line in output.split(b"\n") if line.startswith(beginning)]
        self.assertEqual(len(lines), 1, output)
        return lines[0][len(beginning):]

    def test_home_on_the_command_line(self):
        output = self.luqtrain("--config", "c.yaml", *settings(run__directory="~/runs/a")).stdout
        self.assertTrue((self.home / "runs/a/checkpoints/best.safetensors").is_file())
        self.assertEqual(os.listdir(self.work), ["c.yaml"])
        self.assertIn(str(self.home / "runs/a"), (self.home / "runs/a/config.yaml").read_text())
        self.assertNotIn(b"~", output)
        process = self.paste(self.printed(output, b"Next: "))
        self.assertEqual(process.returncode, 0, process.stderr)
        checkpoint = "~/runs/a/checkpoints/best.safetensors"
        self.luqtrain("eval", f"--checkpoint={checkpoint}")
        self.luqtrain("export", "--checkpoint", checkpoint, "--format", "onnx", "--output=~/a.onnx")
        write_png(self.home / "i.png", 1)
        (self.home / "labels").write_text("".join(f"name {i}\n" for i in range(10)))
        self.luqtrain("predict", "--checkpoint", checkpoint, "--labels=~/labels", "--logits=~/l", "--images=~/.")
        self.luqtrain("plot", "~/runs/a", "--output", "~/a.svg")
        (self.home / "c.yaml").write_text("base: ~/b.yaml\nrun: {directory: ~/runs/b}\n")
        (self.home / "b.yaml").write_text((self.work / "c.yaml").read_text())
        text = self.luqtrain("--config=~/c.yaml", "--dry-run", *settings(run__directory=None)).stdout.decode()
        self.assertIn(f"directory: {self.home}/runs/b", text)
        self.assertEqual({path.name for path in self.home.iterdir()},
                         {"a.onnx", "a.svg", "b.yaml", "c.yaml", "i.png", "l", "labels", "runs"})
        self.assertEqual(os.listdir(self.work), ["c.yaml"])

    def test_home_of_the_data(self):
        environment = {**self.environment, "LUQ_DATA_DIR": "~/data"}
        for words, folder in ((["--set", "data.path=~/data"], "data"), (["--set", "data.path=~/none"], "none")):
            process = subprocess.run([LUQTRAIN, "--config", "c.yaml", "--set", "data.name=image_folder", *words],
                                     cwd=self.work, env=environment, stderr=subprocess.PIPE, check=False)
            self.assertEqual(process.returncode, 2)
            self.assertIn(str(self.home / folder).encode(), process.stderr)

    def test_names_that_look_like_something_else(self):
        for name in NAMES:
            with self.subTest(name=name):
                folder = self.work / os.fsdecode(b"in " + name.replace(b"/", b""))
                folder.mkdir()
                (folder / "c.yaml").write_text((self.work / "c.yaml").read_text())
                config = os.fsencode(folder) + b"/c.yaml"
                process = self.luqtrain("--config", config, *settings(run__directory=name, train__max_steps=1), cwd=folder)
                self.assertEqual(sorted(os.listdir(os.fsencode(folder))), sorted([b"c.yaml", name]))
                again = self.paste(self.printed(process.stdout, b"Next: "), cwd=folder)
                self.assertEqual(again.returncode, 0, again.stderr)

    def test_a_stopped_run_says_how_to_go_on(self):
        name = b"it's $HOME \xe9"
        command = self.interrupted("--config", "c.yaml", "--log-level", "debug", run__directory=name)
        self.assertIn(b" --log-level debug --resume", command)
        again = self.paste(command + b" --set train.epochs=1 --set train.max_steps=1")
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertIn(b"step", again.stdout)

    def test_a_folder_where_the_last_checkpoint_was(self):
        """The command moves it aside, and the run goes on from the one before it."""
        for name in (b"it's $HOME \xe9", b"-x"):
            words = ("--config", "c.yaml", *settings(run__directory=name, train__max_steps=8, train__checkpoint_every=4))
            self.luqtrain(*words)
            last = self.work / os.fsdecode(name) / "checkpoints/last.safetensors"
            whole = last.read_bytes()
            last.unlink()
            last.mkdir()
            (last / "notes.txt").write_text("mine")
            refused = self.luqtrain(*words, "--resume", code=2).stderr
            process = self.paste(b"mv " + self.printed(refused, b"  mv "))
            self.assertEqual((process.returncode, process.stderr), (0, b""))
            self.assertEqual((last.with_name("last.safetensors.aside") / "notes.txt").read_text(), "mine")
            self.assertIn(b"resumed at step 4", self.luqtrain(*words, "--resume").stdout)
            self.assertEqual(last.read_bytes(), whole)

    def test_a_configuration_from_a_pipe_is_taken_from_the_run(self):
        read, write = os.pipe()
        os.write(write, (self.work / "c.yaml").read_bytes())
        os.close(write)
        command = self.interrupted("--config", f"/dev/fd/{read}", pass_fds=[read])
        os.close(read)
        self.assertIn(b"--config run/config.yaml", command)
        self.assertEqual(self.paste(command + b" --set train.epochs=1 --set train.max_steps=1").returncode, 0)

    def test_windows_text(self):
        """Byte order marks and line ends of Windows, in all that is text."""
        plain = (self.work / "c.yaml").read_text()
        for name, text in (("crlf", b"\xef\xbb\xbf" + plain.replace("\n", "\r\n").encode()),
                           ("cr", plain.replace("\n", "\r").encode())):
            (self.work / f"{name}.yaml").write_bytes(text)
            self.luqtrain("--config", f"{name}.yaml", "--dry-run")
        (self.work / "wide.yaml").write_bytes(plain.encode("utf-16"))
        self.assertIn(b"UTF-16", self.luqtrain("--config", "wide.yaml", "--dry-run", code=2).stderr)
        self.luqtrain("--config", "c.yaml", *settings())
        write_png(self.work / "i.png", 1)
        labels = "".join(f"name {i}\n" for i in range(10))
        outputs = set()
        for text in (labels.encode(), labels.replace("\n", "\r\n").encode("utf-8-sig"), labels.replace("\n", "\r").encode()):
            (self.work / "labels").write_bytes(text)
            outputs.add(self.luqtrain("predict", "--checkpoint", "run/checkpoints/last.safetensors", "--labels",
                                      "labels", "i.png").stdout)
        self.assertEqual(len(outputs), 1)
        self.assertRegex(outputs.pop().decode(), r"name \d\n")
        (self.work / "gap").write_text(labels.replace("name 3\n", "\n"))
        for wrong, words in (("gap", "gap:4: expected the name of class 3, got an empty line"), ("i.png", "a PNG image"), ("run", "is a folder"), ("missing", "No such file"),
                             ("run/checkpoints/last.safetensors", "a safetensors file")):
            error = self.luqtrain("predict", "--checkpoint", "run/checkpoints/last.safetensors", "--labels", wrong,
                                  "i.png", code=2).stderr.decode()
            self.assertIn(words, error)


if __name__ == "__main__":
    main()
