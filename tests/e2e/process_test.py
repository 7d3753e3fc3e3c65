"""luqtrain among other processes: signals and exit codes, closed pipes, odd descriptors, threads."""
import fcntl
import os
import pathlib
import pty
import re
import select
import shutil
import struct
import subprocess
import termios
import time
import unittest
import zlib

from harness import (Case, Checkpoint, LUQ_CONFIG, LUQTRAIN, SOURCE, STOP_SIGNALS, arguments, default_signals, main, run,
                     run_and_signal, signal)

LUQBENCH = pathlib.Path(LUQTRAIN).with_name("luqbench")
# Long enough to be stopped before the end.
ENDLESS = {"train__epochs": 100000, "train__log_every": 5}


def handles(pid, number):
    """Whether the process has a handler for the signal."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) >> (number - 1) & 1 == 1


def write_large_png(path, size):
    """A black square, which takes long to decode and is a small file."""
    data = b"\x89PNG\r\n\x1a\n"
    rows = zlib.compress(bytes(size * (size + 1)), 1)
    for kind, content in ((b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b"")):
        data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    path.write_bytes(data)


class Stopping(Case):
    def test_each_signal_saves_and_stops(self):
        for number in STOP_SIGNALS:
            with self.subTest(signal=number.name):
                cwd = self.subfolder(number.name)
                code, output = run_and_signal(arguments(LUQ_CONFIG, **ENDLESS), cwd, number, "step 15/")
                self.assertEqual(code, 128 + number, output)
                self.assertIn(f"stopped by {number.name} after step", output)
                step = int(Checkpoint(self.last(cwd)).metadata["step"])
                self.assertGreaterEqual(step, 15)
                self.assertIn(f"after step {step}; saved", output)

    def test_signals_that_were_ignored_stay_ignored(self):
        """As SIGINT in `cmd &` of a script, and SIGHUP under nohup."""
        ignored = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
        with subprocess.Popen(arguments(LUQ_CONFIG, **ENDLESS), cwd=self.folder, stdout=subprocess.PIPE, text=True,
                              preexec_fn=lambda: default_signals(ignored)) as process:
            for line in process.stdout:
                if "step 10/" in line:
                    for number in ignored:
                        process.send_signal(number)
                if "step 40/" in line:
                    process.send_signal(signal.SIGUSR1)
                    break
            output = process.stdout.read()
        self.assertEqual(process.returncode, 128 + signal.SIGUSR1, output)
        self.assertIn("stopped by SIGUSR1 after step", output)

    def test_suspending_and_other_signals_are_harmless(self):
        with subprocess.Popen(arguments(LUQ_CONFIG, train__max_steps=40), cwd=self.folder, stdout=subprocess.PIPE,
                              text=True, preexec_fn=default_signals) as process:
            for line in process.stdout:
                if "step 5/" in line:
                    for number in (signal.SIGWINCH, signal.SIGSTOP, signal.SIGCONT):
                        process.send_signal(number)
            process.wait(timeout=100)
        self.assertEqual(process.returncode, 0)
        self.assertEqual(Checkpoint(self.last(self.folder)).metadata["step"], "40")

    def test_while_it_evaluates_saves_and_ends(self):
        """At any moment of a run that mostly does these: it is saved, and goes on to the same end, or has come to it."""
        settings = {"train__epochs": 9, "train__max_steps": 16, "train__checkpoint_every": 1, "data__synthetic__train_images": 16}
        straight = self.subfolder("straight")
        self.train(straight, **settings)
        codes = []
        for number, when in ((signal.SIGINT, "step 2/16  test"), (signal.SIGHUP, "step 9/16"),
                             (signal.SIGUSR1, "step 16/16"), (signal.SIGTERM, "finished after")):
            cwd = self.subfolder(when.split()[1].replace("/", "_"))
            code, output = run_and_signal(arguments(LUQ_CONFIG, **{**settings, "train__log_every": 1}), cwd, number, when)
            self.assertIn(code, (0, 128 + number), output)
            self.assertEqual(code == 0, "finished after step 16" in output, output)
            self.assertEqual(code == 0, "stopped by" not in output, output)
            codes.append(code)
            if code != 0:
                self.train(cwd, "--resume", **settings)
            self.assert_same_tensors(self.last(cwd), self.last(straight))
        self.assertEqual(codes[-1], 0)

    def test_evaluation_and_prediction_are_stopped(self):
        self.train(self.folder, train__max_steps=2, model__name="resnet50", data__synthetic__image_size=32,
                   data__synthetic__test_images=20000, eval__max_images=16, data__augment__pad_crop=4)
        code, output = self.stop([LUQTRAIN, "eval", "--checkpoint", self.last(self.folder), "--config", "run/config.yaml",
                                  "--set", "eval.max_images=0"], 0.5, signal.SIGTERM)
        self.assertEqual(code, 128 + signal.SIGTERM, output)
        self.assertIn("luqtrain: stopped by SIGTERM\n", output)
        write_large_png(self.folder / "image.png", 4000)
        code, output = self.stop([LUQTRAIN, "predict", "--checkpoint", self.last(self.folder), "--logits", "logits",
                                  *["image.png"] * 50000], 0.3)
        self.assertEqual(code, 128 + signal.SIGINT, output)
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["image.png", "run"])

    def test_while_it_begins(self):
        """At any moment of the first ones: a code that names the signal, and a folder that the same command takes."""
        for delay in (0, 0.03, 0.1, 0.3):
            cwd = self.subfolder(str(delay))
            with subprocess.Popen(arguments(LUQ_CONFIG, **ENDLESS), cwd=cwd, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, preexec_fn=default_signals) as process:
                time.sleep(delay)
                process.send_signal(signal.SIGTERM)
                output = process.communicate(timeout=100)[0]
            # Before there is a handler the system ends it, which a shell reports as the same code.
            self.assertIn(process.returncode, (128 + signal.SIGTERM, -signal.SIGTERM), output)
            if process.returncode > 0:
                self.assertIn("stopped by SIGTERM", output)
            if (cwd / "run").exists():
                self.train(cwd, "--resume", train__epochs=100000, train__max_steps=5)

    def stop(self, line, delay, number=signal.SIGINT):
        """The code and what was said, of a signal that comes `delay` seconds after it can be handled."""
        with subprocess.Popen([str(word) for word in line], cwd=self.folder, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, preexec_fn=default_signals) as process:
            while process.poll() is None and not handles(process.pid, number):
                time.sleep(0.001)
            time.sleep(delay)
            process.send_signal(number)
            output = process.communicate(timeout=200)[0]
        return process.returncode, output

    def test_commands_that_only_read(self):
        """Each would go on for minutes."""
        write_large_png(self.folder / "image.png", 4000)
        for split, images in (("train", 2000), ("val", 1)):
            (self.folder / "data" / split / "ant").mkdir(parents=True)
            for number in range(images):
                (self.folder / "data" / split / f"ant/{number}.png").symlink_to("../../../image.png")
        settings = arguments(LUQ_CONFIG)[3:]
        for line, number in (
                ([LUQTRAIN, "profile", "--config", LUQ_CONFIG, *settings, "--steps", "1000000"], signal.SIGINT),
                ([LUQTRAIN, "validate-data", "--path", "data"], signal.SIGINT),
                ([LUQTRAIN, "validate-data", "--path", "data"], signal.SIGHUP),
                ([LUQBENCH, "kernels", "--mebibytes", "1", "--repeats", "1000000", "--json", "kernels.json"], signal.SIGTERM),
                ([LUQBENCH, "step", "--model", "resnet20", "--batch", "4", "--image-size", "12", "--rounds", "1000000",
                  "--json", "step.json"], signal.SIGINT)):
            with self.subTest(command=" ".join(map(str, line[:2])), signal=number.name):
                code, output = self.stop(line, 0.5, number)
                self.assertEqual(code, 128 + number, output)
                self.assertIn(f"{pathlib.Path(line[0]).name}: stopped by {number.name}\n", output)
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["data", "image.png"])

    def test_commands_that_write(self):
        """At any moment: no file, or a whole one, and none beside it."""
        self.train(self.folder, train__max_steps=2, model__name="resnet18", data__synthetic__image_size=16,
                   data__augment__pad_crop=2)
        checkpoint = self.last(self.folder)
        self.assert_exit(run([LUQTRAIN, "export", "--format", "safetensors", "--checkpoint", checkpoint, "--output",
                              "weights"], self.folder), 0)
        codes = set()
        for command in ("quantize --format fp4_luq --input weights --output out",
                        f"export --format packed --checkpoint {checkpoint} --output out",
                        f"export --format onnx --checkpoint {checkpoint} --output out"):
            words = command.split()
            self.assert_exit(run([LUQTRAIN, *words], self.folder), 0)
            whole = (self.folder / "out").read_bytes()
            (self.folder / "out").unlink()
            for delay in (0, 0.02, 0.05, 0.1, 0.2):
                with self.subTest(command=words[0], delay=delay):
                    code, output = self.stop([LUQTRAIN, *words], delay)
                    codes.add(code)
                    self.assertIn(code, (0, 128 + signal.SIGINT), output)
                    out = self.folder / "out"
                    if code == 0 or out.exists():
                        self.assertEqual(out.read_bytes(), whole)
                        out.unlink()
                    self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["run", "weights"])
        self.assertIn(128 + signal.SIGINT, codes)


class ClosedPipes(Case):
    def test_a_run_goes_on_without_its_output(self):
        """luqtrain ... | head -1"""
        with subprocess.Popen(arguments(LUQ_CONFIG, train__max_steps=20), cwd=self.folder, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, preexec_fn=default_signals) as process:
            self.assertIn("run", process.stdout.readline())
            process.stdout.close()
            process.wait(timeout=100)
            process.stderr.read()
        self.assertEqual(process.returncode, 0)
        self.assertEqual(Checkpoint(self.last(self.folder)).metadata["step"], "20")
        log = (self.folder / "run/log.txt").read_text()
        self.assertIn("step 20/20", log)
        self.assertIn("finished after step 20", log)

    def test_a_run_is_stopped_though_nobody_reads(self):
        """A pager that waits, a terminal that was halted by Ctrl-S."""
        reader, writer = os.pipe()
        with subprocess.Popen(arguments(LUQ_CONFIG, train__epochs=100000, train__log_every=1), cwd=self.folder, stdout=writer,
                              stderr=subprocess.PIPE, preexec_fn=default_signals) as process:
            while select.select([], [writer], [], 0)[1]:  # while there is room
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=100)
        os.close(reader)
        os.close(writer)
        self.assertEqual(process.returncode, 128 + signal.SIGTERM)
        self.assertIn("stopped by SIGTERM after step", (self.folder / "run/log.txt").read_text())
        self.assertGreater(int(Checkpoint(self.last(self.folder)).metadata["step"]), 0)

    def test_a_terminal_that_is_gone(self):
        """nohup, and the connection ends."""
        master, terminal = pty.openpty()
        with subprocess.Popen(arguments(LUQ_CONFIG, train__max_steps=40), cwd=self.folder, stdin=terminal, stdout=terminal,
                              stderr=terminal, preexec_fn=lambda: default_signals([signal.SIGHUP])) as process:
            os.close(terminal)
            os.read(master, 1)
            os.close(master)
        self.assertEqual(process.returncode, 0)
        log = (self.folder / "run/log.txt").read_text()
        self.assertIn("warning: standard output cannot be written: Input/output error", log)
        self.assertIn("finished after step 40", log)

    def test_a_short_command_ends_like_others(self):
        """luqtrain kernels | true"""
        reader, writer = os.pipe()
        os.close(reader)
        process = subprocess.run([LUQTRAIN, "kernels"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
        os.close(writer)
        self.assertEqual((process.returncode, process.stderr), (-signal.SIGPIPE, ""))


class Descriptors(Case):
    def start(self, shell, **options):
        """Through a shell, which closes and redirects; "$@" is a training of 15 steps."""
        return run(["bash", "-c", shell, "bash", *arguments(LUQ_CONFIG, train__max_steps=15)], self.folder, **options)

    def check(self, process, code=0):
        self.assert_exit(process, code)
        self.assertEqual(sorted(path.name for path in self.folder.iterdir() if path.name != "out"), ["run"])
        self.assertEqual(Checkpoint(self.last(self.folder)).metadata["step"], "15")
        log = (self.folder / "run/log.txt").read_text()
        self.assertIn("finished after step 15", log)
        checkpoint = self.last(self.folder).read_bytes()
        shutil.rmtree(self.folder / "run")
        return log, checkpoint

    def test_closed_and_full_ones_harm_no_file(self):
        log, expected = self.check(self.start('"$@"'))
        self.assertNotIn("warning", log)
        for shell, warns in (('"$@" <&- >&- 2>&-', True), ('"$@" >&-', True), ('"$@" 2>&- <&-', False),
                             ('"$@" >/dev/full 2>/dev/full', True), ('umask 077; "$@" >out 2>&1', False),
                             ('ulimit -n 16; "$@"', False)):
            with self.subTest(shell=shell):
                log, checkpoint = self.check(self.start(shell))
                self.assertEqual(checkpoint, expected)
                self.assertEqual("warning: standard output cannot be written" in log, warns)
        self.assertIn("finished after step 15", (self.folder / "out").read_text())

    def test_what_was_not_said_is_a_failure_of_other_commands(self):
        for words in (["kernels"], ["--help"], ["eval", "--help"]):
            for shell in ('"$@" >&-', '"$@" >/dev/full'):
                process = run(["bash", "-c", shell, "bash", LUQTRAIN, *words], self.folder)
                self.assert_exit(process, 1)
                self.assertIn("standard output cannot be written", process.stderr)

    def test_a_descriptor_that_does_not_wait(self):
        """A pipe that is full, and is read late."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        while fill(writer):
            pass
        with subprocess.Popen([LUQTRAIN, "doctor"], stdout=writer, stderr=subprocess.PIPE, text=True) as process:
            os.close(writer)
            time.sleep(0.5)
            with os.fdopen(reader) as file:
                text = file.read().lstrip("x")
            error = process.stderr.read()
        self.assertEqual((process.returncode, error), (0, ""))
        self.assertEqual(text, run([LUQTRAIN, "doctor"], self.folder).stdout)


