#!/usr/bin/env python3
"""Runs the same trainings with two builds of luqtrain and says for each whether the results are equal to the bit.

    compare_programs.py --baseline OLD/luqtrain --program NEW/luqtrain
    compare_programs.py --baseline OLD/luqtrain --record FILE         # hashes of the baseline's results, made once
    compare_programs.py --program NEW/luqtrain --recorded FILE        # compared with them later, on the same machine

It is for a change that must not change results. It needs Python's standard library alone, and Fashion-MNIST where
luqtrain finds it. Configurations and seeds are fixed (tools/program_cases.py). What is compared of a training:

  tensors   names, types, shapes and bytes of all tensors in last.safetensors: weights, buffers, the optimiser's state
  losses    loss, accuracies, learning rate and gradient norm of every step and evaluation in metrics.jsonl

Of the other commands it is the tensors in the files that they write, and all bytes of exported ONNX files and
state_dicts. Metadata are not compared, but for the layers' entries of a packed file.

The cases by name, where TABLE is each of LUQ_KERNELS that the processor has and PRECISION float32 or bfloat16:

  quantize/TABLE/FORMAT       luqtrain quantize of numbers of many sizes, with two streams of random bits
  export/MODEL                a short training, exported in each format, and the logits of checkpoint and packed file
  resumed/PRECISION[/VARIANT] 50 steps of the baseline, resumed by the program, against 100 steps of the baseline
  resnet20/TABLE/PRECISION/SCALE[/VARIANT]
                              100 steps of 8 images of resnet20_luq.yaml with each activations.scale: rounded to
                              nearest, stochastic, and in parts that are recomputed; 30 steps of variants of sawb
  MODEL/TABLE/PRECISION       20 steps of a larger model on made-up images of 32x32
  emulated/PRECISION/...      3 steps of 4 images on the emulated CUDA device
  resnet20/ref/PRECISION/...  5 steps of 8 images on the scalar kernels

The emulated ones want --emulated-baseline and --emulated-program, builds with -DLUQ_CUDA_EMULATION=ON, and the resumed
ones --baseline, beside --recorded too; without they are left out, which is said at the end.

A line for each case begins with `same`, `recorded`, `DIFFERS` (with the parts, and where there is no record the first
tensors and numbers) or `FAILED` (with what the program said), and ends with the seconds that it took; the last line
counts them. Exit code 0: all cases that ran are the same; 1: one is not, or none ran; 2: wrong arguments, or a record
of another machine. With --record and --program together, one pass records and compares.
"""
import argparse
import fnmatch
import hashlib
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time

from program_cases import Failed, quick_cases, run, trainings

SHOWN = 3  # differences that a line names


def digests(parts):
    """{part: count and hash of its items}."""
    result = {}
    for part, items in parts.items():
        text = "".join(f"{name} {value}\n" for name, value in sorted(items.items()))
        result[part] = f"{len(items)} {hashlib.sha256(text.encode()).hexdigest()}"
    return result


def differences(expected, found):
    """What to say of two results; of a record only the parts are known."""
    said = []
    for part in {**expected, **found}:
        one, other = expected.get(part), found.get(part)
        if one == other:
            continue
        if not isinstance(one, dict) or not isinstance(other, dict):
            said.append(part)
            continue
        names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        shown = [f"{name} {one.get(name, 'missing')} -> {other.get(name, 'missing')}" if part == "losses" else name
                 for name in names[:SHOWN]]
        said.append(f"{part}: {', '.join(shown)} ({len(names)} of {len({**one, **other})})")
    return "; ".join(said)


def machine_of(program):
    """What results may depend on, beside the program: the processor and oneDNN."""
    lines = {}
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        lines.setdefault(key.strip(), value.strip())
    flags = hashlib.sha256(lines.get("flags", lines.get("Features", "")).encode()).hexdigest()[:16]
    onednn = re.search(r"(?m)^oneDNN +(\S+)", run(program, ".", "doctor"))
    return {"processor": lines.get("model name", "unknown"), "flags": flags,
            "onednn": onednn[1] if onednn else "unknown"}


def tables_of(program):
    """The kernel tables that this processor has, but for ref."""
    found = re.search(r"(?m)^kernel tables +([a-z0-9, ]+)", run(program, ".", "doctor"))
    if not found:
        raise Failed(f"{program} doctor does not list the kernel tables")
    return [table for table in found[1].strip().split(", ") if table != "ref"]


