"""The example trainer as processes of its own: the main job, through libadamd-client."""

import subprocess
import unittest

from harness import ROOT, Daemon, find_binary, eventually, seconds

DATA = ROOT / "client" / "examples" / "data" / "digits.csv"
WORKERS = 3
STEPS = 60


class Trainers:
    """Worker processes of one model."""

    def __init__(self, daemon, model):
        self.base = [find_binary("train_digits"), "--model", model, "--data", str(DATA),
                     "--endpoint", f"http://127.0.0.1:{daemon.port}"]
        self.processes = {}

    def start(self, rank, *flags, steps=STEPS, workers=WORKERS):
        self.processes[rank] = subprocess.Popen(
            [*self.base, "--rank", str(rank), "--workers", str(workers), "--steps", str(steps),
             *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def wait(self):
        """What each printed; all must have ended well."""
        outputs = {}
        for rank, process in self.processes.items():
            outputs[rank] = process.communicate(timeout=seconds(60))[0]
            assert process.returncode == 0, outputs[rank]
        return outputs

    def kill(self):
        for process in self.processes.values():
            process.kill()
            process.communicate()

    def evaluate(self, *flags):
        return subprocess.run([*self.base, "--eval", *flags], capture_output=True, text=True,
                              check=False, timeout=seconds(60))


def digest(daemon, model):
    reply = daemon.get(f"/v1/models/{model}/state").expect(200)
    return reply.headers["adamd-state-digest"], reply.headers["adamd-version"]


def train(daemon, model, order):
    """Starts the workers in `order`; the digest of the state that comes of it."""
    trainers = Trainers(daemon, model)
    try:
        for rank in order:
            trainers.start(rank, *(["--create"] if rank == 0 else []))
        trainers.wait()
    finally:
        trainers.kill()
    return digest(daemon, model)


class Trainer(unittest.TestCase):
    def test_same_bits_whoever_starts_first_and_on_every_instruction_set(self):
        with Daemon() as daemon:
            expected = train(daemon, "forwards", (0, 1, 2))
            self.assertEqual(expected[1], str(STEPS))
            self.assertEqual(train(daemon, "backwards", (2, 1, 0)), expected)
        with Daemon("--cpu-variant", "base", "--threads", "1") as daemon:
            self.assertEqual(train(daemon, "base", (1, 2, 0)), expected)

    def test_a_killed_worker_goes_on_where_the_model_is(self):
        with Daemon() as daemon:
            trainers = Trainers(daemon, "digits")
            try:
                trainers.start(0, "--create", "--min-workers", "1", "--lease-ms", "500", steps=2000)
                trainers.start(1, steps=2000)
                trainers.start(2, steps=2000)

                def version():
                    reply = daemon.get("/v1/models/digits")
                    return int(reply.json().get("version", 0)) if reply.status == 200 else 0

                eventually(lambda: version() > 100, 30)
                trainers.processes[1].kill()
                trainers.processes[1].communicate()
                at = version()
                eventually(lambda: version() > at + 20, 30)
                trainers.start(1, steps=2000)
                outputs = trainers.wait()
            finally:
                trainers.kill()
            joined = int(outputs[1].split("at version ")[1].split(",")[0])
            self.assertGreater(joined, at)
            self.assertIn("epoch 2", outputs[1])
            self.assertEqual(digest(daemon, "digits")[1], "2000")
            result = trainers.evaluate("--require-accuracy", "95")
            self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
            self.assertNotEqual(trainers.evaluate("--require-accuracy", "100").returncode, 0)

    def test_a_model_that_nobody_makes_is_waited_for_and_no_longer(self):
        with Daemon() as daemon:
            result = Trainers(daemon, "nobody").evaluate("--wait-ms", "100")
            self.assertEqual(result.returncode, 1)
            self.assertIn("was not made", result.stderr)

    def test_a_model_of_another_shape_is_refused(self):
        with Daemon() as daemon:
            daemon.create_model("other", {"w": [4]}).initialize()
            result = Trainers(daemon, "other").evaluate()
            self.assertEqual(result.returncode, 1)
            self.assertIn("other tensors", result.stderr)


if __name__ == "__main__":
    unittest.main()