def fill(descriptor):
    try:
        return os.write(descriptor, b"x" * 4096)
    except BlockingIOError:
        return 0


class Terminals(Case):
    def show(self, environment, *flags, columns=80):
        """What a training of two epochs writes to a terminal."""
        master, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        output = bytearray()
        variables = {key: value for key, value in os.environ.items() if key not in ("TERM", "NO_COLOR")}
        with subprocess.Popen(arguments(LUQ_CONFIG, *flags, train__epochs=2), cwd=self.folder, stdin=terminal,
                              stdout=terminal, stderr=terminal, env={**variables, **environment}) as process:
            os.close(terminal)
            while True:
                try:
                    output += os.read(master, 65536)
                except OSError:
                    break
        os.close(master)
        self.assertEqual(process.returncode, 0)
        shutil.rmtree(self.folder / "run")
        return output.decode().replace("\r\n", "\n")

    def test_the_progress_line(self):
        for columns in (80, 1, 0):
            with self.subTest(columns=columns):
                text = self.show({"TERM": "xterm"}, columns=columns)
                drawn = re.findall(r"\r(\[[^\n]*?)\x1b\[K", text)
                self.assertTrue(columns == 1 or drawn)
                self.assertLess(max(map(len, drawn), default=0), columns or 80)
                self.assertNotIn("step 5/26", text)
                self.assertIn("finished after step 26", text)
                self.assertEqual(set(re.findall(r"\x1b\[[0-9;]*[A-Za-z]", text)), {"\x1b[K"})  # no colours

    def test_terminals_that_cannot_redraw(self):
        for environment in ({"TERM": "dumb"}, {}):
            text = self.show(environment)
            self.assertNotIn("\x1b", text)
            self.assertNotIn("\r", text)
            self.assertIn("step 5/26", text)

    def test_debugging(self):
        process = run(arguments(LUQ_CONFIG, "--log-level", "debug", train__max_steps=2), self.folder)
        self.assert_exit(process, 0)
        for text in (process.stdout, (self.folder / "run/log.txt").read_text()):
            self.assertRegex(text, r"step 2: saved in [0-9.]+ s")
            self.assertRegex(text, r"process  [0-9]+; .* it has [0-9]+ \(")

    def test_levels(self):
        text = self.show({"TERM": "xterm"}, "--log-level", "warning")
        self.assertRegex(text, r"\ATest top-1 .*\nThe run is in run.*\nNext: .*\n\Z")


