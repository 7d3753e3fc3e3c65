#!/usr/bin/env bash
# Real photographs of solar cells as a data set of image files: --set data.name=image_folder. See --help.
set -euo pipefail

usage() {
  cat <<'END'
usage: tools/prepare_elpv.sh [OUTPUT]      (default data/elpv; about 55 MB)

Fetches elpv-dataset 1.0.0.post1 from the Python package index (90 MB) and writes its 2,624 photographs of solar cells
(electroluminescence, grey, 300x300) as JPEG files of quality 95:

  OUTPUT/train/<class>/cellNNNN.jpeg   80 of 100 of each class
  OUTPUT/val/<class>/cellNNNN.jpeg     the others

Classes: mono_functional, mono_defective, poly_functional, poly_defective, from the type of the module and the probability of
a defect (0, 1/3, 2/3 or 1), which is rounded. Which image is in which part is a function of its name alone.

The data set is not part of luqtrain: CC BY-NC-SA 4.0, not for commercial use; please cite Buerhop-Lutz et al. 2018, Deitsch et
al. 2019 and 2021 (OUTPUT/LICENSE.md). Needs python3 with venv, for a virtual environment that is removed in the end.
END
}

case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  -*) echo "prepare_elpv: unknown option '$1'" >&2; usage >&2; exit 2 ;;
esac
output=${1:-data/elpv}
done_mark="elpv-dataset 1.0.0.post1, 4 classes, quality 95, split 1"
if [[ -f $output/prepared.txt && $(<"$output/prepared.txt") == "$done_mark" ]]; then
  echo "$output is there already; delete it to make it anew"
  exit 0
fi
[[ ! -e $output ]] || { echo "prepare_elpv: $output exists and is not what this script makes; give another folder" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work" "$output.partial"' EXIT
rm -rf "$output.partial"
mkdir -p "$output.partial"
echo "Fetching elpv-dataset (90 MB). Its licence: CC BY-NC-SA 4.0, not for commercial use."
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'pillow>=9.4'
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$work/package" elpv-dataset==1.0.0.post1

"$work/venv/bin/python" - "$work/package" "$output.partial" <<'END'
import collections
import hashlib
import pathlib
import shutil
import sys

from PIL import Image

package, output = map(pathlib.Path, sys.argv[1:])
data = package / "elpv_dataset/data"
classes = collections.defaultdict(list)
for line in (data / "labels.csv").read_text().splitlines():
    path, probability, kind = line.split()
    state = "defective" if float(probability) > 0.5 else "functional"
    classes[f"{kind}_{state}"].append(pathlib.Path(path))
assert sum(map(len, classes.values())) == 2624, "labels.csv does not list 2,624 images"
for name, paths in sorted(classes.items()):
    paths.sort(key=lambda path: hashlib.sha256(path.stem.encode()).digest())
    tests = round(len(paths) / 5)
    for number, path in enumerate(paths):
        folder = output / ("val" if number < tests else "train") / name
        folder.mkdir(parents=True, exist_ok=True)
        with Image.open(data / path) as image:
            assert image.size == (300, 300) and image.mode == "L", f"{path} is no grey image of 300x300"
            image.save(folder / f"{path.stem}.jpeg", quality=95)
    print(f"{name}: {len(paths) - tests} training and {tests} test images")
for licence in package.glob("elpv_dataset-*.dist-info/licenses/LICENSE.md"):
    shutil.copy(licence, output)
END
echo "$done_mark" >"$output.partial/prepared.txt"
mv "$output.partial" "$output"
echo "Done: $output. Next: luqtrain --config elpv_resnet18_luq.yaml --set $(printf %q "data.path=$output")"
