"""Outputs go where they are sent: files are replaced whole, links are followed, devices and pipes are written into."""
import json
import os
import pathlib
import shutil
import socket
import stat
import struct
import subprocess
import threading

from harness import Case, LUQTRAIN, main, write_png


def write_weights(path):
    """A safetensors file with one tensor of 64 values."""
    values = [((7 * i) % 23 - 11) / 8 for i in range(64)]
    header = json.dumps({"w": {"dtype": "F32", "shape": [64], "data_offsets": [0, 256]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<64f", *values))


class Outputs(Case):
    def setUp(self):
        super().setUp()
        write_weights(self.folder / "w.safetensors")
        self.quantize("whole.safetensors")
        self.whole = (self.folder / "whole.safetensors").read_bytes()

    def quantize(self, output, code=0, **options):
        """Writes `output`; the finished process with bytes as its output."""
        options.setdefault("stdout", subprocess.PIPE)
        process = subprocess.run([LUQTRAIN, "quantize", "--input", "w.safetensors", "--format", "int4_sawb", "--output",
                                  str(output)], cwd=self.folder, stderr=subprocess.PIPE, timeout=60, check=False,
                                 **options)
        self.assertEqual(process.returncode, code, process.stderr)
        return process

    def assert_written(self, name):
        self.assertEqual((self.folder / name).read_bytes(), self.whole)

    def assert_nothing_left(self):
        self.assertEqual([name for name in os.listdir(self.folder) if "tmp" in name], [])

    def test_a_link_stays_and_its_target_is_replaced(self):
        deep = self.subfolder("deep")
        (deep / "target").write_text("old")
        (deep / "target").chmod(0o640)
        (self.folder / "second").symlink_to("deep/target")
        (self.folder / "link").symlink_to("second")
        self.quantize("link")
        self.assertEqual(os.readlink(self.folder / "link"), "second")
        self.assertEqual(os.readlink(self.folder / "second"), "deep/target")
        self.assert_written("deep/target")
        self.assertFalse((deep / "target").is_symlink())
        self.assertEqual(stat.S_IMODE((deep / "target").stat().st_mode), 0o640)
        # Nothing is there yet.
        (self.folder / "dangling").symlink_to("deep/new")
        self.quantize("dangling")
        self.assertEqual(os.readlink(self.folder / "dangling"), "deep/new")
        self.assert_written("deep/new")
        (self.folder / "loop").symlink_to("loop")
        self.assertIn(b"symbolic links", self.quantize("loop", code=1).stderr)
        (self.folder / "nowhere").symlink_to("no/such")
        self.assertIn(b"nowhere: cannot be written: No such file or directory", self.quantize("nowhere", code=1).stderr)
        (self.folder / "to_folder").symlink_to("deep")
        self.assertIn(b"got a folder", self.quantize("to_folder", code=2).stderr)

    def test_permissions_and_names(self):
        (self.folder / "out").write_text("old")
        (self.folder / "out").chmod(0o604)
        os.link(self.folder / "out", self.folder / "other_name")
        if os.geteuid() == 0:
            os.chown(self.folder / "out", 12345, 23456)
        self.quantize("out")
        self.assert_written("out")
        status = (self.folder / "out").stat()
        self.assertEqual(stat.S_IMODE(status.st_mode), 0o604)
        if os.geteuid() == 0:
            self.assertEqual((status.st_uid, status.st_gid), (12345, 23456))
        self.assertEqual((self.folder / "other_name").read_text(), "old")
        name = "n" * 255
        self.quantize(name)
        self.quantize(name)
        self.assert_written(name)
        self.assertIn(b"File name too long", self.quantize("n" * 256, code=1).stderr)
        # A file of somebody else with the name of a temporary one stays.
        self.subfolder("out.luqtmp")
        (self.folder / "out.luqtmp1").symlink_to("whole.safetensors")
        self.quantize("out")
        self.assertTrue((self.folder / "out.luqtmp").is_dir())
        self.assertTrue((self.folder / "out.luqtmp1").is_symlink())
        # One that a killed process left goes.
        (self.folder / "new.luqtmp").write_text("half")
        self.quantize("new")
        self.assert_written("new")
        self.assertFalse((self.folder / "new.luqtmp").exists())

    def test_a_pipe_is_written_into(self):
        os.mkfifo(self.folder / "pipe")
        (self.folder / "link").symlink_to("pipe")
        for name in ("pipe", "link"):
            read = []
            reader = threading.Thread(target=lambda: read.append((self.folder / "pipe").read_bytes()))
            reader.start()
            self.quantize(name)
            reader.join(60)
            self.assertEqual(read, [self.whole])
            self.assertTrue(stat.S_ISFIFO((self.folder / "pipe").lstat().st_mode))
        self.assertIn(b"nobody has opened this pipe", self.quantize("pipe", code=1).stderr)
        self.assertTrue(stat.S_ISFIFO((self.folder / "pipe").lstat().st_mode))
        self.assert_nothing_left()

    def device(self, name, minor):
        """A device of the test's own: a program that replaces it harms nothing. Who may make none may not replace the
        system's either."""
        path = self.folder / name
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, minor))
        except PermissionError:
            return pathlib.Path("/dev") / name
        return path

    def test_a_device_is_written_into(self):
        full, null = self.device("full", 7), self.device("null", 3)
        self.assertIn(f"{full}: cannot be written: No space left on device".encode(), self.quantize(str(full), 1).stderr)
        (self.folder / "link").symlink_to(null)
        self.quantize("link")
        self.assertEqual(os.readlink(self.folder / "link"), str(null))
        self.quantize(str(null))
        for path in (full, null):
            self.assertTrue(stat.S_ISCHR(os.lstat(path).st_mode))
            self.assertFalse(os.path.exists(f"{path}.luqtmp"))

    def test_standard_output(self):
        # Before the system's own name for it: what would replace a link replaces this one.
        (self.folder / "stdout").symlink_to("/proc/self/fd/1")
        self.assertEqual(self.quantize("stdout").stdout, self.whole)
        self.assertTrue((self.folder / "stdout").is_symlink())
        for name in ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
            with self.subTest(name=name):
                process = self.quantize(name)
                self.assertEqual(process.stdout, self.whole)
                self.assertIn(b"SQNR", process.stderr)  # what is said otherwise on standard output
                # A file that was opened by somebody else is gone on with, not replaced.
                with open(self.folder / "all", "wb") as out:
                    out.write(b"before ")
                    out.flush()
                    inode = os.fstat(out.fileno()).st_ino
                    self.quantize(name, stdout=out)
                    out.write(b" after")
                self.assertEqual((self.folder / "all").read_bytes(), b"before " + self.whole + b" after")
                self.assertEqual((self.folder / "all").stat().st_ino, inode)
        (self.folder / "./-").write_text("old")
        self.quantize("./-")
        self.assert_written("-")

    def test_descriptors(self):
        with open(self.folder / "seven", "wb") as out:
            self.quantize(f"/dev/fd/{out.fileno()}", pass_fds=[out.fileno()])
        self.assert_written("seven")
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self.quantize(f"/proc/self/fd/{theirs.fileno()}", pass_fds=[theirs.fileno()])
            theirs.close()
            with ours.makefile("rb") as read:
                self.assertEqual(read.read(), self.whole)
        with open(self.folder / "seven", "rb") as reading:
            error = self.quantize(f"/dev/fd/{reading.fileno()}", code=1, pass_fds=[reading.fileno()]).stderr
            self.assertIn(b"Bad file descriptor", error)
        self.assert_written("seven")
        self.quantize("/dev/fd/77", code=1)

    def test_a_pipe_that_closes_is_an_error_with_a_reason(self):
        for name in ("-", "/dev/stdout"):
            read, write = os.pipe()
            os.close(read)
            with open(write, "wb") as out:
                self.assertIn(b"cannot be written: Broken pipe", self.quantize(name, code=1, stdout=out).stderr)

    def test_folders_and_missing_folders(self):
        self.subfolder("folder")
        for name in ("folder", "folder/", "new/", "/", "."):
            self.assertIn(b"got a folder", self.quantize(name, code=2).stderr)
        for name in ("missing/out", "w.safetensors/out"):
            self.assertIn(b"is no folder", self.quantize(name, code=1).stderr)
        self.quantize("", code=2)
        self.assert_nothing_left()

    def test_the_input_by_any_name(self):
        os.link(self.folder / "w.safetensors", self.folder / "hard")
        (self.folder / "soft").symlink_to("w.safetensors")
        before = (self.folder / "w.safetensors").read_bytes()
        for name in ("w.safetensors", "./w.safetensors", "hard", "soft"):
            self.assertIn(b"expected another file than the input", self.quantize(name, code=2).stderr)
        with open(self.folder / "w.safetensors", "ab") as out:
            for name in ("-", "/dev/stdout"):
                self.assertIn(b"expected another file", self.quantize(name, code=2, stdout=out).stderr)
        self.assertEqual((self.folder / "w.safetensors").read_bytes(), before)

    def test_two_at_once(self):
        jobs = [subprocess.Popen([LUQTRAIN, "quantize", "--input", "w.safetensors", "--format", "int4_sawb", "--output",
                                  "both"], cwd=self.folder, stdout=subprocess.DEVNULL) for _ in range(6)]
        self.assertEqual([job.wait(60) for job in jobs], [0] * 6)
        self.assert_written("both")
        self.assert_nothing_left()

    def test_a_folder_that_takes_nothing_new(self):
        """As another user than root, whom nothing is refused."""
        closed = self.subfolder("closed")
        (closed / "out").write_text("x" * 100000)
        (closed / "protected").write_text("old")
        os.chmod(closed / "protected", 0o444)
        os.chmod(closed / "out", 0o666)
        os.chmod(self.folder, 0o755)
        os.chmod(closed, 0o555)
        options = {}
        if os.geteuid() == 0:
            # A copy: another user need not be able to go where the program lies.
            copy = shutil.copy(LUQTRAIN, self.folder / "luqtrain")
            options = {"user": 65534, "group": 65534, "extra_groups": [], "executable": str(copy)}
        try:
            self.quantize("closed/out", **options)
            self.assert_written("closed/out")
            self.assertIn(b"Permission denied", self.quantize("closed/new", code=1, **options).stderr)
            self.assertIn(b"Permission denied", self.quantize("closed/protected", code=1, **options).stderr)
            self.assertEqual((closed / "protected").read_text(), "old")
            os.chmod(closed, 0o777)
            self.quantize("closed/protected", code=1, **options)
            self.assertEqual((closed / "protected").read_text(), "old")
        finally:
            os.chmod(closed, 0o755)


class Commands(Case):
    """Every command that writes a file."""

    def test_export_predict_and_plot(self):
        self.train(self.folder, train__epochs=1)
        checkpoint = "run/checkpoints/last.safetensors"

        def words(*words):
            return subprocess.run([LUQTRAIN, *words], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  timeout=120, check=False)

        for form in ("safetensors", "onnx", "packed"):
            process = words("export", "--checkpoint", checkpoint, "--format", form, "--output", "file." + form)
            self.assert_exit(process, 0)
            piped = words("export", "--checkpoint", checkpoint, "--format", form, "--output", "-")
            self.assert_exit(piped, 0)
            self.assertEqual(piped.stdout, (self.folder / ("file." + form)).read_bytes())
            self.assertEqual(process.stdout.replace(b"file." + form.encode(), b"-"), piped.stderr)
            self.assert_exit(words("export", "--checkpoint", checkpoint, "--format", form, "--output", "/dev/null"), 0)
            self.assertTrue(stat.S_ISCHR(os.lstat("/dev/null").st_mode))
        write_png(self.folder / "a.png", 1)
        self.assert_exit(words("predict", "--checkpoint", checkpoint, "--logits", "l", "a.png"), 0)
        piped = words("predict", "--checkpoint", checkpoint, "--logits", "-", "a.png")
        self.assertEqual(piped.stdout, (self.folder / "l").read_bytes())
        self.assertIn(b"a.png\n", piped.stderr)
        (self.folder / "soft").symlink_to("a.png")
        self.assert_exit(words("predict", "--checkpoint", checkpoint, "--logits", "soft", "a.png"), 2)
        self.assert_exit(words("plot", "run"), 0)
        piped = words("plot", "run", "--output", "-")
        self.assertEqual(piped.stdout, (self.folder / "curves.svg").read_bytes())
        self.assert_exit(words("plot", "run", "--output", "/dev/null"), 0)
        (self.folder / "x.svg").symlink_to("run/metrics.jsonl")
        before = (self.folder / "run/metrics.jsonl").read_bytes()
        self.assert_exit(words("plot", "run", "--output", "x.svg"), 2)
        self.assertEqual((self.folder / "run/metrics.jsonl").read_bytes(), before)
        # A run whose files are links to another disk.
        data = self.subfolder("disk")
        (self.folder / "run/metrics.jsonl").rename(data / "metrics")
        (self.folder / "run/metrics.jsonl").symlink_to(data / "metrics")
        self.train(self.folder, "--resume", train__epochs=2)
        self.assertTrue((self.folder / "run/metrics.jsonl").is_symlink())
        self.assertGreater(len((data / "metrics").read_bytes()), len(before))


if __name__ == "__main__":
    main()
