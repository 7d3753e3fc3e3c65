#!/usr/bin/env bash
# Wallpapers cut into images of ImageNet's size: --set data.name=image_folder. See --help.
set -euo pipefail

usage() {
  cat <<'END'
usage: tools/prepare_photos.sh [OUTPUT]      (default data/photos; about 100 MB)

Fetches Debian's package plasma-workspace-wallpapers (94 MB; GPL-2+; it is unpacked, not installed), brings its 30 wallpapers,
photographs and drawings, to a width of 2560 and cuts them into colour images of 360x270 to 500x375:

  OUTPUT/train/<wallpaper>/NNN.JPEG   112 of each of the 30 classes
  OUTPUT/val/<wallpaper>/NNN.JPEG     20 of each

A wallpaper is divided into 5 x 4 cells, of which 4 are for tests; every image lies in one cell. So training and test images
share no pixel, while training images of one cell overlap. Where images lie is a function of the wallpaper's name alone.
As in ImageNet, some files are progressive JPEG, some are in CMYK, and some are PNG by another name. Needs python3 with venv, for
a virtual environment that is removed in the end, and apt-get and dpkg-deb.
END
}

case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  -*) echo "prepare_photos: unknown option '$1'" >&2; usage >&2; exit 2 ;;
esac
output=${1:-data/photos}
done_mark="plasma-workspace-wallpapers, 30 classes, 112 + 20 images, version 1"
if [[ -f $output/prepared.txt && $(<"$output/prepared.txt") == "$done_mark" ]]; then
  echo "$output is there already; delete it to make it anew"
  exit 0
fi
[[ ! -e $output ]] || { echo "prepare_photos: $output exists and is not what this script makes; give another folder" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work" "$output.partial"' EXIT
rm -rf "$output.partial"
mkdir -p "$output.partial"
echo "Fetching plasma-workspace-wallpapers (94 MB)"
chmod 755 "$work"
(cd "$work" && apt-get download -q -o APT::Sandbox::User=root plasma-workspace-wallpapers >/dev/null) || {
  echo "prepare_photos: apt-get cannot fetch plasma-workspace-wallpapers; run apt-get update first" >&2
  exit 1
}
dpkg-deb -x "$work"/plasma-workspace-wallpapers_*.deb "$work/package"
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'pillow>=9.4'

"$work/venv/bin/python" - "$work/package/usr/share/wallpapers" "$output.partial" <<'END'
import hashlib
import pathlib
import sys

from PIL import Image

COLUMNS, ROWS, TEST_CELLS = 5, 4, 4
PER_TRAIN_CELL, PER_TEST_CELL = 7, 5


def draw(count, *what):
    """A number in 0..count-1 that depends on `what` alone."""
    digest = hashlib.sha256(":".join(map(str, what)).encode()).digest()
    return int.from_bytes(digest[:8], "big") % count


def save(tile, path, number, training):
    if training and number % 50 == 11:
        tile.save(path, "PNG")
    elif training and number % 50 == 23:
        tile.convert("CMYK").save(path, "JPEG", quality=92)
    else:
        tile.save(path, "JPEG", quality=92, progressive=number % 16 == 5, subsampling=0 if number % 16 == 9 else 2)


wallpapers, output = map(pathlib.Path, sys.argv[1:])
names = sorted(path.name for path in wallpapers.iterdir() if (path / "contents/images").is_dir())
assert len(names) == 30, f"expected 30 wallpapers, got {len(names)}"
for name in names:
    files = [path for path in sorted((wallpapers / name / "contents/images").iterdir()) if not path.is_symlink()]
    with Image.open(max(files, key=lambda path: int(path.stem.split("x")[0]))) as image:
        image = image.convert("RGB")
    image = image.resize((2560, round(image.height * 2560 / image.width)), Image.Resampling.LANCZOS)
    width, height = image.width // COLUMNS, image.height // ROWS
    cells = sorted(range(COLUMNS * ROWS), key=lambda cell: draw(1 << 62, name, "cell", cell))
    numbers = {"train": 0, "val": 0}
    for rank, cell in enumerate(cells):
        split = "val" if rank < TEST_CELLS else "train"
        folder = output / split / name
        folder.mkdir(parents=True, exist_ok=True)
        widest = min(500, width, height * 4 // 3)
        for i in range(PER_TEST_CELL if split == "val" else PER_TRAIN_CELL):
            w = 360 + draw(widest - 360 + 1, name, cell, i, "width")
            h = w * 3 // 4
            x = cell % COLUMNS * width + draw(width - w + 1, name, cell, i, "x")
            y = cell // COLUMNS * height + draw(height - h + 1, name, cell, i, "y")
            number = numbers[split]
            numbers[split] += 1
            save(image.crop((x, y, x + w, y + h)), folder / f"{number:03}.JPEG", number, split == "train")
    print(f"{name}: {numbers['train']} training and {numbers['val']} test images")
END
cp "$work/package/usr/share/doc/plasma-workspace-wallpapers/copyright" "$output.partial/"
echo "$done_mark" >"$output.partial/prepared.txt"
mv "$output.partial" "$output"
echo "Done: $output. Next: luqtrain --config photos_resnet18_luq.yaml --set $(printf %q "data.path=$output")"
