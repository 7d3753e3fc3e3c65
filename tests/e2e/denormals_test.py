"""A run whose gradients are denormal says so once; a sound one says nothing."""
import json
import struct

from harness import FP32_CONFIG, LUQ_CONFIG, LUQTRAIN, Case, arguments, main, run


def scale(source, target, name, factor):
    """A copy of a safetensors file with one float32 tensor multiplied."""
    data = bytearray(source.read_bytes())
    length = struct.unpack("<Q", data[:8])[0]
    entry = json.loads(data[8:8 + length])[name]
    assert entry["dtype"] == "F32"
    begin, end = (8 + length + offset for offset in entry["data_offsets"])
    count = (end - begin) // 4
    values = struct.unpack(f"<{count}f", data[begin:end])
    data[begin:end] = struct.pack(f"<{count}f", *(value * factor for value in values))
    target.write_bytes(data)


class Denormals(Case):
    def trained(self, config, directory, **settings):
        process = run(arguments(config, run__directory=directory, train__epochs=2, **settings), self.folder)
        self.assert_exit(process, 0)
        return [line for line in (self.folder / directory / "log.txt").read_text().splitlines() if "denormal" in line]

    def test_gradients_that_vanish_are_told_once_with_the_layer(self):
        self.assertEqual(self.trained(FP32_CONFIG, "sound"), [])
        process = run([LUQTRAIN, "export", "--checkpoint", "sound/checkpoints/last.safetensors", "--format",
                       "safetensors", "--output", "sound.safetensors"], self.folder)
        self.assert_exit(process, 0)
        # The classifier's weights are what gradients pass through on their way to all other layers.
        scale(self.folder / "sound.safetensors", self.folder / "tiny.safetensors", "fc.weight", 1e-36)
        said = self.trained(FP32_CONFIG, "tiny", model__weights="tiny.safetensors", optimizer__lr=1e-38)
        self.assertEqual(len(said), 1, said)
        self.assertRegex(said[0], r"warning: step 1: the gradient of the output of layer layer\d\.\d\.conv\d is mostly")
        self.assertIn("label_smoothing", said[0])

    def test_a_sound_run_in_4_bits_says_nothing(self):
        self.assertEqual(self.trained(LUQ_CONFIG, "run"), [])


if __name__ == "__main__":
    main()
