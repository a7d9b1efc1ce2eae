"""A network that cuts, slices, delays, repeats and damages: each push still counts exactly once."""

import random
import socket
import threading
import time
import unittest

import tensors
from adam import Adam
from harness import DaemonTest, seconds

SHAPES = {"w": [40]}
START = {"w": [0.5] * 40}
PUSHES = 15


class Proxy:
    """Between a worker and the daemon. `toxic(proxy, upstream, request)` gets each request as it
    was sent, and returns what the worker gets back; None is a cut connection."""

    def __init__(self, port, toxic, seed=1):
        self.port, self.toxic, self.chance = port, toxic, random.Random(seed)
        self.captured = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self):
        self.listener.close()

    def _serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                self._relay(client)
            except OSError:
                pass
            finally:
                client.close()

    def _relay(self, client):
        client.settimeout(seconds(5))
        request = read_message(client)
        self.captured.append(request)
        answer = self.toxic(self, request)
        if answer:
            client.sendall(answer)

    def upstream(self):
        connected = socket.create_connection(("127.0.0.1", self.port), seconds(5))
        connected.settimeout(seconds(5))
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected

    def deliver(self, request):
        """The whole request, the whole answer."""
        with self.upstream() as daemon:
            daemon.sendall(request)
            return read_message(daemon)


def read_message(connected):
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connected.recv(65536)
        if not piece:
            raise OSError("cut in the head")
        data += piece
    head, body = data.split(b"\r\n\r\n", 1)
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        piece = connected.recv(65536)
        if not piece:
            raise OSError("cut in the body")
        body += piece
    return head + b"\r\n\r\n" + body


# ---------------------------------------------------------------------------------------- toxics


def cut_request(proxy, request):
    """After any number of bytes; every other time all goes well."""
    if proxy.chance.random() < 0.5:
        return proxy.deliver(request)
    with proxy.upstream() as daemon:
        daemon.sendall(request[: proxy.chance.randrange(len(request))])
    return None


def cut_before_answer(proxy, request):
    """The worst moment: all was sent, and nobody hears the answer."""
    if proxy.chance.random() < 0.4:
        return proxy.deliver(request)
    with proxy.upstream() as daemon:
        daemon.sendall(request)
        if proxy.chance.random() < 0.5:
            daemon.recv(1)
    return None


def cut_answer(proxy, request):
    answer = proxy.deliver(request)
    return answer if proxy.chance.random() < 0.5 else answer[: proxy.chance.randrange(len(answer))]


def slice_bytes(proxy, request):
    with proxy.upstream() as daemon:
        for i in range(len(request)):
            daemon.sendall(request[i : i + 1])
        return read_message(daemon)


def repeat(proxy, request):
    """Two at the same time, and an old one once more."""
    others = [threading.Thread(target=swallow, args=(proxy, r))
              for r in (request, proxy.chance.choice(proxy.captured))]
    for other in others:
        other.start()
    answer = proxy.deliver(request)
    for other in others:
        other.join()
    return answer


def swallow(proxy, request):
    try:
        proxy.deliver(request)
    except OSError:
        pass


def delay(proxy, request):
    time.sleep(proxy.chance.random() * 0.03)
    answer = proxy.deliver(request)
    time.sleep(proxy.chance.random() * 0.03)
    return answer


def half_open(proxy, request):
    """The rest of an earlier attempt arrives after the repeat of it."""
    with proxy.upstream() as early:
        cut = proxy.chance.randrange(len(request) - 20, len(request))
        early.sendall(request[:cut])
        answer = None
        if proxy.chance.random() < 0.7:
            answer = proxy.deliver(request)
        try:
            early.sendall(request[cut:])
            early.recv(65536)
        except OSError:
            pass
    return answer


def damage(proxy, request):
    """One bit of the gradient: the checksum tells."""
    if proxy.chance.random() < 0.5:
        return proxy.deliver(request)
    broken = bytearray(request)
    broken[-1 - proxy.chance.randrange(160)] ^= 1 << proxy.chance.randrange(8)
    return proxy.deliver(bytes(broken))


TOXICS = (cut_request, cut_before_answer, cut_answer, slice_bytes, repeat, delay, half_open, damage)


class Network(DaemonTest):
    def push_through(self, proxy, worker, values):
        """As a worker does: the same bytes under the same number, until it is decided."""
        data = tensors.to_bytes(tensors.floats(values))
        target = worker.target(crc32c=tensors.crc32c(data), **{"metric.loss": 1})
        request = (f"POST {target} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n"
                   f"Content-Type: application/octet-stream\r\nContent-Length: {len(data)}\r\n\r\n")
        end = time.monotonic() + seconds(20)
        while time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", proxy.address), seconds(5)) as connected:
                    connected.settimeout(seconds(5))
                    connected.sendall(request.encode() + data)
                    answer = read_message(connected)
            except (OSError, ValueError):
                continue
            status = int(answer.split(b" ")[1])
            if status == 200:
                worker.sequence += 1
                return
            self.assertIn(status, (409, 422, 429, 503), answer)
        self.fail("no decision in time")

    def test_whatever_the_network_does_each_push_counts_once(self):
        for toxic in TOXICS:
            with self.subTest(toxic.__name__):
                name = toxic.__name__.replace("_", "-")
                model = self.daemon.create_model(name, SHAPES, start=START)
                worker, reference = model.register("w0"), Adam(START)
                proxy = Proxy(self.daemon.port, toxic)
                try:
                    for number in range(PUSHES):
                        grad = [(number + i) % 7 / 3 - 1 for i in range(40)]
                        self.push_through(proxy, worker, grad)
                        reference.step({"w": grad})
                finally:
                    proxy.close()
                self.assertEqual(model.version, PUSHES)
                self.assertEqual(model.parameters(), reference.params)
                sequences = [c["sequence"] for r in model.all_records()
                             for c in r["contributions"]]
                self.assertEqual(sequences, [str(i + 1) for i in range(PUSHES)])

    def test_an_old_push_that_comes_ten_steps_later_changes_nothing(self):
        model = self.daemon.create_model(self.name, SHAPES, start=START)
        worker, proxy = model.register("w0"), Proxy(self.daemon.port, Proxy.deliver)
        self.addCleanup(proxy.close)
        for _ in range(10):
            self.push_through(proxy, worker, [0.25] * 40)
        self.assert_untouched(model, lambda: [proxy.deliver(r) for r in proxy.captured])
        again = model.register("w0")
        self.assert_untouched(model, lambda: [proxy.deliver(r) for r in proxy.captured])
        self.push_through(proxy, again, [0.25] * 40)
        self.assertEqual(model.version, 11)


if __name__ == "__main__":
    unittest.main()