class Comparison:
    """Runs cases and counts what came of them."""

    def __init__(self, options, machine, folder):
        self.options = options
        self.folder = folder
        self.recorded = json.loads(options.recorded.read_text()) if options.recorded else None
        self.record = {"machine": machine, "cases": {}} if options.record else None
        self.counts = {"same": 0, "recorded": 0, "DIFFERS": 0, "FAILED": 0}
        self.left_out = {}

    def place(self, case):
        return self.folder / case.name.replace("/", ".")

    def missing(self, case):
        """Why a case cannot run, or nothing."""
        options = self.options
        if case.emulated and options.program and not options.emulated_program:
            return "--emulated-program is not given"
        if case.emulated and not (options.emulated_baseline or self.recorded):
            return "--emulated-baseline is not given"
        if case.begun_by_baseline and not options.baseline:
            return "--baseline is to begin the run"
        return ""

    def result(self, case, side):
        """The parts of one program's result."""
        folder = self.place(case) / side
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        options = self.options
        baseline, program = options.baseline, options.program
        if case.emulated:
            baseline, program = options.emulated_baseline, options.emulated_program
        if side == "baseline":
            return case.work(baseline, folder, None)
        return case.work(program, folder, baseline)

    def compare(self, case):
        """What came of it, and what to say."""
        if self.recorded:
            expected = self.recorded["cases"].get(case.name)
            if expected is None:
                return "FAILED", "the record does not have it"
            found = digests(self.result(case, "program"))
        else:
            found = expected = self.result(case, "baseline")
            if self.record:
                self.record["cases"][case.name] = digests(expected)
                self.write_record()
            if self.options.program:
                found = self.result(case, "program")
        if expected != found:
            return "DIFFERS", differences(expected, found)
        parts = {part: len(items) if isinstance(items, dict) else items.split()[0] for part, items in found.items()}
        text = ", ".join(f"{count} {part}" for part, count in parts.items())
        return "same" if self.options.program else "recorded", text

    def write_record(self):
        """After each case, so that what was recorded before an interruption is of use."""
        new = self.options.record.with_name(self.options.record.name + ".new")
        new.write_text(json.dumps(self.record, indent=1) + "\n")
        new.replace(self.options.record)

    def run(self, case):
        """One line of output."""
        begin = time.monotonic()
        why = self.missing(case)
        if why:
            self.left_out[why] = self.left_out.get(why, 0) + 1
            return
        try:
            outcome, text = self.compare(case)
        except Failed as error:
            outcome, text = "FAILED", str(error)
        self.counts[outcome] += 1
        print(f"{outcome:<8} {case.name}  {text}  {time.monotonic() - begin:.1f} s", flush=True)
        if outcome in ("same", "recorded") or not self.options.keep:
            shutil.rmtree(self.place(case), ignore_errors=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def program(text):
        """A path that holds in any folder."""
        path = pathlib.Path(text).absolute()
        if not os.access(path, os.X_OK) or path.is_dir():
            raise argparse.ArgumentTypeError(f"{text} is no program")
        return path

    for option, text in (("--baseline", "luqtrain whose results are right"), ("--program", "luqtrain to compare"),
                         ("--emulated-baseline", "the first, built with emulated CUDA kernels"),
                         ("--emulated-program", "the second, built with emulated CUDA kernels")):
        parser.add_argument(option, type=program, metavar="PROGRAM", help=text)
    parser.add_argument("--record", type=pathlib.Path, metavar="FILE", help="write the baseline's hashes there")
    parser.add_argument("--recorded", type=pathlib.Path, metavar="FILE", help="compare with the hashes written there")
    parser.add_argument("--only", action="append", metavar="PATTERN",
                        help="cases to run, as in 'resnet20/vnni/*'; repeatable")
    parser.add_argument("--keep", type=pathlib.Path, metavar="DIR", help="leave what differs or failed in this folder")
    parser.add_argument("--threads", type=int, default=2, help="of luqtrain (2); results do not depend on it")
    parser.add_argument("--list", action="store_true", help="print the names of the cases, run nothing")
    options = parser.parse_args()
    if options.record and (options.recorded or not options.baseline):
        parser.error("--record is for results of --baseline")
    if not options.record and not options.program:
        parser.error("--program is missing")
    if not options.baseline and not options.recorded:
        parser.error("--baseline or --recorded is missing")
    if options.recorded and not options.recorded.is_file():
        parser.error(f"{options.recorded} is no file")
    return options


def main():
    options = arguments()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    begin = time.monotonic()
    try:
        tables = tables_of(options.baseline or options.program)
        machine = machine_of(options.baseline or options.program)
    except Failed as error:
        print(error, file=sys.stderr)
        return 2
    cases = [*quick_cases(tables), *trainings(tables)]
    patterns = options.only or ["*"]
    cases = [case for case in cases if any(fnmatch.fnmatchcase(case.name, pattern) for pattern in patterns)]
    if options.list:
        print("\n".join(case.name for case in cases))
        return 0
    with tempfile.TemporaryDirectory(prefix="luq_compare_") as temporary:
        comparison = Comparison(options, machine, (options.keep or pathlib.Path(temporary)).absolute())
        if comparison.recorded and comparison.recorded["machine"] != machine:
            print(f"the record was made on {comparison.recorded['machine']}, this is {machine}", file=sys.stderr)
            return 2
        for case in cases:
            comparison.run(case)
    for why, count in comparison.left_out.items():
        print(f"{count} left out: {why}")
    counts = comparison.counts
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count) or "no case ran", end="")
    print(f"; {time.monotonic() - begin:.0f} s")
    return 1 if counts["DIFFERS"] or counts["FAILED"] or not counts["same"] + counts["recorded"] else 0


if __name__ == "__main__":
    sys.exit(main())
