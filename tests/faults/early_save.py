"""After a minute of training there is a checkpoint, whatever train.checkpoint_every says, and one that failed is tried
again a minute later. It changes no number of the run. The clock of the trials is a fast one."""
from faults import FileTrials

KEYS = {"train__checkpoint_every": 1000, "train__epochs": 4}


def main():
    trials = FileTrials(__doc__)
    slow, fast = trials.new_folder("slow"), trials.new_folder("fast")
    log = trials.folder / "log"

    def saves(cwd, **variables):
        trials.trial()
        log.unlink(missing_ok=True)
        process = trials.train(cwd, settings=KEYS, log=log, **variables)
        trials.expect(process, 0)
        lines = [line.split(" ", 2) for line in log.read_text().splitlines()]
        return process.stdout, [int(number) for number, kind, path in lines
                                if kind == "rename" and path == "run/checkpoints/last.safetensors"]

    trials.check(len(saves(slow)[1]) == 2, "a short run saves at its start and at its end")
    _, renames = saves(fast, clock=100000)
    trials.check(len(renames) == 3, f"the minute's checkpoint is missing: {renames}")
    output, renames = saves(trials.new_folder("failing"), clock=100000, fail=f"rename {renames[1]} 28")
    trials.check(len(renames) == 4, f"it was not tried again: {renames}")
    trials.check("No space left on device; the checkpoint of step 0 stays, and the run goes on" in output, output)
    for cwd in (fast, trials.folder / "failing"):
        for name in ("last", "best"):
            files = [folder / f"run/checkpoints/{name}.safetensors" for folder in (slow, cwd)]
            trials.check(files[0].read_bytes() == files[1].read_bytes(), f"{files[1]} is another one")
    trials.end("early checkpoints")


if __name__ == "__main__":
    main()
