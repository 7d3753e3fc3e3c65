"""Training on image files: folders of classes, packed shards, broken images, validate-data and pack."""
import io
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import tarfile
import time
import unittest

from harness import LUQTRAIN, SOURCE, Case, default_signals, main, metrics, run

IMAGES = SOURCE / "tests/golden/images"
FORMATS = SOURCE / "tests/golden/formats"
SOUND = ["420.jpg", "422.jpg", "grey.jpg", "rgb.jpg", "rgba.png", "palette.png", "progressive.jpg", "cmyk.jpg"]


class ImageFiles(Case):
    def make_folder(self):
        """Two classes of eight training images and three test images each."""
        data = self.folder / "data"
        for label, name in enumerate(("ant", "bee")):
            for split, count in (("train", 8), ("val", 3)):
                (data / split / name).mkdir(parents=True)
                for i in range(count):
                    source = IMAGES / SOUND[(i + 3 * label) % len(SOUND)]
                    shutil.copy(source, data / split / name / f"{i}{source.suffix}")
        return data

    def command(self, data, directory, *flags, **settings):
        keys = {"data.name": "image_folder", "data.path": data, "run.directory": directory, "model.name": "resnet20",
                "data.image_size": 16, "data.eval_resize": 16, "data.augment.horizontal_flip": "true",
                "data.augment.pad_crop": 0, "train.epochs": 2, "train.batch_size": 4, "train.log_every": 1,
                "eval.batch_size": 4, "threads": 2}
        keys.update({key.replace("__", "."): value for key, value in settings.items()})
        line = [LUQTRAIN, "--config", str(SOURCE / "configs/fashion_mnist/resnet20_luq.yaml"), *flags]
        for key, value in keys.items():
            line += ["--set", f"{key}={value}"]
        return line

    def train_files(self, data, directory, *flags, expect=0, **settings):
        process = run(self.command(data, directory, *flags, **settings), self.folder)
        self.assert_exit(process, expect)
        return process

    def break_image(self, data):
        path = data / "train/bee/2.png"
        sound = path.read_bytes()
        path.write_bytes(sound[:len(sound) // 2])
        return path, sound

    def test_folders_and_their_shards_train_alike(self):
        data = self.make_folder()
        self.train_files(data, "folders")
        process = run([LUQTRAIN, "pack", "--input", data, "--output", "shards", "--shard-size", "5"], self.folder)
        self.assert_exit(process, 0)
        self.assertIn("16 training images in 4 shards, 6 test images in 2 shards", process.stdout)
        self.train_files("shards", "shards_run", data__name="webdataset", data__workers=3)
        self.assert_same_tensors(self.folder / "folders/checkpoints/last.safetensors",
                                 self.folder / "shards_run/checkpoints/last.safetensors")
        self.assertNotIn("broken_images", metrics(self.folder / "folders")[0])
        self.assertEqual(run([LUQTRAIN, "validate-data", "--path", "shards"], self.folder).returncode, 0)

    def test_a_broken_image_stops_the_run_which_goes_on_when_it_is_repaired(self):
        data = self.make_folder()
        self.train_files(data, "whole")
        path, sound = self.break_image(data)
        process = self.train_files(data, "run", expect=1)
        self.assertIn(str(path), process.stderr)
        self.assertIn("data.broken_images", process.stderr)
        self.assertIn("is saved, and --resume goes on from there", process.stderr)
        path.write_bytes(sound)
        self.train_files(data, "run", "--resume", data__workers=3, data__prefetch=2)
        self.assert_same_tensors(self.folder / "whole/checkpoints/last.safetensors",
                                 self.folder / "run/checkpoints/last.safetensors")

    def test_other_data_of_as_many_steps_is_refused(self):
        data = self.make_folder()
        self.train_files(data, "run", train__max_steps=3)
        renamed, larger = self.folder / "renamed", self.folder / "larger"
        shutil.copytree(data, renamed)
        for split in ("train", "val"):
            (renamed / split / "ant").rename(renamed / split / "zebra")
        shutil.copytree(data, larger)
        shutil.copy(data / "train/ant/0.jpg", larger / "train/ant/more.jpg")
        for other, words in ((renamed, "class 0 was 'ant' and is 'bee'"), (larger, "had 16 training images and has 17")):
            process = self.train_files(other, "run", "--resume", expect=2)
            self.assertIn(words, process.stderr)
        process = run([LUQTRAIN, "eval", "--checkpoint", "run/checkpoints/last.safetensors", "--data", renamed],
                      self.folder)
        self.assert_exit(process, 2)
        self.assertIn("class 0 was 'ant' and is 'bee'", process.stderr)
        self.train_files(data, "run", "--resume")

    def test_broken_images_are_counted_and_named_once(self):
        data = self.make_folder()
        path, _ = self.break_image(data)
        shutil.copy(path, data / "val/ant/1.jpg")
        for policy in ("skip", "substitute"):
            process = self.train_files(data, policy, data__broken_images=policy)
            lines = metrics(self.folder / policy)
            self.assertEqual(sum(line["broken_images"] for line in lines if line["kind"] == "train"), 2)
            self.assertEqual([line["broken_images"] for line in lines if line["kind"] == "eval"], [1, 1])
            log = (self.folder / policy / "log.txt").read_text()
            self.assertEqual(log.count(str(path)), 1, log)
            self.assertEqual(log.count("1 broken images left out"), 2, log)
            self.assertIn("(5 images)", process.stdout + process.stderr + log)
        again = self.train_files(data, "again", data__broken_images="substitute", data__workers=4)
        self.assertEqual(again.returncode, 0)
        self.assert_same_tensors(self.folder / "substitute/checkpoints/last.safetensors",
                                 self.folder / "again/checkpoints/last.safetensors")
        process = run([LUQTRAIN, "eval", "--checkpoint", "skip/checkpoints/last.safetensors"], self.folder)
        self.assert_exit(process, 0)
        self.assertIn("1 of 6 test images are broken and left out", process.stderr)

    def test_validate_data(self):
        data = self.make_folder()
        process = run([LUQTRAIN, "validate-data", "--path", data, "--workers", "2"], self.folder)
        self.assert_exit(process, 0)
        self.assertEqual(process.stdout, "16 training and 6 test images, 0 broken\n")
        self.assertIn("test images are training images too", process.stderr)
        path, _ = self.break_image(data)
        (data / "train/ant/dangling.jpg").symlink_to("nowhere")
        (data / "train/ant/two\nlines.jpg").write_bytes(b"no image")
        (data / "val/ant/readme.txt").write_text("text")
        process = run([LUQTRAIN, "validate-data", *self.command(data, "run")[1:3],
                       "--set", "data.name=image_folder", "--set", f"data.path={data}"], self.folder)
        self.assert_exit(process, 1)
        lines = process.stdout.splitlines()
        broken = [str(path), f"{data}/train/ant/dangling.jpg", f"{data}/train/ant/two\\nlines.jpg"]
        self.assertEqual(sorted(line.split(": ")[0] for line in lines[:-1]), sorted(broken))
        self.assertEqual(lines[-1], "18 training and 6 test images, 3 broken")
        self.assertIn("readme.txt", process.stderr)
        for words in ([], ["--path", data, "--config", "resnet20_luq.yaml"], ["--path", "nowhere"]):
            self.assert_exit(run([LUQTRAIN, "validate-data", *words], self.folder), 2)

    def test_a_picture_is_the_same_in_every_format(self):
        checkpoints = []
        for number, files in enumerate((["rgb.bmp"], ["rgb_lzw.tif"], ["lossless.webp"], ["rgb_strips_contig.tif", "deflate.tif", "animation.webp"])):
            data = self.folder / f"data{number}"
            for split in ("train", "val"):
                for name in ("ant", "bee"):
                    (data / split / name).mkdir(parents=True)
                    for j in range(4):
                        source = FORMATS / files[j % len(files)]
                        shutil.copy(source, data / split / name / f"{j}{source.suffix}")
            process = self.train_files(data, f"run{number}", train__epochs=1)
            self.assertIn("8 training and 8 test images", process.stdout)
            self.assertNotIn("warning", process.stdout + process.stderr)
            checkpoints.append(self.folder / f"run{number}/checkpoints/last.safetensors")
        for other in checkpoints[1:]:
            self.assert_same_tensors(checkpoints[0], other)

    def test_every_format_is_read_in_folders_shards_and_predict(self):
        names = ["32.bmp", "palette.gif", "p6_255.ppm", "p2_65535.pgm", "p4.pbm", "rgba.tif", "grey16.tif", "alpha.webp"]
        data = self.folder / "data"
        for split in ("train", "val"):
            for name in ("ant", "bee"):
                (data / split / name).mkdir(parents=True)
                for file in names:
                    shutil.copy(FORMATS / file, data / split / name)
        shutil.copytree(data / "train", self.folder / "flat/train")
        (self.folder / "flat/val").mkdir()
        for file in names:
            shutil.copy(FORMATS / file, self.folder / "flat/val")
        (self.folder / "flat/val/val.txt").write_text("".join(f"{file} bee\n" for file in names))
        self.train_files(data, "folders", train__epochs=1)
        self.assert_exit(run([LUQTRAIN, "pack", "--input", data, "--output", "shards"], self.folder), 0)
        with tarfile.open(self.folder / "shards/train-000000.tar") as shard:
            extensions = {name.split(".")[1] for name in shard.getnames()}
        self.assertEqual(extensions, {"bmp", "gif", "pnm", "tif", "webp", "cls"})
        self.train_files("shards", "shards_run", data__name="webdataset", train__epochs=1)
        last = self.folder / "folders/checkpoints/last.safetensors"
        self.assert_same_tensors(last, self.folder / "shards_run/checkpoints/last.safetensors")
        for folder, test_images in ((data, 16), ("shards", 16), ("flat", 8)):
            process = run([LUQTRAIN, "validate-data", "--path", folder], self.folder)
            self.assert_exit(process, 0)
            self.assertIn(f"16 training and {test_images} test images, 0 broken", process.stdout)
        process = run([LUQTRAIN, "eval", "--checkpoint", last, "--data", "flat"], self.folder)
        self.assert_exit(process, 0)
        process = run([LUQTRAIN, "predict", "--checkpoint", last, *(FORMATS / name for name in names)], self.folder)
        self.assert_exit(process, 0)
        by_folder = run([LUQTRAIN, "predict", "--checkpoint", last, "--images", data / "val/ant"], self.folder)
        self.assert_exit(by_folder, 0)
        self.assertEqual(by_folder.stdout.count(str(data)), len(names))

        # Without the module that reads them the reason is said, and no image is called broken.
        shutil.copy(LUQTRAIN, self.folder / "alone")
        process = run([self.folder / "alone", "predict", "--checkpoint", last, FORMATS / "32.bmp"], self.folder)
        if process.returncode != 0:  # an installed module may be there
            self.assert_exit(process, 2)
            self.assertIn("luq_opencv.so", process.stderr)
            process = run([self.folder / "alone", "validate-data", "--path", data], self.folder)
            self.assert_exit(process, 2)
            self.assertNotIn("broken", process.stdout)

    def test_broken_files_of_every_format(self):
        """Libraries that read them write nothing of their own to the terminal."""
        data = self.make_folder()
        broken = {}
        for name in ("rgb.bmp", "rle8.bmp", "palette.gif", "p6_255.ppm", "p3_255.ppm", "rgb.tif", "rgb_lzw.tif", "jpeg_420.tif",
                     "deflate.tif", "lossy.webp", "lossless.webp"):
            content = bytearray((FORMATS / name).read_bytes())
            path = data / "train/bee" / name
            path.write_bytes(content[:len(content) * 2 // 3])
            broken[str(path)] = name
        damaged = bytearray((FORMATS / "deflate.tif").read_bytes())
        damaged[len(damaged) // 2] ^= 0x55  # in its one strip
        (data / "train/bee/damaged.tif").write_bytes(damaged)
        broken[str(data / "train/bee/damaged.tif")] = "damaged.tif"
        shutil.copy(FORMATS / "float.tif", data / "train/bee")
        broken[str(data / "train/bee/float.tif")] = "float.tif"
        limits = {**os.environ, "OPENCV_IO_MAX_IMAGE_PIXELS": "10", "OPENCV_LOG_LEVEL": "DEBUG"}
        process = run([LUQTRAIN, "validate-data", "--path", data], self.folder, env=limits)
        self.assert_exit(process, 1)
        lines = process.stdout.splitlines()
        self.assertEqual(sorted(line.split(": ")[0] for line in lines[:-1]), sorted(broken))
        self.assertIn("signed or floating point", process.stdout)
        for line in process.stderr.splitlines():
            self.assertRegex(line, "^(luqtrain: warning: |  )")
        log = self.train_files(data, "run", data__broken_images="substitute", train__epochs=1, train__batch_size=16 + len(broken))
        for path in broken:
            self.assertEqual((log.stdout + log.stderr).count(path), 1, path)

    def test_what_is_not_used_is_said(self):
        data = self.make_folder()
        for path in ("train/ant/a.svg", "train/bee/b.svg", "train/bee/film.MP4", "train/bee/.DS_Store", "train/._ant", "val/ant/._1.jpg",
                     "val/stray.jpg"):
            (data / path).write_text("text")
        (data / "train/__MACOSX/ant").mkdir(parents=True)
        text = ("8 files are not used: 1 .DS_Store, 1 ._*, 1 ._* beside the folders of classes, 1 .jpg beside the folders of classes, "
                "1 .mp4, 2 .svg, 1 folder __MACOSX")
        warning = f"warning: {text}; luqtrain validate-data lists them"
        process = self.train_files(data, "run", train__epochs=1)
        self.assertEqual((process.stdout + process.stderr).count(warning), 1, process.stdout + process.stderr)
        self.assertEqual((self.folder / "run/log.txt").read_text().count(warning), 1)
        process = run([LUQTRAIN, "validate-data", "--path", data], self.folder)
        self.assert_exit(process, 0)
        self.assertIn(f"warning: {text}\n", process.stderr)
        for path in ("train/ant/a.svg", "train/bee/b.svg", "train/bee/film.MP4", "train/bee/.DS_Store", "train/._ant", "val/ant/._1.jpg",
                     "val/stray.jpg", "train/__MACOSX"):
            self.assertIn(f"\n  {data}/{path}\n", process.stderr + "\n")
        process = run([LUQTRAIN, "pack", "--input", data, "--output", "shards"], self.folder)
        self.assert_exit(process, 0)
        self.assertIn(warning, process.stderr)
        last = self.folder / "run/checkpoints/last.safetensors"
        process = run([LUQTRAIN, "eval", "--checkpoint", last], self.folder)
        self.assert_exit(process, 0)
        self.assertIn("warning: 2 files are not used: 1 ._*, 1 .jpg beside the folders of classes", process.stderr)
        process = run([LUQTRAIN, "predict", "--checkpoint", last, "--images", data / "train/bee"], self.folder)
        self.assert_exit(process, 0)
        self.assertIn("warning: --images: 3 files are not used: 1 .DS_Store, 1 .mp4, 1 .svg\n", process.stderr)

    def test_shards_as_macos_makes_them(self):
        """F07: every member comes with an AppleDouble one before it."""
        for split, count in (("train", 8), ("val", 4)):
            (self.folder / "shards").mkdir(exist_ok=True)
            with tarfile.open(self.folder / f"shards/{split}-0.tar", "w", format=tarfile.PAX_FORMAT) as shard:
                for i in range(count):
                    for name, content in ((f"{i:06}.cls", str(i % 3).encode()), (f"{i:06}.jpg", (IMAGES / SOUND[i % 4]).read_bytes())):
                        for member, data in (("._" + name, b"\0\5\26\7"), (name, content)):
                            info = tarfile.TarInfo(member)
                            info.size = len(data)
                            info.pax_headers = {"LIBARCHIVE.xattr.com.apple.quarantine": "MDA4MQ"}
                            shard.addfile(info, io.BytesIO(data))
        process = self.train_files("shards", "run", data__name="webdataset", train__epochs=1)
        self.assertIn("8 training and 4 test images", process.stdout)
        self.assertIn("warning: 24 files are not used: 24 ._*; luqtrain validate-data lists them", process.stdout)
        process = run([LUQTRAIN, "validate-data", "--path", "shards"], self.folder)
        self.assert_exit(process, 0)
        self.assertIn("shards/train-0.tar:._000000.cls", process.stderr)
        # A digit of a label in the index.
        index = self.folder / "shards/train-0.tar.index.json"
        sound = index.read_text()
        index.write_text(sound.replace('"labels":[0,1,', '"labels":[0,2,'))
        self.assertNotEqual(index.read_text(), sound)
        again = self.train_files("shards", "again", data__name="webdataset", train__epochs=1)
        self.assertIn("train-0.tar.index.json was damaged (its checksum does not fit); it is made anew from the shard", again.stdout)
        self.assertEqual(index.read_text(), sound)
        self.assert_same_tensors(self.folder / "run/checkpoints/last.safetensors", self.folder / "again/checkpoints/last.safetensors")

    def test_pack_when_the_disk_is_full(self):
        data = self.make_folder()
        (data / "train/ant/large.jpg").write_bytes(bytes(300000))
        process = run([LUQTRAIN, "pack", "--input", data, "--output", "shards"], self.folder,
                      preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200000, 200000)))
        self.assertNotEqual(process.returncode, 0)
        self.assertFalse((self.folder / "shards").exists())
        process = run([LUQTRAIN, "pack", "--input", data, "--output", "one/two/shards", "--shuffle", "3"], self.folder)
        self.assert_exit(process, 0)
        index = json.loads((self.folder / "one/two/shards/train-000000.tar.index.json").read_text())
        self.assertEqual(len(index["labels"]), 17)
        self.assertEqual(pathlib.Path(self.folder / "one/two/shards/classes.txt").read_text(), "ant\nbee\n")
        self.assert_exit(run([LUQTRAIN, "pack", "--input", data, "--output", "one/two/shards"], self.folder), 2)
        for number in ("-1", "18446744073709551616"):
            process = run([LUQTRAIN, "pack", "--input", data, "--output", "out", "--shuffle", number], self.folder)
            self.assert_exit(process, 2)
            self.assertIn("--shuffle", process.stderr)

    def test_pack_that_is_stopped_leaves_nothing(self):
        data = self.make_folder()
        for number in range(40):
            (data / f"train/ant/large{number}.jpg").write_bytes(bytes(1 << 22))
        with subprocess.Popen([LUQTRAIN, "pack", "--input", data, "--output", "shards"], cwd=self.folder,
                              stderr=subprocess.PIPE, text=True, preexec_fn=default_signals) as process:
            while not (self.folder / "shards.partial").exists() and process.poll() is None:
                time.sleep(0.001)
            for _ in range(2):  # as a terminal and `timeout` do
                process.send_signal(signal.SIGINT)
                time.sleep(0.005)
            error = process.communicate(timeout=100)[1]
        self.assertEqual(process.returncode, 128 + signal.SIGINT, error)
        self.assertIn("stopped by SIGINT", error)
        self.assertEqual([path.name for path in self.folder.glob("shards*")], [])

    @unittest.skipIf(shutil.which("bash") is None, "needs bash")
    def test_the_preparing_scripts_refuse_other_folders(self):
        for script in ("prepare_elpv.sh", "prepare_photos.sh"):
            for words, code, text in ((["--help"], 0, "usage: tools/" + script), (["--fast"], 2, "unknown option"),
                                      ([str(self.folder)], 2, "is not what this script makes")):
                process = run(["bash", SOURCE / "tools" / script, *words], self.folder)
                self.assert_exit(process, code)
                self.assertIn(text, process.stdout + process.stderr)


if __name__ == "__main__":
    main()
