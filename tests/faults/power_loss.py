"""What a power cut leaves at any moment of a run goes on, and ends with the same bytes; and the checkpoint that was
announced is not lost.

The operations of one run are written down with their bytes and played out up to a moment. What was synced before it is
there. What was not is there or not: of the names in a folder the first few changes since it was synced (a file system
keeps their order), of a file's bytes a part, or zeros in their place."""
import random

from faults import FileTrials, spread, step_of


class Disk:
    """The files after a power cut. A folder is a list of changes, of which the first `synced` are sure."""

    def __init__(self):
        self.bytes, self.sure = {}, {}  # by file
        self.changes, self.synced = {"": []}, {"": 0}  # by folder

    def change(self, path, *what):
        folder, _, name = path.rpartition("/")
        self.changes.setdefault(folder, []).append((name, *what))
        self.synced.setdefault(folder, 0)

    def play(self, what, one, other, offset, data):
        if what == "create":
            self.bytes[one], self.sure[one] = bytearray(), b""
            self.change(other, "file", one)
        elif what == "write":
            content = self.bytes[one]
            content[offset:offset + len(data)] = data
        elif what == "truncate":
            del self.bytes[one][offset:]
        elif what == "sync":
            self.sure[one] = bytes(self.bytes[one])
        elif what == "sync_folder":
            self.synced[one] = len(self.changes.get(one, []))
        elif what == "mkdir":
            self.change(one, "folder", one)
            self.changes.setdefault(one, [])
            self.synced.setdefault(one, 0)
        elif what == "remove":
            self.change(one, "gone", "")
        elif what in ("rename", "link"):
            target = dict(names(self.changes[one.rpartition("/")[0]]))[one.rpartition("/")[2]]
            self.change(other, *target)
            if what == "rename":
                # Of the one operation that both are.
                folder = one.rpartition("/")[0]
                self.changes[folder][-1] += (one.rpartition("/")[2],)

    def leave(self, path, root, chance):
        """Writes below `root` what is left of the folder `path`; chance(n): how many of n unsure changes are kept."""
        changes, sure = self.changes[path], self.synced[path]
        for name, (kind, which) in names(changes[:sure + chance(len(changes) - sure)]).items():
            target = root / name
            if kind == "folder":
                target.mkdir()
                self.leave(which, target, chance)
            elif kind == "file":
                target.write_bytes(self.content(which, chance))

    def content(self, file, chance):
        now, sure = bytes(self.bytes[file]), self.sure[file]
        if now == sure:
            return now
        if now.startswith(sure):
            kept = chance(len(now) - len(sure))
            zeros = chance(1) if kept else 0
            return sure + (bytes(kept) if zeros else now[len(sure):len(sure) + kept])
        return (sure, now)[chance(1)]


def names(changes):
    there = {}
    for name, kind, which, *renamed in changes:
        if kind == "gone":
            there.pop(name, None)
        else:
            for old in renamed:
                there.pop(old, None)
            there[name] = (kind, which)
    return there


def records(path):
    data, at = path.read_bytes(), 0
    while at < len(data):
        end = data.index(b"\n", at)
        what, one, other, offset, count = data[at:end].decode().split("\t")
        content = data[end + 1:end + 1 + int(count)] if what == "write" else b""
        at = end + 1 + len(content)
        yield what, "" if one == "." else one.rstrip("/"), other, int(offset), content


def main():
    faults = FileTrials(__doc__)
    cwd, trace = faults.new_folder("traced"), faults.folder / "trace"
    faults.expect(faults.train(cwd, trace=trace), 0)
    operations = list(records(trace))
    chosen = random.Random(11)
    ways = [("nothing more", lambda n: 0), ("everything", lambda n: n)]
    ways += [("some", lambda n: chosen.randint(0, n))] * (3 if faults.full else 1)
    moments = spread(len(operations), len(operations) if faults.full else 6)
    if faults.full:
        moments = [at for at in moments if operations[at - 1][0] != "write" or at % 40 == 0]
    # Behind the rename that makes a checkpoint the one to go on from, and behind the sync that follows it, it is saved.
    saved = [i + 1 for i, entry in enumerate(operations) if entry[0] == "rename" and entry[2].endswith("/last.safetensors")]
    synced = [at + (operations[at][:2] == ("sync_folder", "run/checkpoints")) for at in saved]
    if not faults.full:
        moments = sorted({*moments, saved[0], synced[0], saved[3], synced[3]})
    for moment in moments:
        disk = Disk()
        for operation in operations[:moment]:
            disk.play(*operation)
        for name, chance in ways if faults.full else [ways[moment % 3], ways[0]]:
            faults.trial()
            cwd, what = faults.new_folder("cut"), f"cut after {moment} ({operations[moment - 1][:3]}), {name}"
            disk.leave("", cwd, chance)
            announced = sum(1 for at in synced if at <= moment)  # the first is step 0
            if announced > 0:
                steps = [step_of(path) for path in (cwd / "run/checkpoints").glob("last.safetensors")]
                faults.check(steps and max(steps) >= min(announced - 1, 6), f"{what}: {announced - 1} was announced, there is {steps}")
            faults.go_on(cwd, what)
    faults.end("power cuts")


if __name__ == "__main__":
    main()
