"""The README's tour, executed: every ```sh block of it, in one shell, against a daemon of its own. What
a block prints must be what the block after it shows, where … stands for anything."""

import pathlib
import re
import subprocess
import tempfile
import unittest

from harness import ROOT, Daemon, seconds

MARK = "---- block"


def tour_blocks():
    """[(commands, expected output)]"""
    readme = (ROOT / "README.md").read_text()
    tour = re.search(r"^## A tour with curl\n(.*?)^## ", readme, re.M | re.S)[1]
    fences = re.findall(r"^```(\w*)\n(.*?)^```\n", tour, re.M | re.S)
    blocks = []
    for i, (kind, text) in enumerate(fences):
        if kind == "sh":
            follows = fences[i + 1] if i + 1 < len(fences) else ("sh", "")
            blocks.append((text, follows[1] if follows[0] == "" else ""))
    return blocks


def pattern(expected):
    """A line of … alone is any number of lines, elsewhere it is anything within its line."""
    lines = []
    for line in expected.splitlines():
        if line.strip() == "…":
            lines.append(r"(?:.*\n)*")
        else:
            lines.append(r"[^\n]*".join(re.escape(part) for part in line.split("…")) + r"\n")
    return re.compile("".join(lines))


class Tour(unittest.TestCase):
    def test_every_command_prints_what_the_readme_shows(self):
        blocks = tour_blocks()
        self.assertGreaterEqual(len(blocks), 6)
        with Daemon() as daemon, tempfile.TemporaryDirectory(prefix="adamd-test-") as directory:
            script = "".join(f"{text}\necho '{MARK}'\n" for text, _ in blocks)
            script = script.replace("127.0.0.1:7440", f"127.0.0.1:{daemon.port}")
            path = pathlib.Path(directory) / "tour"
            path.write_text("set -euo pipefail\n" + script)
            result = subprocess.run(["bash", str(path)], cwd=directory, capture_output=True,
                                    text=True, check=False, timeout=seconds(60))
        outputs = result.stdout.split(MARK + "\n")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertEqual(len(outputs), len(blocks) + 1)
        for (text, expected), output in zip(blocks, outputs):
            with self.subTest(text.splitlines()[0]):
                self.assertIsNotNone(
                    pattern(expected).fullmatch(output), f"{text}\nprinted\n{output}")


if __name__ == "__main__":
    unittest.main()
