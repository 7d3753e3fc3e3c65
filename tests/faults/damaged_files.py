"""A checkpoint or packed file with a changed byte, or cut short, is refused by every command that reads one."""
import random
import struct

from faults import FileTrials, LUQTRAIN


def main():
    faults = FileTrials(__doc__)
    cwd = faults.straight
    run = cwd / "run/checkpoints"
    packed = cwd / "packed.safetensors"
    faults.expect(faults.run([LUQTRAIN, "export", "--checkpoint", run / "last.safetensors", "--format", "packed",
                              "--output", packed], cwd), 0)
    damaged = cwd / "damaged.safetensors"
    image = cwd / "image.pgm"
    image.write_bytes(b"P5 8 8 255\n" + bytes(range(64)))
    commands = {
        "eval": ["eval", "--checkpoint", damaged],
        "predict": ["predict", "--checkpoint", damaged, image],
        "export": ["export", "--checkpoint", damaged, "--format", "safetensors", "--output", cwd / "out"],
        "quantize": ["quantize", "--input", damaged, "--output", cwd / "out", "--format", "int4_sawb"],
        "weights": None,
    }
    chosen = random.Random(5)
    for source in (run / "last.safetensors", packed):
        sound = source.read_bytes()
        header = 8 + struct.unpack("<Q", sound[:8])[0]
        count = 250 if faults.full else 6
        places = [chosen.randrange(header) for _ in range(count)] + [chosen.randrange(len(sound)) for _ in range(count)]
        trials = [sound[:at] + bytes([sound[at] ^ (1 << chosen.randrange(8))]) + sound[at + 1:] for at in places]
        trials += [sound[:at] for at in (0, 7, header - 1, header, len(sound) - 1)]
        trials += [sound + b"\0", sound[:header] + bytes(len(sound) - header)]
        for index, content in enumerate(trials):
            if faults.full:
                names = list(commands)
            else:
                names = [list(commands)[index % len(commands)]]
            damaged.write_bytes(content)
            for name in names:
                faults.trial()
                line = commands[name]
                if line is None:
                    process = faults.train(cwd, "--dry-run", settings={"model__weights": damaged})
                else:
                    process = faults.run([LUQTRAIN, *line], cwd)
                at = places[index] if index < len(places) else len(content)
                faults.check(process.returncode == 2 and "damaged.safetensors" in process.stderr,
                             f"{source.name}, trial {index} (byte {at}), {name}: {process.returncode} {process.stderr}")
                faults.check(not (cwd / "out").exists(), f"{name} wrote an output of a damaged file")
    faults.end("damaged files")


if __name__ == "__main__":
    main()
