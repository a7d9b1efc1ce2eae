"""What a pull returns is one version, whole: while steps run, for readers of any speed."""

import socket
import time
import unittest

import tensors
import wire
from adam import Adam
from harness import Background, DaemonTest, eventually, seconds

# Every element starts the same and gets the same gradient, so that all of a version's elements are
# one number, which the reference tells.
SHAPES = {"a": [300, 1000], "b": [1], "c": [700, 1000], "d": []}
COUNT = 1000002
GRADIENT = tensors.to_bytes(tensors.floats([0.5])) * COUNT


def expected_values(versions):
    """Bytes of one element at each version."""
    reference = Adam({"x": [1.0]})
    values = [tensors.to_bytes(reference.params["x"])]
    for _ in range(versions):
        reference.step({"x": [0.5]})
        values.append(tensors.to_bytes(reference.params["x"]))
    return values


class Pull(DaemonTest):
    # Slow readers are slower still where the daemon is.
    flags = ("--response-timeout", f"{int(seconds(30))}s")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.expected = expected_values(400)

    def setUp(self):
        start = {key: [1.0] * n for key, n in (("a", 300000), ("b", 1), ("c", 700000), ("d", 1))}
        self.model = self.daemon.create_model(self.name, SHAPES, start=start)

    def tearDown(self):
        self.daemon.request("DELETE", self.model.path, force="true").expect(200)

    def steps(self, count, worker=None):
        worker = worker or self.model.register("stepper")
        with self.daemon.connection() as connection:
            for _ in range(count):
                worker.push(GRADIENT, connection=connection).expect(200)

    def assert_whole(self, reply):
        """The raw body is the version that the headers name. Returns the version."""
        reply.expect(200)
        version = int(reply.headers["adamd-version"])
        self.assertEqual(reply.headers["etag"], f'"g{self.model.generation}.v{version}.raw"')
        self.assertTrue(reply.body == self.expected[version] * COUNT, f"version {version} is torn")
        return version

    def test_pulls_during_steps_are_each_of_one_version(self):
        def read():
            seen = []
            with self.daemon.connection() as connection:
                while not pusher.done():
                    reply = connection.request("GET", self.model.path + "/parameters?format=raw")
                    if reply.status == 503:
                        continue
                    seen.append(self.assert_whole(reply))
            return seen

        pusher = Background(self.steps, 60)
        readers = [Background(read) for _ in range(3)]
        pusher.result(60)
        for reader in readers:
            seen = reader.result(60)
            self.assertEqual(seen, sorted(seen), "versions never go back")
            self.assertGreater(len(set(seen)), 1)
        self.assertEqual(self.assert_whole(self.model.pull(format="raw")), 60)

    def test_a_slow_reader_gets_one_version_and_holds_up_nobody(self):
        with self.slow_socket() as slow:
            slow.sendall(f"GET {self.model.path}/parameters?format=raw HTTP/1.1\r\n"
                         "Host: t\r\nConnection: close\r\n\r\n".encode())
            first = slow.recv(1000)
            begun = time.monotonic()
            self.steps(20)
            self.assertLess(time.monotonic() - begun, seconds(5))
            data = first + read_all(slow)
        head, body = data.split(b"\r\n\r\n", 1)
        self.assertIn(b"adamd-version: 0", head.lower())
        self.assertTrue(body == self.expected[0] * COUNT)
        self.assertEqual(self.assert_whole(self.model.pull(format="raw")), 20)

    def test_slow_readers_of_many_versions_are_served_or_told_to_come_again(self):
        worker, slow = self.model.register("stepper"), []
        for _ in range(6):
            reader = self.slow_socket()
            reader.sendall(f"GET {self.model.path}/parameters?format=raw HTTP/1.1\r\n"
                           "Host: t\r\nConnection: close\r\n\r\n".encode())
            slow.append((reader, reader.recv(64)))
            self.steps(1, worker)
        served = 0
        for reader, first in slow:
            with reader:
                head, body = (first + read_all(reader)).split(b"\r\n\r\n", 1)
            if head.startswith(b"HTTP/1.1 200"):
                version = int(head.lower().split(b"adamd-version: ")[1].split(b"\r\n")[0])
                self.assertTrue(body == self.expected[version] * COUNT)
                served += 1
            else:
                self.assertTrue(head.startswith(b"HTTP/1.1 503"), head)
                self.assertIn(b"retry-after:", head.lower())
        self.assertGreaterEqual(served, 2)
        self.assert_whole(eventually(lambda: good(self.model.pull(format="raw"))))

    def test_a_reader_that_goes_away_lets_go_of_its_version(self):
        worker = self.model.register("stepper")
        for _ in range(12):
            with self.slow_socket() as reader:
                reader.sendall(f"GET {self.model.path}/parameters HTTP/1.1\r\nHost: t\r\n\r\n".encode())
                reader.recv(64)
            self.steps(1, worker)
        self.assert_whole(eventually(lambda: good(self.model.pull(format="raw"))))

    def slow_socket(self):
        """A small window, so that most of the answer stays with the daemon."""
        connected = socket.socket()
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connected.settimeout(seconds(20))
        connected.connect(("127.0.0.1", self.daemon.port))
        return connected

    def test_a_long_poll_is_answered_by_the_step_it_waits_for(self):
        worker = self.model.register("stepper")
        calls = [Background(self.model.pull, format="raw", min_version=2, wait="20s")
                 for _ in range(4)]
        self.steps(1, worker)
        time.sleep(seconds(0.1))
        self.assertFalse(any(call.done() for call in calls))
        self.steps(1, worker)
        self.assertEqual([self.assert_whole(call.result()) for call in calls], [2] * 4)

    def test_a_long_poll_that_is_in_vain_says_so(self):
        begun = time.monotonic()
        self.model.pull(min_version=1, wait="0.2s").expect(504)
        self.assertGreater(time.monotonic() - begun, 0.15)
        etag = self.model.pull(format="raw").headers["etag"]
        self.model.pull({"If-None-Match": etag}, format="raw", min_version=1, wait="0.2s").expect(304)
        self.model.pull(min_version=1).expect(504)
        for wait in ("soon", "-1s", "1y", ""):
            with self.subTest(wait=wait):
                self.assertEqual(self.model.pull(min_version=1, wait=wait).expect(400).fields, ["wait"])

    def test_what_has_not_changed_is_not_sent_again(self):
        etag = self.model.pull(format="raw").expect(200).headers["etag"]
        other = self.model.pull().expect(200).headers["etag"]
        self.assertNotEqual(etag, other)
        reply = self.model.pull({"If-None-Match": f'"x", {etag}'}, format="raw").expect(304)
        self.assertEqual((reply.body, reply.headers["etag"]), (b"", etag))
        self.steps(1)
        self.assert_whole(self.model.pull({"If-None-Match": etag}, format="raw"))

    def test_safetensors_and_raw_are_the_same_numbers_in_the_order_of_the_table(self):
        self.steps(1)
        raw = self.model.pull(format="raw").expect(200).body
        read, _ = tensors.read_safetensors(self.model.pull().expect(200).body)
        self.assertEqual({k: v[0] for k, v in read.items()}, SHAPES)
        self.assertEqual(b"".join(tensors.to_bytes(read[k][1]) for k in SHAPES), raw)
        reply = self.daemon.request("HEAD", self.model.path + "/parameters", format="raw")
        self.assertEqual(int(reply.headers["content-length"]), len(raw))

    def test_a_range_is_a_piece_of_the_whole_file(self):
        whole = self.model.pull().expect(200)
        size = len(whole.body)
        for asked, begin, end in ((f"bytes=0-7", 0, 8), (f"bytes=8-", 8, size), ("bytes=-5", size - 5, size),
                                  (f"bytes=1199999-1200005", 1199999, 1200006),
                                  (f"bytes={size - 1}-{size + 5}", size - 1, size)):
            with self.subTest(asked):
                reply = self.model.pull({"Range": asked}).expect(206)
                self.assertEqual(reply.headers["content-range"], f"bytes {begin}-{end - 1}/{size}")
                self.assertTrue(reply.body == whole.body[begin:end])
        outside = self.model.pull({"Range": f"bytes={size}-"}).expect(416, "RANGE_OUTSIDE")
        self.assertEqual(outside.headers["content-range"], f"bytes */{size}")
        for ignored in ("bytes=0-1,4-5", "lines=0-1", "bytes=5-2", "bytes=x"):
            with self.subTest(ignored):
                self.assertEqual(len(self.model.pull({"Range": ignored}).expect(200).body), size)

    def test_a_range_of_another_version_is_sent_whole(self):
        etag = self.model.pull().headers["etag"]
        self.model.pull({"Range": "bytes=0-7", "If-Range": etag}).expect(206)
        self.steps(1)
        self.model.pull({"Range": "bytes=0-7", "If-Range": etag}).expect(200)

    def test_push_and_pull_in_one_round_trip(self):
        worker = self.model.register("stepper")
        for version in (1, 2):
            reply = worker.push(GRADIENT, headers={"Accept": "application/x-adamd-pull"}).expect(200)
            outcome, rest = wire.open_envelope(reply.body)
            head, body = wire.open_envelope(rest)
            outcome = wire.named(outcome, wire.PUSH_RESPONSE)
            head = wire.named(head, wire.PULL_HEADER)
            self.assertEqual((outcome["outcome"], outcome["version"]), (1, version))
            self.assertEqual((head["version"], head["byte_size"]), (version, len(body)))
            self.assertTrue(body == self.expected[version] * COUNT)

    def test_a_framed_push_and_a_framed_pull(self):
        worker = self.model.register("stepper")
        header = wire.push_header(worker=worker.name, epoch=worker.epoch, sequence=1,
                                  byte_size=len(GRADIENT))
        asked = {"Content-Type": "application/x-adamd-push"}
        reply = self.daemon.post(self.model.path + "/gradients", wire.envelope(header) + GRADIENT,
                                 headers=asked).expect(200)
        self.assertEqual(reply.json()["version"], "1")
        reply = self.model.pull({"Accept": "application/x-adamd-pull"}).expect(200)
        head, body = wire.open_envelope(reply.body)
        self.assertEqual(wire.named(head, wire.PULL_HEADER)["version"], 1)
        self.assertTrue(body == self.expected[1] * COUNT)


def good(reply):
    return reply if reply.status == 200 else None


def read_all(connected):
    data = bytearray()
    while piece := connected.recv(1 << 20):
        data += piece
    return bytes(data)


if __name__ == "__main__":
    unittest.main()
