#!/usr/bin/env python3
"""Hours in minutes: workers join, train, die and push nonsense; then every outcome is accounted for.

    tests/soak/soak.py [--seconds 1800] [--seed 1]

Environment: SOAK_SECONDS, ADAMD_BIN, ADAMD_TEST_SCALE. Ends with 0, or with 1 and what was wrong:

- each push that was acknowledged is in exactly one step record, under the version that its answer named;
- the records' contributions and the model's counts agree with each other and with the workers' tallies;
- resident memory is flat after the warm-up, descriptors and threads are what they were at the start;
- the daemon lives, ends cleanly, and /readyz was quick throughout.
"""

import argparse
import collections
import os
import pathlib
import random
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))

import tensors  # noqa: E402
from harness import Daemon, Worker, seconds  # noqa: E402
from ledger import Ledger  # noqa: E402

SHAPES = {"w": [200, 100], "b": [33], "s": []}
COUNT = 20034
NAMES = 40  # each actor's workers take turns, so that no name registers too often
MIB = 1 << 20
MODELS = {
    "each": {"trigger": "TRIGGER_EACH_PUSH", "nonfinite": "NONFINITE_SKIP", "maxStaleness": "8",
             "lease": "2s"},
    "sync": {"trigger": "TRIGGER_BARRIER", "lease": "1s", "quorum": 1, "deadline": "0.3s"},
}


def value(number):
    return struct.pack("<f", number)


class Actor(threading.Thread):
    """Something that happens again and again until the soak is over."""

    def __init__(self, soak, seed):
        super().__init__(daemon=True)
        self.soak, self.daemon_ = soak, soak.daemon
        self.chance = random.Random(seed)
        self.done = collections.Counter()

    def run(self):
        while not self.soak.over.is_set():
            try:
                self.act()
            except BaseException as error:  # pylint: disable=broad-except
                if not self.soak.over.is_set():
                    self.soak.fail(f"{type(self).__name__}: {error!r}")
                return

    def act(self):
        raise NotImplementedError


class Trainer(Actor):
    """One life of a worker after another."""

    def __init__(self, soak, seed, model):
        super().__init__(soak, seed)
        self.model, self.lives, self.ledger = model, 0, soak.ledgers[model.name]
        self.base = 0

    def act(self):
        self.lives += 1
        name = f"t{id(self) % 9973}-{self.lives % NAMES}"
        reply = self.daemon_.post(self.model.path + "/workers", worker_id=name)
        if reply.status in (429, 503):
            time.sleep(0.2)
            return
        said = reply.expect(200).json()
        worker = Worker(self.model, name, int(said["epoch"]), int(said["generation"]))
        self.base = int(said.get("version", 0))
        with self.daemon_.connection() as connection:
            for _ in range(self.chance.randrange(1, 60)):
                if self.soak.over.is_set():
                    break
                self.one_push(worker, connection)
        if self.chance.random() < 0.5:
            worker.deregister()
        else:
            self.die(worker)
        self.done["lives"] += 1

    def gradient(self):
        return value(self.chance.uniform(-1, 1)) * COUNT

    def one_push(self, worker, connection):
        data, dice = self.gradient(), self.chance.random()
        if dice < 0.05:
            self.cut(worker, data, self.chance.randrange(len(data)))
        elif dice < 0.10:
            self.ledger.doubt(worker, worker.sequence + 1)
            self.cut(worker, data, len(data))
        elif dice < 0.13:
            data = value(float("nan")) + data[4:]
        elif dice < 0.16:
            reply = worker.push(data[:-4], connection=connection)
            self.ledger.refused(reply)
            return
        elif dice < 0.19 and worker.sequence > 0:
            reply = worker.push(data, sequence=worker.sequence, connection=connection)
            assert reply.status in (200, 409), reply
            self.done["repeats"] += 1
            return
        self.push_until_decided(worker, data, connection)

    def push_until_decided(self, worker, data, connection):
        sequence = worker.sequence + 1
        while True:
            try:
                reply = worker.push(data, sequence=sequence, connection=connection,
                                    headers={"Request-Timeout-Ms": "1500"}, base_version=self.base)
            except OSError:
                connection.close()
                self.ledger.doubt(worker, sequence)
                continue
            if reply.status == 200 or reply.reason == "STALE":
                break
            if reply.reason == "NONFINITE":
                self.ledger.refused(reply)
                return
            again = ("BUSY", "WORKER_BUSY", "STILL_STAGED", "STEP_ABORTED", "OUT_OF_ORDER",
                     "OPERATION_RUNNING")
            assert reply.reason in again, reply
            self.done[reply.reason] += 1
            if self.soak.over.is_set():
                self.ledger.doubt(worker, sequence)
                return
            time.sleep(0.01)
        self.ledger.decided(worker, sequence, reply)
        said = reply.metadata.get("current_version") or reply.json().get("version")
        self.base = max(self.base, int(said or 0))

    def head(self, worker, size):
        return (f"POST {worker.target()} HTTP/1.1\r\nHost: s\r\nContent-Length: {size}\r\n"
                "Content-Type: application/octet-stream\r\n\r\n").encode()

    def cut(self, worker, data, size):
        """Sends so much of a push, and is gone: with a reset, half of the time."""
        with self.daemon_.socket() as connected:
            if self.chance.random() < 0.5:
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connected.sendall(self.head(worker, len(data)) + data[:size])
        self.done["cut"] += 1

    def die(self, worker):
        data = self.gradient()
        whole = self.chance.random() < 0.5
        self.ledger.doubt(worker, worker.sequence + 1)
        self.cut(worker, data, len(data) if whole else self.chance.randrange(len(data)))


