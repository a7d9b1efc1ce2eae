"""Every limit, from both sides: at it all is well, past it the answer is quick and says why."""

import socket
import time
import unittest

import tensors
from harness import Background, Daemon, DaemonTest, eventually, seconds

MIB = 1 << 20


def head(worker, size, sequence=None):
    return (f"POST {worker.target(sequence)} HTTP/1.1\r\nHost: test\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n").encode()


class Slots(DaemonTest):
    flags = ("--slots-max", "3")

    def test_a_push_without_a_free_slot_is_told_to_come_again(self):
        model = self.daemon.create_model(self.name, {"w": [4]}, start={"w": [1, 2, 3, 4]})
        crew = [model.register(f"w{i}") for i in range(4)]
        held = [self.daemon.socket() for _ in range(3)]
        for connected, worker in zip(held, crew):
            connected.sendall(head(worker, 16) + b"\0")
        begun = time.monotonic()
        reply = eventually(lambda: busy(crew[3].push([1] * 4, sequence=1)))
        self.assertLess(time.monotonic() - begun, seconds(5))
        self.assertIn("retry-after", reply.headers)
        self.assertEqual(model.pull().status, 200)
        for connected in held:
            connected.close()
        eventually(lambda: crew[3].push([1] * 4).status == 200)
        self.assertEqual(model.counts()["aborted"], 3)

    def test_a_barrier_of_more_workers_than_slots_is_told_at_the_latest_when_they_push(self):
        policy = {"trigger": "TRIGGER_BARRIER"}
        model = self.daemon.create_model(self.name, {"w": [4]}, policy, start={"w": [1, 2, 3, 4]})
        replies = [self.daemon.post(model.path + "/workers", worker_id=f"w{i}") for i in range(4)]
        if all(r.status == 200 for r in replies):
            workers = [model.register(f"x{i}") for i in range(4)]
            for worker in workers[:3]:
                worker.stage([1] * 4)
            workers[3].push([1] * 4).expect(503, "BUSY")
        else:
            self.assertIn(replies[3].reason, ("TOO_LARGE", "BUSY"), replies[3])


def busy(reply):
    """The reply, once it is a refusal; versions that were made before that do no harm."""
    return reply if (reply.status, reply.reason) == (503, "BUSY") else None


class InFlight(DaemonTest):
    def test_one_worker_has_no_more_than_four_pushes_in_flight(self):
        model = self.daemon.create_model(self.name, {"w": [4]}, start={"w": [1, 2, 3, 4]})
        worker, other = model.register("w0"), model.register("w1")
        held = [self.daemon.socket() for _ in range(4)]
        for sequence, connected in enumerate(held, 1):
            connected.sendall(head(worker, 16, sequence) + b"\0")
            time.sleep(seconds(0.05))
        reply = worker.push([1] * 4, sequence=5).expect(429, "WORKER_BUSY")
        self.assertIn("retry-after", reply.headers)
        other.push([1] * 4).expect(200)
        for connected in held:
            connected.close()
        eventually(lambda: worker.push([1] * 4, sequence=1).status == 200)

    def test_pushes_in_flight_are_decided_in_the_order_of_their_numbers(self):
        model = self.daemon.create_model(self.name, {"w": [4]}, start={"w": [1, 2, 3, 4]})
        worker, data = model.register("w0"), tensors.to_bytes(tensors.floats([1] * 4))
        held = [self.daemon.socket() for _ in range(3)]
        for sequence, connected in enumerate(held, 1):
            connected.sendall(head(worker, 16, sequence) + data[:4])
            time.sleep(seconds(0.05))
        for connected in reversed(held):
            connected.sendall(data[4:])
            time.sleep(seconds(0.05))
        for sequence, connected in enumerate(held, 1):
            answer = connected.recv(65536).replace(b" ", b"")
            self.assertIn(f'"version":"{sequence}"'.encode(), answer)
            connected.close()


class Memory(DaemonTest):
    flags = ("--memory-max", "64M", "--models-max", "3")

    def create(self, name, count, **query):
        body = {"tensors": [{"key": "w", "shape": [str(count)]}]}
        return self.daemon.post("/v1/models", body, model_id=name, **query)

    def resident(self):
        return int(self.daemon.get("/v1/server").json().get("residentBytes", 0))

    def test_a_model_that_does_not_fit_is_refused_before_it_costs_anything(self):
        before = self.daemon.memory()
        reply = self.create("large", 100 * MIB)
        self.assertIn(reply.reason, ("TOO_LARGE", "NO_MEMORY"), reply)
        reply = self.create("larger", 1 << 62)
        self.assertIn(reply.status, (400, 413), reply)
        self.daemon.get("/v1/models/large").expect(404, "NOT_FOUND")
        self.assertLess(self.daemon.memory() - before, 8 * MIB)
        self.create("large", 100, validate_only="true").expect(200)
        self.daemon.get("/v1/models/large").expect(404, "NOT_FOUND")

    def test_models_are_counted_and_their_memory_comes_back(self):
        for i in range(3):
            self.create(f"m{i}", 100).expect(200)
        reply = self.create("m3", 100)
        self.assertIn(reply.status, (413, 429, 503), reply)
        for i in range(3):
            self.daemon.request("DELETE", f"/v1/models/m{i}", force="true").expect(200)
        self.assertEqual(int(self.daemon.get("/v1/server").json().get("residentBytes", 0)), 0)
        for _ in range(20):
            self.create("again", MIB).expect(200)
            self.daemon.post("/v1/models/again:initialize").expect(200)
            self.daemon.request("DELETE", "/v1/models/again", force="true").expect(200)
            eventually(lambda: self.resident() == 0)  # its operations in flight are done
        self.assertLess(self.daemon.memory(), 200 * MIB)

    def test_what_is_resident_is_what_the_server_says(self):
        self.create("m", MIB).expect(200)
        model = self.daemon.get("/v1/models/m").json()
        server = self.daemon.get("/v1/server").json()
        self.assertGreaterEqual(int(model["residentBytes"]), 12 * MIB)
        self.assertEqual(int(server["residentBytes"]), int(model["residentBytes"]))
        self.daemon.request("DELETE", "/v1/models/m", force="true").expect(200)


