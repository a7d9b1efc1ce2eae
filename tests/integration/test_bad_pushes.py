"""Pushes that are wrong in every way: an error that names what is wrong, nothing changed, no number used."""

import json
import struct
import unittest

import tensors
import wire
from harness import DaemonTest

SHAPES = {"w": [2, 3], "b": [2]}
START = {"w": [1, 2, 3, 4, 5, 6], "b": [7, 8]}
DATA = tensors.to_bytes(tensors.floats([0.5] * 8))
W = tensors.to_bytes(tensors.floats([0.5] * 6))
OCTETS = "application/octet-stream"
SAFETENSORS = "application/x-safetensors"
FRAMED = "application/x-adamd-push"


def header(**entries):
    return json.dumps(entries)


def entry(dtype="F32", shape=(2, 3), begin=0, end=24):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


# Bodies of safetensors that must be refused, by what is wrong with them.
FILES = {
    "empty": b"",
    "shorter than its length": b"\1\0\0",
    "no header": struct.pack("<Q", 0),
    "a header beyond the file": struct.pack("<Q", 1 << 40) + b"{}",
    "a header of 2^64 - 1": struct.pack("<Q", (1 << 64) - 1) + b"{}",
    "not JSON": tensors.frame_safetensors("hello", b""),
    "not an object": tensors.frame_safetensors("[1]", b""),
    "cut JSON": tensors.frame_safetensors('{"w":', b""),
    "nested deeply": tensors.frame_safetensors('{"w":' + "[" * 3000 + "]" * 3000 + "}", b""),
    "unknown name": tensors.frame_safetensors(header(x=entry()), W),
    "a name twice": tensors.frame_safetensors(
        '{"w":%s,"w":%s}' % (json.dumps(entry()), json.dumps(entry())), W),
    "wrong type": tensors.frame_safetensors(header(w=entry("F64", end=48)), W * 2),
    "unknown type": tensors.frame_safetensors(header(w=entry("F33")), W),
    "integers": tensors.frame_safetensors(header(w=entry("I32")), W),
    "transposed": tensors.frame_safetensors(header(w=entry(shape=(3, 2))), W),
    "wrong rank": tensors.frame_safetensors(header(w=entry(shape=(6,))), W),
    "a shape that overflows": tensors.frame_safetensors(
        header(w=entry(shape=(1 << 33, 1 << 33))), W),
    "a negative dimension": tensors.frame_safetensors(header(w=entry(shape=(-2, -3))), W),
    "a broken dimension": tensors.frame_safetensors(header(w=entry(shape=(2.5, 3))), W),
    "data shorter than the shape": tensors.frame_safetensors(header(w=entry(end=20)), W[:20]),
    "data longer than the shape": tensors.frame_safetensors(header(w=entry(end=28)), W + b"1234"),
    "offsets that run backwards": tensors.frame_safetensors(header(w=entry(begin=24, end=0)), W),
    "offsets beyond the file": tensors.frame_safetensors(header(w=entry(begin=8, end=32)), W),
    "a hole": tensors.frame_safetensors(header(w=entry(begin=4, end=28)), b"1234" + W),
    "an overlap": tensors.frame_safetensors(
        header(w=entry(), b=entry(shape=(2,), begin=20, end=28)), W + b"1234"),
    "bytes behind the data": tensors.frame_safetensors(header(w=entry()), W + b"12345678"),
    "no data": tensors.frame_safetensors(header(w=entry()), b""),
    "no dtype": tensors.frame_safetensors('{"w":{"shape":[2,3],"data_offsets":[0,24]}}', W),
    "metadata that are not text": tensors.frame_safetensors(
        '{"__metadata__":{"a":1},"w":%s}' % json.dumps(entry()), W),
    "not UTF-8": struct.pack("<Q", 16) + b'{"\xff\xfe":{}}     ',
    "500,000 tensors": tensors.frame_safetensors(
        "{" + ",".join('"t%d":{}' % i for i in range(500000)) + "}", b""),
}

# Parameters of the query, and the field that the error names.
QUERIES = {
    "weight": ("0", "-1", "nan", "inf", "1e999", "heavy", ""),
    "sequence": ("0", "-1", "18446744073709551616", "one", "1.5", ""),
    "epoch": ("-1", "x", "1e3"),
    "base_version": ("-1", "latest"),
    "generation": ("-1", "g1"),
    "crc32c": ("4294967296", "-1", "zz"),
    "replace": ("maybe", "2"),
    "metric.loss": ("low", ""),
    "metric.": ("1",),
    "worker": ("", "a/b", "x" * 65, "ä", "a b"),
    "surprise": ("1",),
}