class Vandal(Actor):
    """Requests that nobody would send by accident, and answers that nobody waits for."""

    def act(self):
        model = self.chance.choice(list(self.soak.models.values()))
        kinds = (self.noise, self.bad_head, self.bad_json, self.lie, self.impostor, self.slow_body)
        self.chance.choice(kinds)(model)
        time.sleep(0.01)

    def noise(self, _):
        self.send(self.chance.randbytes(self.chance.randrange(1, 3000)))

    def bad_head(self, model):
        lines = (b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"Content-Length: -1",
                 b"Content-Length: 99999999999999999999", b"X: " + b"y" * 40000,
                 b"Content-Length: 4\r\nContent-Length: 5")
        path = self.chance.choice((model.path + "/gradients", "/v1/models", "/%00", "/../../x"))
        self.send(f"POST {path} HTTP/1.1\r\nHost: v\r\n".encode() + self.chance.choice(lines)
                  + b"\r\n\r\n" + self.chance.randbytes(20))

    def bad_json(self, model):
        text = self.chance.choice(('{"tensors":', '{"lr":1}', "[" * 5000, '{"defaults":{"lr":-1}}',
                                   '{"stepPolicy":{"lease":"never"}}', "\0", '{"defaults":{"lr":NaN}}'))
        path = self.chance.choice((model.path, "/v1/models?model_id=x"))
        method = "PATCH" if path == model.path else "POST"
        reply = self.daemon_.request(method, path, text.encode(),
                                     {"Content-Type": "application/json"})
        assert 400 <= reply.status < 500, (text[:40], reply)

    def lie(self, model):
        """A safetensors file that is not what it says."""
        good = tensors.write_safetensors({"b": ([33], tensors.floats([0] * 33))})
        bad = bytearray(good)
        bad[self.chance.randrange(min(100, len(bad)))] ^= 1 << self.chance.randrange(8)
        reply = self.daemon_.post(
            model.path + "/gradients", bytes(bad), headers={"Content-Type": "application/x-safetensors"},
            worker="nobody", epoch=1, sequence=1)
        assert 400 <= reply.status < 500, reply
        self.done["lies"] += 1

    def impostor(self, model):
        reply = self.daemon_.post(
            model.path + "/gradients", b"\0" * 4 * COUNT, worker="t0-0", epoch=10**6, sequence=1,
            headers={"Content-Type": "application/octet-stream"})
        assert reply.status in (400, 404, 409), reply

    def slow_body(self, model):
        with self.daemon_.socket() as connected:
            connected.sendall(f"POST {model.path}:step HTTP/1.1\r\nHost: v\r\n"
                              "Content-Type: application/json\r\nContent-Length: 20\r\n\r\n".encode())
            for _ in range(self.chance.randrange(12)):
                if self.soak.over.wait(0.1):
                    return
                try:
                    connected.send(b" ")
                except OSError:
                    return

    def send(self, data):
        with self.daemon_.socket(1) as connected:
            try:
                connected.sendall(data)
                connected.shutdown(socket.SHUT_WR)
                while connected.recv(65536):
                    pass
            except OSError:
                pass
        self.done["noise"] += 1


class Reader(Actor):
    """Pulls, fast and slowly; all elements of a tensor are equal in every version."""

    def act(self):
        model = self.chance.choice(list(self.soak.models.values()))
        if self.chance.random() < 0.2:
            reply = model.pull(min_version=model.version + 1, wait="0.5s", format="raw")
        elif self.chance.random() < 0.2:
            self.slowly(model)
            return
        else:
            reply = model.pull(format="raw")
        if reply.status == 200:
            assert reply.body == reply.body[:4] * COUNT, "a version is torn"
            self.done["pulls"] += 1
        else:
            assert reply.status in (503, 504), reply
        time.sleep(0.02)

    def slowly(self, model):
        with socket.socket() as connected:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connected.settimeout(seconds(10))
            connected.connect(("127.0.0.1", self.daemon_.port))
            connected.sendall(f"GET {model.path}/parameters HTTP/1.1\r\nHost: r\r\n\r\n".encode())
            for _ in range(self.chance.randrange(1, 10)):
                connected.recv(2048)
                time.sleep(0.02)
        self.done["left"] += 1