class Levels(Case):
    def test_every_command_takes_a_level_before_or_behind_it(self):
        for words, code, text in ((["eval", "--checkpoint", "none", "--log-level", "warning"], 2, "luqtrain: error: [safetensors] none"),
                                  (["--log-level", "off", "eval", "--checkpoint", "none"], 2, None),
                                  (["kernels", "--log-level", "off"], 0, None),
                                  (["doctor", "--log-level", "loud"], 2, "loud not in {debug,info,warning,error,off}")):
            process = run([LUQTRAIN, *words], self.folder)
            self.assert_exit(process, code)
            if text is None:
                self.assertEqual(process.stderr, "")
            else:
                self.assertIn(text, process.stderr)


class Threads(Case):
    def doctor(self, threads=None, **options):
        """The number, what it is from, and what was said on standard error."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
        if threads is not None:
            environment["OMP_NUM_THREADS"] = threads
        process = run([LUQTRAIN, "doctor"], self.folder, env=environment, **options)
        self.assert_exit(process, 0)
        number, reason = re.search(r"(?m)^threads +(\d+) \((.*)\)$", process.stdout).groups()
        return int(number), reason, process.stderr

    def test_what_the_number_is_from(self):
        for text, number in (("3", 3), ("5,2", 5), (" 4 ", 4), ("1", 1)):
            self.assertEqual(self.doctor(text), (number, "OMP_NUM_THREADS", ""))
        plain, reason, error = self.doctor()
        self.assertLessEqual(plain, len(os.sched_getaffinity(0)))
        self.assertEqual(error, "")
        for text in ("", "none", "0", "-1", "4x", "2;3", "3,", "1e9"):
            number, why, error = self.doctor(text)
            self.assertEqual((number, why), (plain, reason))
            self.assertEqual(error.count(f"luqtrain: warning: OMP_NUM_THREADS: expected a number of threads, 1 or more, or a "
                                         f"list of them, got '{text}'; it is not used\n"), 1, error)
        # Of one processor; OMP_NUM_THREADS wins over it.
        processor = min(os.sched_getaffinity(0))
        alone = {"preexec_fn": lambda: os.sched_setaffinity(0, {processor})}
        self.assertEqual(self.doctor(**alone)[0], 1)
        self.assertEqual(self.doctor("2", **alone)[0], 2)

    def test_a_run_has_that_number_and_the_same_bits(self):
        checkpoints = set()
        for key, variable, number in ((0, "3", 3), (2, "3", 2), (0, "1", 1)):
            process = run(arguments(LUQ_CONFIG, train__max_steps=8, threads=key), self.folder,
                          env={**os.environ, "OMP_NUM_THREADS": variable})
            self.assert_exit(process, 0)
            self.assertIn(f"; {number} thread{'s' if number > 1 else ''}\n", process.stdout)
            checkpoints.add(tuple(sorted(Checkpoint(self.last(self.folder)).tensors.items())))
            shutil.rmtree(self.folder / "run")
        self.assertEqual(len(checkpoints), 1)

    def test_luqbench(self):
        process = run([LUQBENCH, "kernels", "--mebibytes", "1", "--repeats", "1"], self.folder,
                      env={**os.environ, "OMP_NUM_THREADS": "3"})
        self.assert_exit(process, 0)
        self.assertIn("3 threads", process.stdout)


class Scripts(Case):
    @unittest.skipIf(shutil.which("bash") is None, "needs bash")
    def test_quickstart_that_is_stopped_does_not_evaluate(self):
        """With programs that stand in for the tools and for luqtrain, which ends as Ctrl-C makes it."""
        shutil.copytree(SOURCE / "tools", self.folder / "tools")
        programs = self.subfolder("programs")
        self.subfolder("build")
        for path, text in ((programs / "cmake", "true"), (programs / "dpkg-query", "echo 'install ok installed'"),
                           (self.folder / "build/luqtrain", 'echo "luqtrain $1"; exit ${CODE}')):
            path.write_text("#!/bin/sh\n" + text + "\n")
            path.chmod(0o755)
        for code, ends in ((130, "told to stop"), (1, "")):
            environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "CODE": str(code)}
            process = run(["bash", "tools/quickstart.sh", "--epochs", "2"], self.folder, env=environment)
            self.assert_exit(process, code)
            self.assertIn("luqtrain --config", process.stdout)
            self.assertNotIn("Evaluate", process.stdout)
            self.assertEqual("tools/quickstart.sh --epochs 2" in process.stdout, code == 130)
            self.assertIn(ends, process.stdout)


if __name__ == "__main__":
    main()