class BadPush(DaemonTest):
    def setUp(self):
        self.model = self.daemon.create_model(self.name, SHAPES, start=START)
        self.worker = self.model.register("w0")

    def tearDown(self):
        """Whatever it was: the next push under the same number is taken."""
        self.assertEqual(self.worker.push(DATA).expect(200).json()["sequence"], "1")

    def send(self, body, kind=OCTETS, headers=None, **query):
        asked = {**({"Content-Type": kind} if kind else {}), **(headers or {})}
        query = query if kind == FRAMED else self.worker.query(**query)
        return self.daemon.post(self.model.path + "/gradients", body, headers=asked, **query)

    def refused(self, call, statuses, field=None):
        reply = self.assert_untouched(self.model, call)
        self.assertIn(reply.status, statuses, reply)
        self.assertTrue(reply.reason, reply)
        self.assertGreater(len(reply.json().get("message") or reply.json().get("detail")), 5)
        if field:
            self.assertTrue(any(field in f for f in reply.fields), (field, reply))
        return reply

    def test_a_file_that_is_not_what_it_says(self):
        for name, body in FILES.items():
            with self.subTest(name):
                self.refused(lambda b=body: self.send(b, SAFETENSORS), (400, 411, 413, 422))

    def test_the_error_names_the_tensor(self):
        for name, key in (("unknown name", "x"), ("transposed", "w"), ("wrong type", "w")):
            with self.subTest(name):
                reply = self.refused(lambda n=name: self.send(FILES[n], SAFETENSORS), (400, 422))
                self.assertIn(key, "".join(reply.fields) + reply.json()["message"], reply)

    def test_a_query_that_is_wrong(self):
        for field, values in QUERIES.items():
            for value in values:
                with self.subTest(f"{field}={value}"):
                    self.refused(lambda f=field, v=value: self.send(DATA, **{f: v}),
                                 (400, 404, 422), None if field == "worker" else field)

    def test_a_query_that_lacks_something(self):
        for missing in ("worker", "epoch", "sequence"):
            with self.subTest(missing):
                query = {k: v for k, v in self.worker.query().items() if k != missing}
                self.refused(lambda q=query: self.daemon.post(
                    self.model.path + "/gradients", DATA, headers={"Content-Type": OCTETS}, **q),
                    (400,), missing)

    def test_a_parameter_twice(self):
        path = self.worker.target() + "&weight=1&weight=2"
        self.refused(lambda: self.daemon.post(path, DATA, headers={"Content-Type": OCTETS}), (400,))

    def test_a_type_that_is_not_taken(self):
        for kind in ("application/json", "text/plain", "multipart/form-data; boundary=x", "x",
                     "application/x-www-form-urlencoded"):
            with self.subTest(kind):
                self.refused(lambda k=kind: self.send(DATA, k), (415,))
        reply = self.send(DATA, "application/x-www-form-urlencoded")
        self.assertIn("Content-Type", reply.json()["message"])

    def test_without_a_type_it_is_a_safetensors_file(self):
        self.refused(lambda: self.send(DATA, None), (400, 413, 422))

    def test_compression_and_chunks(self):
        self.refused(lambda: self.send(DATA, headers={"Content-Encoding": "gzip"}), (415,))
        answer = self.daemon.exchange(
            f"POST {self.worker.target()} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n"
            f"Content-Type: {OCTETS}\r\nTransfer-Encoding: chunked\r\n\r\n"
            "4\r\n1234\r\n0\r\n\r\n".encode())
        self.assertTrue(answer.startswith(b"HTTP/1.1 411"), answer)

    def test_lengths_that_are_wrong(self):
        for size in (0, 1, 28, 31, 33, 36, 64):
            with self.subTest(size=size):
                self.refused(lambda s=size: self.send(b"\0" * s), (400, 413, 422))

    def test_numbers_that_are_not_finite(self):
        for bad in (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\x80\xff",
                    b"\x01\x00\x80\x7f", b"\xff\xff\xff\xff"):
            for at in (0, 12, 28):
                with self.subTest(bits=bad.hex(), at=at):
                    body = DATA[:at] + bad + DATA[at + 4 :]
                    reply = self.refused(lambda b=body: self.send(b), (422,))
                    self.assertEqual(reply.reason, "NONFINITE")
        self.assertEqual(int(self.model.get()["pushCounts"]["rejected"]), 15)

    def test_what_is_finite_is_taken_however_odd(self):
        model = self.daemon.create_model(self.name + "-odd", SHAPES, start=START)
        worker = model.register("w0")
        for number in (3e38, 1e-45, -0.0, 0.0, -3e38):
            with self.subTest(number):
                reply = worker.push([number] * 8).expect(200).json()
                self.assertEqual(reply["outcome"], "PUSH_OUTCOME_APPLIED")
                self.assertLess(float(reply.get("gradNorm", 0)), 1e40)

    def test_a_layout_that_is_another_one(self):
        self.refused(lambda: self.send(DATA, layout_digest="0" * 32), (400, 409, 412, 422))

    def test_frames_that_are_broken(self):
        good = {"worker": "w0", "epoch": self.worker.epoch, "sequence": 1, "byte_size": 32}
        head = wire.envelope(wire.push_header(**good))
        frames = {
            "nothing": b"", "half an envelope": b"\0\0", "no message": wire.envelope(b""),
            "a flag": b"\1" + head[1:] + DATA, "an end": b"\2" + head[1:] + DATA,
            "a length beyond": b"\0\xff\xff\xff\xff" + DATA,
            "garbage": wire.envelope(b"\xff" * 20) + DATA,
            "cut message": wire.envelope(wire.push_header(**good)[:-1]) + DATA,
            "groups": wire.envelope(b"\x0b" * 30) + DATA,
            "endless varint": wire.envelope(b"\x10" + b"\xff" * 11) + DATA,
            "wrong size": wire.envelope(wire.push_header(**{**good, "byte_size": 28})) + DATA,
            "size of 2^63": wire.envelope(wire.push_header(**{**good, "byte_size": 1 << 63})) + DATA,
            "bytes behind": head + DATA + b"1234",
            "bytes missing": head + DATA[:-4],
            "no worker": wire.envelope(wire.push_header(
                **{k: v for k, v in good.items() if k != "worker"})) + DATA,
            "weight 0": wire.envelope(wire.push_header(**good, weight=0.0)) + DATA,
            "weight NaN": wire.envelope(wire.push_header(**good, weight=float("nan"))) + DATA,
            "float64": wire.envelope(wire.push_header(**good, data_type=4)) + DATA,
            "type 99": wire.envelope(wire.push_header(**good, data_type=99)) + DATA,
            "tensor 7": wire.envelope(wire.push_header(**good, tensors=7)) + DATA,
            "tensors that descend": wire.envelope(
                wire.push_header(**good) + b"\x4a\x02\x01\x00") + DATA,
            "a tensor twice": wire.envelope(wire.push_header(**good) + b"\x4a\x02\x00\x00") + DATA,
            "wrong checksum": wire.envelope(wire.push_header(**good, crc32c=("fixed32", 7))) + DATA,
            "100,000 metrics": wire.envelope(wire.push_header(**good) + b"\x62\x00" * 100000) + DATA,
        }
        for name, body in frames.items():
            with self.subTest(name):
                self.refused(lambda b=body: self.send(b, FRAMED), (400, 411, 413, 415, 422, 501))

    def test_a_path_that_leads_nowhere(self):
        asked = {"Content-Type": OCTETS}
        for path, statuses in (("/v1/models/nobody/gradients", (404,)),
                               (self.model.path + "/gradient", (404,)),
                               (self.model.path + "/gradients/", (400, 404)),
                               (self.model.path + "%2fgradients", (400, 404))):
            with self.subTest(path):
                self.refused(lambda p=path: self.daemon.post(
                    p, DATA, headers=asked, **self.worker.query()), statuses)
        for method in ("PUT", "PATCH", "DELETE", "GET"):
            with self.subTest(method):
                reply = self.daemon.request(method, self.model.path + "/gradients")
                self.assertEqual(reply.status, 405, reply)
                self.assertIn("POST", reply.headers.get("allow", ""))


if __name__ == "__main__":
    unittest.main()
