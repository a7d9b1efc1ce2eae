"""The example: a training script, and the same with one line changed. And the package as pip installs it."""

import difflib
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import remote  # first: it sets the paths
from harness import seconds
from remote import PACKAGE, RemoteCase, environment

EXAMPLES = PACKAGE / "examples"


class Example(RemoteCase):
    def run_script(self, name, *flags):
        result = subprocess.run(
            [sys.executable, str(EXAMPLES / name), *flags], capture_output=True, text=True,
            timeout=seconds(120), check=False,
            env={**environment(), "ADAMD_ENDPOINT": self.endpoint, "OMP_NUM_THREADS": "1"})
        self.assertEqual(result.returncode, 0, result.stderr)
        return [float(number) for number in re.findall(r"(?:loss|accuracy) ([0-9.]+)",
                                                       result.stdout)]

    def test_one_line_changes_and_the_losses_do_not(self):
        plain = self.run_script("train_digits.py", "--epochs", "4")
        remotely = self.run_script("train_digits_remote.py", "--epochs", "4")
        self.assertEqual(len(plain), 5)
        for one, other in zip(plain, remotely):
            self.assertAlmostEqual(one, other, delta=2e-3)
        self.assertGreater(remotely[-1], 0.9)
        steps = self.daemon.get("/v1/models/digits-mlp").expect(200).json()["version"]
        self.assertEqual(int(steps), 4 * 23)

    def test_it_is_one_line(self):
        texts = [(EXAMPLES / name).read_text().splitlines()
                 for name in ("train_digits.py", "train_digits_remote.py")]
        changed = [line for line in difflib.ndiff(*texts) if line[0] == "+"]
        self.assertEqual(len(changed), 3, changed)  # the first words, an import, and the line
        self.assertIn("RemoteAdamW(model.parameters(), ", changed[2])


class Package(unittest.TestCase):
    @unittest.skipUnless(importlib.util.find_spec("pip") and importlib.util.find_spec("setuptools"),
                         "there is no pip, or no setuptools, to install it with")
    def test_pip_installs_it(self):
        with tempfile.TemporaryDirectory(prefix="adamd-pip-") as directory:
            copy = pathlib.Path(directory) / "source"  # pip builds where the source is
            subprocess.run(["cp", "-r", str(PACKAGE), str(copy)], check=True)
            subprocess.run(
                [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
                 "--no-build-isolation", "--disable-pip-version-check", "--target",
                 directory + "/site", str(copy)], check=True, timeout=seconds(120))
            library = subprocess.run(
                [sys.executable, "-c", "import adamd; print(adamd.library_path())"],
                env=environment(), capture_output=True, text=True, check=True).stdout.strip()
            output = subprocess.run(
                [sys.executable, "-c", "import adamd, adamd.torch; print(adamd.__file__)"],
                capture_output=True, text=True, check=True, cwd=directory,
                env={**os.environ, "PYTHONPATH": directory + "/site",
                     "ADAMD_CLIENT_LIBRARY": library}).stdout
            self.assertIn(directory + "/site/adamd", output)

    def test_a_library_that_is_not_there(self):
        result = subprocess.run(
            [sys.executable, "-c", "import adamd"], capture_output=True, text=True, check=False,
            env={**environment(), "ADAMD_CLIENT_LIBRARY": "/nowhere/libadamd-client.so.1"})
        self.assertIn("ADAMD_CLIENT_LIBRARY", result.stderr.splitlines()[-1])


if __name__ == "__main__":
    unittest.main()
