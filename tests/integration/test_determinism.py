"""The same run gives the same bits: in any order of arrival, on any variant, with any threads."""

import random
import threading
import unittest

import tensors
from harness import Daemon, machine_has, seconds

# Sizes beside every boundary that a kernel may have, and enough to be cut into several chunks.
SHAPES = {"wide": [517, 131], "odd": [31], "one": [1], "scalar": [], "none": [0], "long": [70001]}
WORKERS, ROUNDS = 4, 6


def numbers(seed, spread):
    """Pseudo-random float32 values for all tensors, in table order."""
    chance = random.Random(seed)
    return tensors.floats(chance.gauss(0, spread) for _ in range(517 * 131 + 31 + 1 + 1 + 70001))


class Run:
    """One training run; what it ends with is a digest."""

    start = None
    gradients = []

    @classmethod
    def prepare(cls):
        if cls.start is None:
            cls.start = numbers(0, 1)
            cls.gradients = [[numbers(100 * r + w, 0.1 + w) for w in range(WORKERS)]
                             for r in range(ROUNDS)]

    def __init__(self, daemon, name, **options):
        self.prepare()
        policy = {"trigger": "TRIGGER_BARRIER"}
        self.model = daemon.create_model(name, SHAPES, policy, **options)
        at, start = 0, {}
        for key in SHAPES:
            start[key] = self.start[at : at + self.model.count(key)]
            at += len(start[key])
        self.model.put_parameters(start)
        self.workers = [self.model.register(f"w{i}", rank=i) for i in range(WORKERS)]

    def staged_in_order(self, orders):
        for grads, order in zip(self.gradients, orders):
            for rank in order[:-1]:
                self.workers[rank].stage(grads[rank], weight=1 + rank / 4)
            self.workers[order[-1]].push(grads[order[-1]], weight=1 + order[-1] / 4).expect(200)
            for rank in order[:-1]:
                self.workers[rank].push(grads[rank], weight=1 + rank / 4).expect(200)
        return self.model.get_state()

    def at_once(self):
        """Each worker in a thread of its own: the order is what the machine makes of it."""
        errors = []

        def work(rank):
            try:
                for grads in self.gradients:
                    self.workers[rank].push(grads[rank], weight=1 + rank / 4).expect(200)
            except BaseException as error:  # pylint: disable=broad-except
                errors.append(error)

        threads = [threading.Thread(target=work, args=(r,)) for r in range(WORKERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(seconds(60))
        assert not errors, errors
        return self.model.get_state()


OPTIONS = {
    "adam": {}, "adamw": {"weight_decay": 0.05, "decoupled_weight_decay": True, "lr": 0.01},
    "amsgrad": {"amsgrad": True, "weight_decay": 0.01, "betas": [0.4, 0.99]},
}


class Determinism(unittest.TestCase):
    def run_all(self, *flags):
        """{options: (digest, file)} on a daemon with these flags."""
        order = list(range(WORKERS))
        with Daemon(*flags) as daemon:
            states = {name: Run(daemon, name, **options).staged_in_order([order] * ROUNDS)
                      for name, options in OPTIONS.items()}
        return {n: (s.headers["adamd-state-digest"], s.body) for n, s in states.items()}

    def test_the_order_of_arrival_changes_no_bit(self):
        chance = random.Random(1)
        with Daemon() as daemon:
            ascending = [list(range(WORKERS))] * ROUNDS
            first = Run(daemon, "first", amsgrad=True).staged_in_order(ascending)
            for attempt in range(3):
                orders = [chance.sample(range(WORKERS), WORKERS) for _ in range(ROUNDS)]
                other = Run(daemon, f"order{attempt}", amsgrad=True).staged_in_order(orders)
                self.assertEqual(other.headers["adamd-state-digest"],
                                 first.headers["adamd-state-digest"], orders)
                self.assertTrue(other.body == first.body)
            raced = Run(daemon, "raced", amsgrad=True).at_once()
            self.assertTrue(raced.body == first.body)

    def test_the_variant_and_the_threads_change_no_bit(self):
        wanted = self.run_all("--cpu-variant", "base", "--threads", "1")
        self.assertEqual(len({digest for digest, _ in wanted.values()}), len(OPTIONS))
        variants = [v for v in ("avx2", "avx512") if machine_has(v)]
        settings = [(v, "2") for v in variants] + [("base", "2"), ("base", "3")]
        settings += [(variants[-1], "3")] if variants else []
        for variant, threads in settings:
            with self.subTest(variant=variant, threads=threads):
                got = self.run_all("--cpu-variant", variant, "--threads", threads)
                for name, (digest, body) in wanted.items():
                    self.assertEqual(got[name][0], digest, name)
                    self.assertTrue(got[name][1] == body, name)

    def test_a_state_that_was_saved_goes_on_as_if_nothing_had_been(self):
        order = [list(range(WORKERS))] * ROUNDS
        with Daemon() as daemon:
            whole = Run(daemon, "whole", weight_decay=0.01)
            whole.staged_in_order(order)
            saved = whole.model.get_state()
            resumed = Run(daemon, "resumed", weight_decay=0.01)
            reply = resumed.model.put_state(saved.body, force="true").expect(200)
            self.assertEqual(reply.json()["version"], str(ROUNDS))
            self.assertEqual(resumed.model.digest(), saved.headers["adamd-state-digest"])
            for run in (whole, resumed):
                run.workers = [run.model.register(f"w{i}", rank=i) for i in range(WORKERS)]
            states = [run.staged_in_order(order) for run in (whole, resumed)]
            self.assertEqual(*(s.headers["adamd-state-digest"] for s in states))


if __name__ == "__main__":
    unittest.main()
