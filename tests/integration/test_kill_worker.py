"""Workers that are killed with SIGKILL, wherever they are: the others go on, nothing counts twice."""

import multiprocessing
import os
import signal
import time
import unittest

import tensors
from harness import Background, DaemonTest, eventually, seconds

COUNT = 200000
START = [0.25] * COUNT
POLICY = {"trigger": "TRIGGER_BARRIER", "lease": f"{seconds(0.6):g}s"}
_processes = multiprocessing.get_context("fork")


def gradient(rank, round_number):
    return tensors.to_bytes(tensors.floats([0.125 * (rank + 1) * (round_number + 1)])) * COUNT


def head(worker, size):
    return (f"POST {worker.target()} HTTP/1.1\r\nHost: test\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n").encode()


def push_half(worker, told):
    data = gradient(2, 0)
    with worker.model.daemon.socket() as connected:
        connected.sendall(head(worker, len(data)) + data[: len(data) // 2])
        told.set()
        time.sleep(60)


def push_and_wait(worker, told):
    data = gradient(2, 0)
    with worker.model.daemon.socket() as connected:
        connected.sendall(head(worker, len(data)) + data)
        told.set()
        connected.recv(1)
        time.sleep(60)


def wait_for_version(worker, told):
    told.set()
    worker.model.pull(min_version=99, wait="30s")


def train(worker, told):
    told.set()
    for round_number in range(1000):
        worker.push(gradient(2, round_number), timeout=60)


class KillWorker(DaemonTest):
    def setUp(self):
        self.model = self.daemon.create_model(
            self.name, {"w": [COUNT]}, POLICY, start={"w": START})
        self.crew = [self.model.register(f"w{i}", rank=i) for i in range(3)]

    def kill(self, act, worker, wait=0.1):
        """A process that does act(worker, told) and is killed in the middle of it."""
        told = _processes.Event()
        process = _processes.Process(target=act, args=(worker, told), daemon=True)
        process.start()
        self.assertTrue(told.wait(seconds(10)))
        time.sleep(seconds(wait))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        return process

    def round_of_two(self, number, contributors):
        calls = [Background(w.push, gradient(w_rank, number))
                 for w_rank, w in enumerate(self.crew[:2])]
        for call in calls:
            said = call.result(10).expect(200).json()
            self.assertEqual(said["contributors"], contributors)

    def rejoin(self):
        """The same worker, started again, is in the next round."""
        again = self.model.register("w2")
        self.assertEqual(again.info()["rank"], 2)
        calls = [Background(w.push, gradient(0, 9)) for w in (*self.crew[:2], again)]
        for call in calls:
            self.assertEqual(call.result(10).expect(200).json()["contributors"], 3)
        return again

    def test_in_the_middle_of_a_body_its_push_is_dropped(self):
        self.kill(push_half, self.crew[2])
        self.round_of_two(0, 2)
        eventually(lambda: self.model.counts()["aborted"] == 1)
        self.assertEqual(self.rejoin().info().get("lastSequence"), "1")

    def test_while_it_is_staged_its_push_counts_once(self):
        self.kill(push_and_wait, self.crew[2])
        self.round_of_two(0, 3)
        said = self.daemon.post(self.model.path + "/workers", worker_id="w2").expect(200).json()
        self.assertEqual(said["worker"]["lastSequence"], "1")
        self.assertEqual(said["worker"]["lastVersion"], "1")
        self.rejoin()

    def test_while_it_waits_for_a_version_the_rounds_go_on(self):
        self.kill(wait_for_version, self.crew[2])
        self.round_of_two(0, 2)
        self.rejoin()

    def test_again_and_again_in_the_middle_of_training(self):
        """Whatever the moment, each round is of those who live, and each push is in one record."""
        with_third = 0
        for number in range(4):
            third = self.model.register("w2")
            self.crew[2] = third
            calls = [Background(w.push, gradient(r, number)) for r, w in enumerate(self.crew[:2])]
            self.kill(train, third, wait=0.013 * number)
            for call in calls:
                with_third += call.result(10).expect(200).json()["contributors"] == 3
            if number == 2:
                time.sleep(seconds(0.7))
        records = self.model.all_records()
        seen = [(c["worker"], c["epoch"], c["sequence"])
                for r in records for c in r["contributions"]]
        self.assertEqual(len(seen), len(set(seen)))
        self.assertEqual(len(seen), self.model.counts()["applied"])
        self.assertEqual(len(records), self.model.version)

    def test_all_of_them_die_and_come_back(self):
        for worker in self.crew:
            self.kill(push_half, worker, wait=0.02)
        time.sleep(seconds(0.7))
        self.assertEqual(int(self.model.get().get("liveWorkers", 0)), 0)
        self.crew = [self.model.register(f"w{i}") for i in range(3)]
        calls = [Background(w.push, gradient(0, 0)) for w in self.crew]
        for call in calls:
            self.assertEqual(call.result(10).expect(200).json()["contributors"], 3)
        self.assertEqual(self.model.version, 1)


if __name__ == "__main__":
    unittest.main()