class Pinger(Actor):
    """Asks /readyz all the time, on a connection that it keeps, and how long each answer took."""

    def __init__(self, soak, seed):
        super().__init__(soak, seed)
        self.connection, self.times = self.daemon_.connection(), []

    def act(self):
        begun = time.monotonic()
        self.connection.request("GET", "/readyz").expect(200)
        self.times.append(time.monotonic() - begun)
        time.sleep(0.01)


class Clerk(Actor):
    """Copies the step records before the daemon forgets them, and what the process takes."""

    def __init__(self, soak, seed):
        super().__init__(soak, seed)
        self.samples = []

    def act(self):
        for name, model in self.soak.models.items():
            self.soak.ledgers[name].read_records(model)
        self.samples.append((time.monotonic(), self.daemon_.memory(), self.daemon_.descriptors()))
        self.soak.over.wait(0.5)


class Soak:
    def __init__(self, daemon, duration, seed):
        self.daemon, self.duration = daemon, duration
        self.over, self.failures = threading.Event(), []
        self.models = {
            name: daemon.create_model(name, SHAPES, policy,
                                      start={"w": [0] * 20000, "b": [0] * 33, "s": [0]})
            for name, policy in MODELS.items()}
        self.ledgers = {name: Ledger() for name in MODELS}
        self.trainers = [Trainer(self, seed + i, model)
                         for i, model in enumerate([*self.models.values()] * 3)]
        self.pinger, self.clerk = Pinger(self, seed), Clerk(self, seed)
        self.actors = [*self.trainers, Vandal(self, seed + 10), Vandal(self, seed + 11),
                       Reader(self, seed + 12), Reader(self, seed + 13), self.pinger, self.clerk]

    def fail(self, text):
        self.failures.append(text)
        self.over.set()

    def run(self):
        for actor in self.actors:
            actor.start()
        self.over.wait(self.duration)
        self.over.set()
        for actor in self.actors:
            actor.join(seconds(30))
            if actor.is_alive():
                self.failures.append(f"{type(actor).__name__} does not end")
        self.pinger.connection.close()

    def settle(self, base):
        """All has been answered, and every connection is gone."""
        end = time.monotonic() + seconds(20)
        while time.monotonic() < end:
            if self.daemon.descriptors() <= base[0] and self.daemon.threads() <= base[1]:
                break
            time.sleep(0.1)
        time.sleep(seconds(1.5))  # leases, rounds and cut connections come to their end

    def check(self, base):
        now = (self.daemon.descriptors(), self.daemon.threads())
        if now != base:
            self.failures.append(f"descriptors and threads: {base} at the start, {now} at the end")
        for name, model in self.models.items():
            self.ledgers[name].read_records(model)
            self.failures += [f"{name}: {text}" for text in self.ledgers[name].check(model)]
        self.check_memory()
        times = sorted(self.pinger.times) or [float("inf")]
        late = times[int(len(times) * 0.99)]
        print(f"readyz: {len(times)} times, median {times[len(times) // 2] * 1e3:.1f} ms, "
              f"99 % {late * 1e3:.1f} ms, longest {times[-1] * 1e3:.1f} ms")
        if late > seconds(0.2) or times[-1] > seconds(2):
            self.failures.append("readyz was slow")

    def check_memory(self):
        """The line through the samples after the warm-up rises by less than 2 MiB over the soak."""
        samples = self.clerk.samples[len(self.clerk.samples) // 3 :]
        if len(samples) < 10:
            return
        middle = sum(t for t, _, _ in samples) / len(samples)
        mean = sum(m for _, m, _ in samples) / len(samples)
        above = sum((t - middle) * (m - mean) for t, m, _ in samples)
        slope = above / sum((t - middle) ** 2 for t, _, _ in samples)
        rise = slope * (samples[-1][0] - samples[0][0])
        print(f"memory: {mean / MIB:.1f} MiB, slope {slope * 3600 / MIB:.2f} MiB/h, "
              f"most descriptors {max(d for _, _, d in samples)}")
        if rise > 2 * MIB:
            self.failures.append(f"memory rose by {rise / MIB:.1f} MiB")

    def report(self):
        total = collections.Counter()
        for actor in self.actors:
            total.update({f"{type(actor).__name__.lower()} {k}": n for k, n in actor.done.items()})
        print("; ".join(f"{k} {n}" for k, n in sorted(total.items())))
        for name, ledger in self.ledgers.items():
            print(f"{name}: {ledger}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("SOAK_SECONDS", 60)))
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    flags = ("--body-timeout", "2s", "--header-timeout", "2s", "--response-timeout", "5s",
             "--idle-timeout", "20s", "--slots-max", "16", "--log-level", "error")
    with Daemon(*flags) as daemon:
        daemon.get("/readyz").expect(200)
        soak = Soak(daemon, arguments.seconds, arguments.seed)
        time.sleep(0.2)
        base = (daemon.descriptors(), daemon.threads())
        soak.run()
        soak.settle(base)
        soak.check(base)
        soak.report()
    for failure in soak.failures:
        print("failed:", failure)
    return 1 if soak.failures else 0


if __name__ == "__main__":
    sys.exit(main())
