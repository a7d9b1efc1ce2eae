"""SIGTERM in every phase of a request: what was accepted is finished and answered, then exit 0."""

import signal
import time
import unittest

import tensors
from harness import Background, Daemon, eventually, seconds

SHAPES = {"w": [4]}
START = {"w": [1, 2, 3, 4]}
GRAD = [0.1, 0.2, 0.3, 0.4]
DATA = tensors.to_bytes(tensors.floats(GRAD))
BIG = 3000000  # elements; more than the sockets' buffers hold


class Drain(unittest.TestCase):
    flags = ("--drain-limit", f"{int(seconds(5000))}ms")

    def setUp(self):
        self.daemon = Daemon(*self.flags).start()
        self.addCleanup(self.daemon.discard)

    def ends(self, status=0, within=4.0):
        self.assertEqual(self.daemon.wait(seconds(within)), status, self.daemon.log())

    def test_an_idle_daemon_ends_at_once(self):
        begun = time.monotonic()
        self.daemon.terminate()
        self.ends()
        self.assertLess(time.monotonic() - begun, seconds(1))

    def test_a_model_that_was_just_deleted_keeps_nothing_from_ending(self):
        """Its operations in flight complete, and wake the loop, while the daemon takes itself apart."""
        for _ in range(8):
            with Daemon() as daemon:
                for _ in range(4):
                    model = daemon.create_model("m", {"w": [1 << 20]}).initialize()
                    daemon.request("DELETE", model.path, force="true").expect(200)

    def test_an_interrupt_is_a_drain_as_well(self):
        self.daemon.process.send_signal(signal.SIGINT)
        self.ends()

    def test_idle_connections_hold_nobody_up(self):
        silent = [self.daemon.socket() for _ in range(5)]
        kept = self.daemon.connection()
        kept.request("GET", "/v1/server").expect(200)
        self.daemon.terminate()
        self.ends(within=2)
        for connected in silent:
            connected.close()
        kept.close()

    def test_a_call_drains_as_the_signal_does(self):
        self.daemon.post("/v1/server:drain").expect(200)
        self.ends()

    def test_a_push_in_the_middle_of_its_body_is_finished_and_answered(self):
        model = self.daemon.create_model("m", SHAPES, start=START)
        worker = model.register("w0")
        with self.daemon.socket() as connected:
            connected.sendall(head(worker) + DATA[:5])
            eventually(lambda: model.get())
            self.daemon.terminate()
            time.sleep(seconds(0.3))
            self.assertIsNone(self.daemon.process.poll(), "an accepted push is finished first")
            connected.sendall(DATA[5:])
            answer = read_to_end(connected)
        self.assertTrue(answer.startswith(b"HTTP/1.1 200"), answer)
        self.assertIn(b'"version":"1"', answer.replace(b" ", b""))
        self.ends()

    def test_meanwhile_new_work_is_refused_and_readiness_is_gone(self):
        model = self.daemon.create_model("m", SHAPES, start=START)
        worker, other = model.register("w0"), model.register("w1")
        kept = [self.daemon.connection() for _ in range(3)]
        for connection in kept:
            connection.request("GET", "/livez").expect(200)
        with self.daemon.socket() as connected:
            connected.sendall(head(worker) + DATA[:5])
            eventually(lambda: model.get())
            self.daemon.terminate()
            time.sleep(seconds(0.2))
            refused = []
            for connection, ask in zip(kept, (
                    lambda c: c.request("GET", "/readyz"),
                    lambda c: other.push(GRAD, connection=c),
                    lambda c: c.request("POST", model.path + "/workers", worker_id="w2"))):
                try:
                    refused.append(ask(connection))
                except OSError:
                    pass  # idle connections may be closed: that is a refusal, too
            for reply in refused:
                self.assertEqual(reply.status, 503, reply)
                self.assertEqual(reply.headers.get("connection"), "close")
            connected.sendall(DATA[5:])
            self.assertTrue(read_to_end(connected).startswith(b"HTTP/1.1 200"))
        self.ends()

    def test_a_round_that_cannot_close_is_aborted(self):
        model = self.daemon.create_model("m", SHAPES, {"trigger": "TRIGGER_BARRIER"}, start=START)
        one, _ = model.register("w0"), model.register("w1")
        one.stage(GRAD)
        call = Background(one.push, GRAD)
        time.sleep(seconds(0.1))
        self.daemon.terminate()
        reply = call.result()
        self.assertEqual((reply.status, reply.reason), (409, "STEP_ABORTED"), reply)
        self.ends()

    def test_a_round_that_is_complete_is_answered(self):
        model = self.daemon.create_model("m", {"w": [BIG]}, {"trigger": "TRIGGER_BARRIER"})
        model.initialize()
        crew = [model.register(f"w{i}") for i in range(3)]
        for worker in crew[:-1]:
            worker.stage(b"\0" * 4 * BIG)
        calls = [Background(w.push, b"\0" * 4 * BIG) for w in crew]
        eventually(lambda: any(c.done() for c in calls) or model.version == 1)
        self.daemon.terminate()
        for call in calls:
            call.result().expect(200)
        self.ends()

    def test_a_pull_under_way_is_finished(self):
        model = self.daemon.create_model("m", {"w": [BIG]})
        model.initialize()
        with self.daemon.socket() as connected:
            connected.sendall(f"GET {model.path}/parameters?format=raw HTTP/1.1\r\n"
                              "Host: t\r\n\r\n".encode())
            first = connected.recv(1000)
            self.daemon.terminate()
            time.sleep(seconds(0.3))
            body = (first + read_to_end(connected)).split(b"\r\n\r\n", 1)[1]
        self.assertEqual(len(body), 4 * BIG)
        self.ends()

    def test_whoever_waits_for_a_version_is_told(self):
        model = self.daemon.create_model("m", SHAPES, start=START)
        call = Background(model.pull, min_version=1, wait="30s")
        follow = Background(self.daemon.get, model.path + "/steps", follow="true")
        time.sleep(seconds(0.2))
        self.daemon.terminate()
        call.result(5).expect(503, "DRAINING")
        self.assertEqual(follow.result(5).status, 200)
        self.ends()

    def test_the_second_signal_ends_it_at_once(self):
        worker = self.daemon.create_model("m", SHAPES, start=START).register("w0")
        with self.daemon.socket() as connected:
            connected.sendall(head(worker) + DATA[:5])
            time.sleep(seconds(0.1))
            self.daemon.terminate()
            time.sleep(seconds(0.2))
            self.daemon.terminate()
            self.ends(75, within=1)


class DrainLimit(unittest.TestCase):
    def test_a_peer_that_never_ends_does_not_keep_the_daemon(self):
        limit = int(seconds(500))
        daemon = Daemon("--drain-limit", f"{limit}ms").start()
        self.addCleanup(daemon.discard)
        worker = daemon.create_model("m", SHAPES, start=START).register("w0")
        with daemon.socket() as connected:
            connected.sendall(head(worker) + DATA[:5])
            time.sleep(seconds(0.1))
            begun = time.monotonic()
            daemon.terminate()
            self.assertEqual(daemon.wait(seconds(5)), 75)
            self.assertGreater(time.monotonic() - begun, limit * 0.8 / 1000)


def head(worker):
    return (f"POST {worker.target()} HTTP/1.1\r\nHost: test\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {len(DATA)}\r\n\r\n").encode()


def read_to_end(connected):
    data = bytearray()
    while piece := connected.recv(1 << 20):
        data += piece
    return bytes(data)


if __name__ == "__main__":
    unittest.main()
