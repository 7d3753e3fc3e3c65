"""tools/quickstart.sh's and tools/test.sh's look at the system's packages, on systems that are made up of stand-ins."""
import os
import shutil

from harness import Case, SOURCE, main, run

TOOLS = ("bash", "cat", "chmod", "dirname", "grep", "id", "mkdir", "nproc", "sed", "tr")
# What a stand-in is called with is written to the file calls, beside it.
CMAKE = '#!/bin/sh\necho "cmake $*" >>"$CALLS"\nif [ "$1" = --build ]; then exit 3; fi\n'
DPKG_QUERY = '#!/bin/sh\nfor package; do :; done\ngrep -qxF "$package" "$INSTALLED" && printf "install ok installed"\n'
# What follows the candidate is more than a pipe holds, so that one who stops reading there is noticed.
APT_CACHE = ('#!/bin/sh\necho "$2:"\nif grep -qxF "$2" "$OFFERED"; then echo "  Candidate: 1.0"; else echo "  Candidate: (none)"; fi\n'
             'printf "%0100000d\\n" 0\n')
APT_GET = '#!/bin/sh\necho "apt-get $*" >>"$CALLS"\nif [ "$1" = install ]; then for p; do echo "$p" >>"$INSTALLED"; done; fi\n'
OPTIONAL = ["clang", "libclang-rt-dev", "clang-format-14"]


class Prepare(Case):
    def setUp(self):
        super().setUp()
        for name in ("quickstart.sh", "test.sh", "packages.sh"):
            (self.folder / "tools").mkdir(exist_ok=True)
            shutil.copy(SOURCE / "tools" / name, self.folder / "tools")
        self.bin = self.folder / "bin"
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        for name in ("calls", "installed", "offered"):
            (self.folder / name).touch()
        self.stand_in("cmake", CMAKE)
        self.stand_in("sudo", '#!/bin/sh\nexec "$@"\n')
        (self.bin / "env").symlink_to(shutil.which("env"))
        listed = run(["bash", "-c", "source tools/packages.sh; luq_packages build test"], self.folder)
        self.packages = listed.stdout.split()
        self.assertGreater(len(self.packages), 15)

    def stand_in(self, name, text):
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def apt(self, offered):
        self.stand_in("dpkg-query", DPKG_QUERY)
        self.stand_in("apt-cache", APT_CACHE)
        self.stand_in("apt-get", APT_GET)
        (self.folder / "offered").write_text("\n".join(self.packages + offered) + "\n")

    def command(self, name, *flags):
        names = {key: str(self.folder / key.lower()) for key in ("CALLS", "INSTALLED", "OFFERED")}
        return run([self.folder / "tools" / name, *flags], self.folder, env={**os.environ, **names, "PATH": str(self.bin)})

    def calls(self):
        return (self.folder / "calls").read_text()

    def test_no_apt(self):
        """The list is printed; --no-install goes on to build."""
        process = self.command("quickstart.sh")
        self.assert_exit(process, 1)
        self.assertIn("This system has no apt.", process.stdout)
        self.assertRegex(process.stdout, r"(?m)^  libdnnl-dev +>= 2\.6 +oneDNN")
        self.assertNotIn("catch2", process.stdout)
        self.assertIn("tools/quickstart.sh --no-install", process.stderr)
        self.assertEqual(self.calls(), "")

        process = self.command("test.sh")
        self.assertRegex(process.stdout, r"(?m)^  catch2 +>= 2\.13 ")
        self.assertIn("tools/test.sh --no-install", process.stderr)

        process = self.command("quickstart.sh", "--no-install")
        self.assert_exit(process, 3)  # the stand-in's: the build was begun
        self.assertRegex(process.stdout, r"(?m)^  libdnnl-dev ")
        self.assertIn("cmake --build build", self.calls())

    def test_everything_is_installed(self):
        self.apt(OPTIONAL)
        self.assert_exit(self.command("test.sh"), 3)
        self.assertEqual((self.folder / "installed").read_text().split()[-len(self.packages + OPTIONAL):],
                         self.packages + OPTIONAL)
        process = self.command("test.sh")
        self.assertIn("all there", process.stdout)
        self.assertNotIn("skipped", process.stdout)
        self.assertEqual(self.calls().count("apt-get install"), 1)

    def test_system_without_clang_format_14(self):
        """What the system has not is said, and neither asked for nor missed."""
        self.apt(OPTIONAL[:2])
        process = self.command("test.sh")
        self.assert_exit(process, 3)
        self.assertIn("the tests that want them are skipped: clang-format-14", process.stdout)
        self.assertNotIn("clang-format-14", self.calls())
        process = self.command("test.sh", "--no-install")
        self.assertIn("all there", process.stdout)
        self.assertIn("the tests that want them are skipped: clang-format-14", process.stdout)

    def test_no_install(self):
        self.apt(OPTIONAL)
        (self.folder / "installed").write_text("\n".join(self.packages[:-2]) + "\n")
        process = self.command("test.sh", "--no-install")
        self.assert_exit(process, 1)
        self.assertIn("apt-get install --no-install-recommends " + " ".join(self.packages[-2:] + OPTIONAL), process.stderr)
        self.assertEqual(self.calls(), "")


if __name__ == "__main__":
    main()
