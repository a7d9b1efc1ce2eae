"""A transformer learns to write, with PyTorch's fused AdamW and with the daemon's: the same losses, step by step."""

import subprocess
import sys
import unittest

import support
from harness import ROOT, Daemon, seconds

SCRIPT = ROOT / "client" / "python" / "examples" / "train_transformer.py"
STEPS = 40


@unittest.skipUnless(support.IS_CURRENT, "PyTorch of before 2.7 rounds otherwise")
class Transformer(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon().start()

    @classmethod
    def tearDownClass(cls):
        cls.daemon.stop()

    def start(self, model=None, *flags):
        """The script; without `model` it uses PyTorch's optimizer."""
        command = [sys.executable, str(SCRIPT), "--steps", str(STEPS), *flags]
        if model:
            command += ["--endpoint", f"http://127.0.0.1:{self.daemon.port}", "--model", model]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   env=support.environment())
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def losses(self, process):
        """The loss of each step, to the last bit."""
        out, err = process.communicate(timeout=seconds(120))
        self.assertEqual(process.returncode, 0, out + err)
        losses = [float.fromhex(line.split()[-1]) for line in out.splitlines() if line.startswith("step")]
        self.assertEqual(len(losses), STEPS, out)
        return losses

    def check_the_losses_are_equal(self, dtype):
        runs = [self.start(model, "--dtype", dtype) for model in (None, "one-" + dtype)]
        own, remote = (self.losses(run) for run in runs)
        self.assertEqual(remote, own)
        self.assertLess(own[-1], own[0] - 1)

    def test_the_losses_are_pytorchs_in_float32(self):
        self.check_the_losses_are_equal("float32")

    def test_the_losses_are_pytorchs_in_bfloat16(self):
        self.check_the_losses_are_equal("bfloat16")

    def test_two_workers_follow_one(self):
        """On halves of the same batches. Their mean is rounded otherwise, and that grows from step to step."""
        runs = [self.start("two", "--workers", "2", "--rank", str(rank)) for rank in range(2)]
        alone = self.losses(self.start("alone"))
        halves = zip(*(self.losses(run) for run in runs))
        for step, (both, one) in enumerate(zip((sum(pair) / 2 for pair in halves), alone)):
            self.assertAlmostEqual(both, one, delta=1e-6 if step < 5 else 1e-3, msg=f"step {step}")


if __name__ == "__main__":
    unittest.main()
