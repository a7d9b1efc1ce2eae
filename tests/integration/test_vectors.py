"""The daemon against vectors that current PyTorch made (tests/interop/make_vectors.py): bits, without PyTorch."""

import json
import struct
import unittest

from harness import ROOT, DaemonTest

PATH = ROOT / "tests" / "interop" / "vectors.safetensors"
ARRAYS = {"parameter": "", "exp_avg": ".exp_avg", "exp_avg_sq": ".exp_avg_sq",
          "max_exp_avg_sq": ".max_exp_avg_sq"}
# dtype: the enum's name, that in files, bytes, and the bits of infinity.
DTYPES = {
    "float32": ("DATA_TYPE_FLOAT32", "F32", 4, 0x7F800000),
    "float64": ("DATA_TYPE_FLOAT64", "F64", 8, 0x7FF0000000000000),
    "float16": ("DATA_TYPE_FLOAT16", "F16", 2, 0x7C00),
    "bfloat16": ("DATA_TYPE_BFLOAT16", "BF16", 2, 0x7F80),
}


def read(data):
    """({key: (shape, bytes)}, metadata) of a safetensors file."""
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    metadata = header.pop("__metadata__", {})
    body = data[8 + size :]
    return {key: (entry["shape"], body[slice(*entry["data_offsets"])])
            for key, entry in header.items()}, metadata


def write(tensors, file_type):
    """A safetensors file of {key: bytes}, each a vector."""
    header, at = {}, 0
    width = next(row[2] for row in DTYPES.values() if row[1] == file_type)
    for key, data in tensors.items():
        header[key] = {"dtype": file_type, "shape": [len(data) // width],
                       "data_offsets": [at, at + len(data)]}
        at += len(data)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + b"".join(tensors.values())


class Run:
    """The cases of one dtype: a model with a group for each."""

    def __init__(self, vectors, cases, missing, dtype):
        self.enum, self.file_type, self.width, self.infinity = DTYPES[dtype]
        self.cases, self.missing = cases, missing
        self.start = self._rows(*vectors[dtype + ".start"])
        steps, tensors = vectors[dtype + ".gradients"][0][:2]
        rows = self._rows(*vectors[dtype + ".gradients"])
        self.gradients = [rows[i * tensors : (i + 1) * tensors] for i in range(steps)]
        self.wanted = {array: vectors[f"{dtype}.{array}"][1] for array in ARRAYS}

    def _rows(self, shape, data):
        size = shape[-1] * self.width
        return [data[at : at + size] for at in range(0, len(data), size)]

    def keys(self):
        """(case, its number, tensor's number, key, bytes) of every tensor."""
        for number, case in enumerate(self.cases):
            for i, size in enumerate(case["sizes"]):
                yield case, number, i, f"g{number}.{i}", size * self.width

    def body(self):
        return {
            "tensors": [{"key": key, "shape": [str(size // self.width)], "dataType": self.enum}
                        for _, _, _, key, size in self.keys()],
            "paramGroups": [{"params": [f"g{number}.{i}" for i in range(len(case["sizes"]))],
                             "options": case["options"]} for number, case in enumerate(self.cases)],
            "stepPolicy": {"nonfinite": "NONFINITE_ALLOW"},
        }

    def file(self, rows, absent=()):
        return write({key: rows[i][:size] for _, _, i, key, size in self.keys() if i not in absent},
                     self.file_type)

    def drive(self, daemon, name):
        """Everything that PyTorch did; the state that comes of it."""
        path = "/v1/models/" + name
        kind = {"Content-Type": "application/x-safetensors"}
        daemon.post("/v1/models", json.dumps(self.body()).encode(), model_id=name,
                    headers={"Content-Type": "application/json"}).expect(200)
        daemon.request("PUT", path + "/state", self.file(self.start), kind).expect(200)
        epoch = daemon.request("POST", path + "/workers", worker_id="w0").expect(200).json()["epoch"]
        for step, rows in enumerate(self.gradients):
            absent = [i for i in range(len(rows)) if [step, i] in self.missing]
            daemon.request("POST", path + "/gradients", self.file(rows, absent), kind, worker="w0",
                           epoch=epoch, sequence=step + 1).expect(200)
        return read(daemon.get(path + "/state").expect(200).body)[0]

    def numbers(self, data):
        """The bits of each element; all NaNs are one."""
        numbers = (int.from_bytes(data[at : at + self.width], "little")
                   for at in range(0, len(data), self.width))
        mask = (1 << self.infinity.bit_length()) - 1  # all but the sign
        return [n if n & mask <= self.infinity else mask for n in numbers]

    def differences(self, state):
        """Sentences: where the state is not what PyTorch had."""
        at = dict.fromkeys(ARRAYS, 0)
        for case, _, i, key, size in self.keys():
            for array, suffix in ARRAYS.items():
                if array == "max_exp_avg_sq" and not case["options"].get("amsgrad"):
                    continue
                wanted = self.numbers(self.wanted[array][at[array] : at[array] + size])
                at[array] += size
                got = self.numbers(state[key + suffix][1])
                wrong = [n for n, pair in enumerate(zip(wanted, got)) if pair[0] != pair[1]]
                if wrong or len(wanted) != len(got):
                    first = wrong[0] if wrong else 0
                    yield (f"{case['options']}, tensor {i}, {array}: {len(wrong)} differ, first "
                           f"[{first}]: torch {wanted[first]:#x}, adamd {got[first]:#x}")
        assert all(at[array] == len(data) for array, data in self.wanted.items())


class Vectors(DaemonTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.vectors, metadata = read(PATH.read_bytes())
        cls.cases, cls.missing = json.loads(metadata["cases"]), json.loads(metadata["missing"])

    def check(self, dtype):
        run = Run(self.vectors, self.cases[dtype], self.missing, dtype)
        self.assertGreaterEqual(len(run.cases), 144)
        found = list(run.differences(run.drive(self.daemon, dtype)))
        self.assertFalse(found, f"{len(found)} arrays\n" + "\n".join(found[:20]))

    def test_float32(self):
        self.check("float32")

    def test_float64(self):
        self.check("float64")

    def test_float16(self):
        self.check("float16")

    def test_bfloat16(self):
        self.check("bfloat16")


if __name__ == "__main__":
    unittest.main()
