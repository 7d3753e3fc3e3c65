"""luqtrain plot: a picture of runs that train() wrote, as an XML reader sees it."""
import xml.etree.ElementTree as ElementTree

from harness import Case, LUQTRAIN, main, run

SVG = "{http://www.w3.org/2000/svg}"


class Plot(Case):
    def plot(self, *words, code=0):
        process = run([LUQTRAIN, "plot", *words], self.folder)
        self.assert_exit(process, code)
        return process

    def test_runs(self):
        self.train(self.folder, train__epochs=2, run__directory="a<b>&c")
        self.train(self.folder, train__max_steps=5, run__directory="run", optimizer__lr=0.05, train__ema_decay=0.5)
        self.assertIn("curves.svg", self.plot("a<b>&c", "run").stdout)
        root = ElementTree.parse(self.folder / "curves.svg").getroot()
        texts = [element.text for element in root.iter(SVG + "text")]
        for text in ("Loss", "Top-1 (%)", "Learning rate", "step", "training", "test",
                     "ema_decay=0, epochs=2, max_steps=0, lr=0.1", "ema_decay=0.5, epochs=4, max_steps=5, lr=0.05"):
            wanted = sorted(text.split(", "))
            self.assertTrue(any(sorted((found or "").split(", ")) == wanted for found in texts), (text, texts))
        self.plot("a<b>&c", "--output", "one.svg", "--x", "epochs")
        texts = [element.text for element in ElementTree.parse(self.folder / "one.svg").getroot().iter(SVG + "text")]
        self.assertIn("a<b>&c", texts)
        self.assertIn("epoch", texts)

    def test_refusals(self):
        self.assertIn("nowhere", self.plot("nowhere", code=2).stderr)
        self.plot(code=2)
        self.train(self.folder, train__max_steps=5)
        self.assertIn("no/curves.svg", self.plot("run", "--output", "no/curves.svg", code=1).stderr)
        self.assertIn(".svg", self.plot("run", "--output", "run/metrics.jsonl", code=2).stderr)
        self.assertIn("--x", self.plot("run", "--x", "miles", code=2).stderr)


if __name__ == "__main__":
    main()
