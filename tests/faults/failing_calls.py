"""An operation on a file that fails once, or is cut short, costs no checkpoint: the run goes on and ends with the same
bytes, or it ends with an exit code of 1 or 2 and a reason, and goes on when it is resumed."""
import errno
import shutil
import signal

from faults import CHANGES, FileTrials, spread, step_of

REASONS = {"open": ("EIO", "EACCES", "EMFILE"), "read": ("EIO", "short"), "write": ("EIO", "ENOSPC", "short"),
           "truncate": ("EIO",), "sync": ("EIO", "ENOSPC"), "rename": ("EIO", "EACCES", "ENOSPC"),
           "link": ("EIO", "EPERM", "ENOSPC"), "remove": ("EIO", "EACCES"), "mkdir": ("EACCES", "ENOSPC")}


def main():
    faults = FileTrials(__doc__)
    base = faults.new_folder("base")
    changes = sum(kind in CHANGES for kind, _, _ in faults.operations(faults.new_folder("count")))
    faults.expect(faults.train(base, kill=changes * 3 // 4), -signal.SIGKILL)  # in the second epoch
    faults.check(step_of(base / "run/checkpoints/last.safetensors") in (4, 5), "the run that is resumed is at another step")
    for resumed in (False, True):
        flags = ("--resume",) if resumed else ()

        def begin(resumed=resumed):
            cwd = faults.new_folder("failing")
            if resumed:
                shutil.copytree(base / "run", cwd / "run")
            return cwd

        trials = [(kind, number, path, reason) for kind, number, path in faults.operations(begin(), *flags)
                  if faults.worth_trying(number, kind, path) for reason in REASONS[kind]]
        for index in spread(len(trials), len(trials) if faults.full else 9):
            kind, number, path, reason = trials[index - 1]
            faults.trial()
            what = f"{'resumed' if resumed else 'new'} run, {kind} {number} of {path}: {reason}"
            cwd = begin()
            process = faults.train(cwd, *flags,
                                   fail=f"{kind} {number} {0 if reason == 'short' else getattr(errno, reason)}")
            text = process.stdout + process.stderr
            said = "warning: " in process.stdout
            if process.returncode == 0:
                # A line of metrics.jsonl that could not be written is lost, and that is said.
                faults.same_as_straight(cwd, f"{what}\n{text}", lines=not said, nothing_left=kind != "remove")
            else:
                faults.check(process.returncode in (1, 2) and "error: " in process.stderr,
                             f"{what}: ended with {process.returncode}\n{text}")
                faults.go_on(cwd, f"{what}\n{text}")
    faults.end("failing calls")


if __name__ == "__main__":
    main()
