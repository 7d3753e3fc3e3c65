"""A run's event files, read by a second implementation of TensorBoard's format: frames, check sums, messages."""
import pathlib
import struct

from harness import Case, arguments, LUQ_CONFIG, main, metrics, run_and_signal, signal


def crc32c(data):
    """CRC-32C, bit by bit."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def masked(data):
    value = crc32c(data)
    return (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frames(data):
    """The messages of a file of TFRecord frames; both check sums of every frame must be right."""
    while data:
        (length,), (length_sum,) = struct.unpack("<Q", data[:8]), struct.unpack("<I", data[8:12])
        assert masked(data[:8]) == length_sum, "check sum of a length"
        message, (message_sum,) = data[12:12 + length], struct.unpack("<I", data[12 + length:16 + length])
        assert masked(message) == message_sum, "check sum of a message"
        yield message
        data = data[16 + length:]


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if not data[at - 1] & 128:
            return value, at


def fields(message):
    """(number, value) of a protobuf message: integers, 8 bytes, bytes, 4 bytes."""
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        if key & 7 == 0:
            value, at = varint(message, at)
        elif key & 7 == 2:
            length, at = varint(message, at)
            value, at = message[at:at + length], at + length
        else:
            size = {1: 8, 5: 4}[key & 7]
            value, at = message[at:at + size], at + size
        yield key >> 3, value


def events(run):
    """[(wall time, step, {tag: value})] of a run's one event file, headers checked."""
    files = list((pathlib.Path(run) / "tensorboard").iterdir())
    assert len(files) == 1 and files[0].name.startswith("events.out.tfevents."), files
    found = []
    for index, message in enumerate(frames(files[0].read_bytes())):
        event = dict(fields(message))
        time, step = struct.unpack("<d", event[1])[0], event.get(2, 0)
        if index == 0:
            assert event[3] == b"brain.Event:2", event
        elif index == 1:
            assert dict(fields(event[7])) == {1: 1} and step == 0, event
        else:
            values = {}
            for number, value in fields(event[5]):
                assert number == 1
                value = dict(fields(value))
                values[value[1].decode()] = struct.unpack("<f", value[2])[0]
            found.append((time, step, values))
    return found


def expected(run):
    """The same from metrics.jsonl."""
    found = []
    for line in metrics(run):
        kind = line["kind"]
        tags = {key: f"{kind}/{key}" for key in ("loss", "top1", "top5")}
        if kind == "train":
            tags.update({key: f"train/{key}" for key in ("lr", "gradient_norm", "images_per_second")})
        tags.update({f"ema_{key}": f"ema/{key}" for key in ("loss", "top1", "top5")})
        values = {tag: struct.unpack("<f", struct.pack("<f", line[key]))[0] for key, tag in tags.items() if key in line}
        found.append((line["time"], line["step"], values))
    return found


class TensorBoard(Case):
    def test_whole_run(self):
        self.train(self.folder, train__epochs=2)
        self.assertEqual(events(self.folder / "run"), expected(self.folder / "run"))
        tags = {tag for _, _, values in events(self.folder / "run") for tag in values}
        self.assertEqual(tags, {"train/loss", "train/top1", "train/lr", "train/images_per_second", "eval/loss",
                                "eval/top1", "eval/top5"})
        self.train(self.folder, "--overwrite", train__max_steps=5, train__ema_decay=0.5, train__clip_grad_norm=1)
        found = events(self.folder / "run")
        self.assertEqual(found, expected(self.folder / "run"))
        self.assertEqual([step for _, step, _ in found], [5, 5])
        self.assertIn("train/gradient_norm", found[0][2])
        self.assertIn("ema/top5", found[1][2])

    def test_killed_and_resumed(self):
        """Killed behind its last checkpoint: what it had written since is there once."""
        settings = {"train__epochs": 30, "train__max_steps": 120, "train__checkpoint_every": 7, "train__log_every": 1}
        code, output = run_and_signal(arguments(LUQ_CONFIG, **settings), self.folder, signal.SIGKILL, "step 34/120")
        self.assertEqual(code, -signal.SIGKILL, output)
        self.train(self.folder, "--resume", **settings)
        found = events(self.folder / "run")
        self.assertEqual(found, expected(self.folder / "run"))
        self.assertEqual([step for _, step, values in found if "train/loss" in values], list(range(1, 121)))


if __name__ == "__main__":
    main()
