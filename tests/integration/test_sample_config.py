"""deploy/adamd.conf says what the daemon's own table says: every setting, with its default."""

import os
import pathlib
import re
import subprocess
import tempfile
import unittest

from harness import ROOT, find_binary

SAMPLE = ROOT / "deploy" / "adamd.conf"
# The daemon's own environment must not decide what is a default.
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("ADAMD_")}


def run(*flags):
    return subprocess.run([find_binary(), *flags], capture_output=True, text=True, check=False,
                          env=ENVIRONMENT, timeout=60)


def settings(text):
    """{section.key: value} of `key = value` lines, whatever stands behind a blank and #."""
    found, section = {}, ""
    for line in text.splitlines():
        if header := re.match(r"\[(\w+)\]$", line):
            section = header[1]
        elif pair := re.match(r"(\w+) =(.*?)(\s+#.*)?$", line):
            found[f"{section}.{pair[1]}"] = pair[2].strip()
    return found


class SampleConfig(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory(prefix="adamd-test-")
        self.addCleanup(self.directory.cleanup)

    def write(self, text):
        path = pathlib.Path(self.directory.name) / "adamd.conf"
        path.write_text(text)
        return str(path)

    def test_sample_as_shipped_changes_nothing(self):
        result = run("--config", str(SAMPLE), "--print-config")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stdout, run("--print-config").stdout)

    def test_sample_names_every_setting_with_its_default(self):
        commented_in = re.sub(r"^#(\w+ =)", r"\1", SAMPLE.read_text(), flags=re.M)
        given = settings(commented_in)
        said = settings(run("--print-config").stdout)
        self.assertEqual(sorted(given), sorted(said))
        read = run("--config", self.write(commented_in), "--print-config")
        self.assertEqual(read.returncode, 0, read.stderr)
        self.assertEqual(settings(read.stdout), said)

    def test_check_config_accepts_the_sample_and_names_what_is_wrong(self):
        self.assertEqual(run("--config", str(SAMPLE), "--check-config").returncode, 0)
        wrong = run("--config", self.write("[limits]\nslots_mx = 3\n"), "--check-config")
        self.assertEqual(wrong.returncode, 78)
        self.assertIn("slots_mx", wrong.stderr)
        self.assertIn("slots_max", wrong.stderr)  # the suggestion


if __name__ == "__main__":
    unittest.main()