class Connections(unittest.TestCase):
    def test_connections_past_the_limit_are_closed_and_the_others_go_on(self):
        with Daemon("--connections-max", "20") as daemon:
            base = daemon.descriptors()
            kept = daemon.connection()
            kept.request("GET", "/livez").expect(200)
            idle = [daemon.socket() for _ in range(40)]
            for _ in range(5):
                kept.request("GET", "/livez").expect(200)
            self.assertLessEqual(daemon.descriptors(), base + 25)
            for connected in idle:
                connected.close()
            eventually(lambda: daemon.get("/livez").status == 200)
            kept.close()

            def settled():
                return daemon.descriptors() <= base
            eventually(settled)

    def test_connections_of_one_address_have_a_limit_of_their_own(self):
        with Daemon("--connections-per-address-max", "5") as daemon:
            idle = [daemon.socket() for _ in range(12)]
            time.sleep(seconds(0.2))
            closed = 0
            for connected in idle:
                connected.settimeout(seconds(0.1))
                try:
                    closed += connected.recv(1) == b""
                except TimeoutError:
                    pass
                except ConnectionResetError:
                    closed += 1
                connected.close()
            self.assertGreaterEqual(closed, 7)
            eventually(lambda: daemon.get("/livez").status == 200)

    def test_idle_and_slow_peers_are_cut_and_a_worker_goes_on_meanwhile(self):
        flags = ("--header-timeout", "300ms", "--idle-timeout", "300ms", "--body-timeout", "500ms",
                 "--response-timeout", "500ms", "--min-rate", "100M")
        with Daemon(*flags) as daemon:
            model = daemon.create_model("m", {"w": [4]}, start={"w": [1, 2, 3, 4]})
            worker, slow = model.register("w0"), model.register("slow")
            drips = {
                "silent": (b"", None), "header": (b"GET /livez HTTP/1.1\r\n", b"X"),
                "body": (head(slow, 16) + b"\0", b"\0"),
            }
            calls = {n: Background(drip, daemon, *what) for n, what in drips.items()}
            begun = time.monotonic()
            while not all(call.done() for call in calls.values()):
                worker.push([1] * 4).expect(200)
                self.assertLess(time.monotonic() - begun, seconds(8))
            for name, call in calls.items():
                self.assertLess(call.result(), seconds(5), name)
            self.assertEqual(slow.push([1] * 4).expect(200).json()["sequence"], "1")

    def test_an_answer_that_nobody_reads_is_given_up(self):
        flags = ("--response-timeout", "300ms", "--min-rate", "1G", "--idle-timeout", "30s")
        with Daemon(*flags) as daemon:
            model = daemon.create_model("m", {"w": [4 * MIB]})
            model.initialize()
            base = daemon.descriptors()
            deaf = []
            for _ in range(3):
                connected = socket.socket()
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connected.connect(("127.0.0.1", daemon.port))
                connected.sendall(f"GET {model.path}/parameters HTTP/1.1\r\nHost: t\r\n\r\n".encode())
                deaf.append(connected)

            def given_up():
                return daemon.descriptors() <= base
            time.sleep(seconds(0.1))
            eventually(given_up)
            self.assertEqual(model.pull().expect(200).headers["adamd-version"], "0")
            for connected in deaf:
                connected.close()


def drip(daemon, first, byte):
    """Sends slowly until the daemon ends it. Returns how long that took."""
    begun = time.monotonic()
    with daemon.socket() as connected:
        connected.sendall(first)
        connected.settimeout(0.1)
        while time.monotonic() - begun < seconds(8):
            try:
                if byte:
                    connected.sendall(byte)
                if connected.recv(65536) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
    return time.monotonic() - begun


class Bodies(DaemonTest):
    def test_a_push_is_as_long_as_the_model_and_not_a_byte_longer(self):
        model = self.daemon.create_model(self.name, {"w": [4]}, start={"w": [1, 2, 3, 4]})
        worker = model.register("w0")
        worker.push(b"\0" * 16).expect(200)
        for size in (0, 15, 17, 20, 1 << 20):
            with self.subTest(size=size):
                reply = worker.push(b"\0" * size)
                self.assertIn(reply.status, (400, 413, 422), reply)
        with self.daemon.socket() as connected:
            connected.sendall(head(worker, 1 << 40))
            answer = connected.recv(65536)
        self.assertIn(answer.split(b" ")[1], (b"413", b"422"))

    def test_a_message_has_a_limit(self):
        body = b'{"tensors":[' + b" " * (40 << 20) + b"]}"
        reply = self.daemon.post("/v1/models", body, model_id="m",
                                 headers={"Content-Type": "application/json"})
        self.assertEqual(reply.status, 413)
        self.assertEqual(self.daemon.get("/livez").status, 200)


if __name__ == "__main__":
    unittest.main()
