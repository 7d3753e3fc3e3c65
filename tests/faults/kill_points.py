"""A run that is killed before any of its operations on files goes on, and ends with the same bytes."""
import signal

from faults import CHANGES, FileTrials, spread


def main():
    faults = FileTrials(__doc__)
    fresh = [entry for entry in faults.operations(faults.new_folder("count")) if entry[0] in CHANGES]
    points = [kill for kill, entry in enumerate(fresh, 1) if faults.worth_trying(kill, entry[0], entry[2])]
    for index in spread(len(points), len(points) if faults.full else 8):
        kill = points[index - 1]
        faults.trial()
        cwd = faults.new_folder("killed")
        process = faults.train(cwd, kill=kill)
        # A run whose limits are measured again has up to three operations more: lines of log.txt.
        ended = process.returncode == 0 and kill > len(fresh) - 3
        faults.check(ended or process.returncode == -signal.SIGKILL, f"kill {kill}: ended with {process.returncode}")
        # Again, in the start of the resumed run.
        if faults.full and faults.has_run(cwd):
            faults.train(cwd, "--resume", kill=1 + kill % 23)
        faults.go_on(cwd, f"killed before {kill}, {fresh[kill - 1]}")
    if faults.full:
        overwritten = len([entry for entry in faults.operations(faults.straight, "--overwrite") if entry[0] in CHANGES])
        for kill in spread(overwritten - len(fresh) + 12, 40):
            faults.trial()
            cwd = faults.new_folder("overwritten")
            faults.expect(faults.train(cwd), 0)
            faults.train(cwd, "--overwrite", kill=kill)
            process = faults.train(cwd, "--resume")
            if process.returncode == 2 and "--overwrite" in process.stderr:  # what it says to do
                process = faults.train(cwd, "--overwrite")
            faults.check(process.returncode == 0, f"overwrite killed before {kill}: {process.stderr}")
            faults.same_as_straight(cwd, f"overwrite killed before {kill}")
    faults.end("kill points")


if __name__ == "__main__":
    main()
