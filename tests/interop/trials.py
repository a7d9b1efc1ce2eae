"""Adam and AdamW with every combination of options, in PyTorch and in the daemon, bit beside bit.

A Trial is one optimizer of PyTorch over a few tensors. A Twin is a model of the daemon that is to do what many
trials do: each of them is one of its param groups, with the options that PyTorch's own group names.
"""

import itertools
import json
import struct
from typing import NamedTuple
from unittest import mock

import numpy
import torch

from exact import Exact

DTYPES = {
    "float32": (torch.float32, torch.int32, "DATA_TYPE_FLOAT32", "F32"),
    "float64": (torch.float64, torch.int64, "DATA_TYPE_FLOAT64", "F64"),
    "float16": (torch.float16, torch.int16, "DATA_TYPE_FLOAT16", "F16"),
    "bfloat16": (torch.bfloat16, torch.int16, "DATA_TYPE_BFLOAT16", "BF16"),
}
PATHS = {"for-loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
BETAS = ((0.9, 0.999), (0.5, 0.9), (0.2, 0.99))
ARRAYS = ("", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")
STEPS = 5
CAPTURABLE_DEVICES = "torch.optim.adam._get_capturable_supported_devices"


# ------------------------------------------------------------------------------------------- cases


class Case(NamedTuple):
    """One optimizer: its class's name, its way through PyTorch, its options."""

    kind: str
    path: str
    options: dict

    def __str__(self):
        said = ", ".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.kind} {self.path} ({said})"

    def make(self, parameters):
        make = getattr(torch.optim, self.kind)
        return make(parameters, lr=0.01, **self.options, **PATHS[self.path])


def cases(dtype, paths=tuple(PATHS), **more):
    """All of them. float16 gets a second eps: PyTorch's default is zero there, which makes NaN of much."""
    epsilons = (1e-8, 1e-3) if dtype == "float16" else (1e-8,)
    product = itertools.product(("Adam", "AdamW"), paths, BETAS, epsilons, (0, 0.1), (False, True),
                                (False, True))
    return [Case(kind, path, {"betas": betas, "eps": eps, "weight_decay": decay, "amsgrad": amsgrad,
                              "maximize": maximize, **more})
            for kind, path, betas, eps, decay, amsgrad, maximize in product]


def is_whole(case, dtype):
    """PyTorch's fused kernel rounds the last elements of a float32 or float64 tensor otherwise, unless
    the tensor is a multiple of its vectors. adamd's result does not depend on an element's place."""
    return case.path == "fused" and dtype in ("float32", "float64")


def sizes_of(case, dtype, sizes):
    """`sizes`, as they are or as multiples of 16."""
    return [max(size // 16, 1) * 16 for size in sizes] if is_whole(case, dtype) else list(sizes)


# -------------------------------------------------------------------------------------------- data


class Data:
    """The same numbers for every case of one dtype: parameters, and gradients of each step and size.

    Nine decades, both signs, one element in sixteen zero. One size has no gradient in the first step, one
    in the third, and one in the fourth; one has nothing but zeros in the last.
    """

    MISSING = {(0, 0), (2, 1), (3, 2)}
    ZEROS = {(4, 1)}

    def __init__(self, dtype, sizes, seed=1):
        self.dtype = dtype
        self.most = max(sizes) + 16
        self.decades = (-5, 4) if dtype == "float16" else (-6, 3)
        self._random = numpy.random.default_rng(seed)
        self._sizes = len(sizes)
        self.start = [self._draw() for _ in sizes]
        self.gradients = [[self._gradient(step, i) for i in range(len(sizes))] for step in range(STEPS)]

    def _draw(self, zeros=16):
        shape = self.most
        values = 10.0 ** self._random.uniform(*self.decades, shape)
        values *= self._random.choice((-1.0, 1.0), shape)
        values[self._random.integers(0, zeros, shape) == 0] = 0
        return torch.from_numpy(values).to(DTYPES[self.dtype][0])

    def _gradient(self, step, i):
        if (step, i) in self.MISSING:
            return None
        return torch.zeros(self.most, dtype=DTYPES[self.dtype][0]) if (step, i) in self.ZEROS else self._draw()


class Special(Data):
    """Every pair of numbers that lie at an edge, as gradients one after another."""

    def __init__(self, dtype):
        info = torch.finfo(DTYPES[dtype][0])
        tiny = info.smallest_normal
        edges = (0.0, -0.0, 1.0, -1.0, info.eps, tiny, -tiny, tiny * info.eps, -tiny * info.eps,
                 tiny * (1 - info.eps), info.max, -info.max, info.max ** 0.5, tiny ** 0.5, float("inf"),
                 -float("inf"), float("nan"))
        self.count = len(edges) ** 2 + (-len(edges) ** 2) % 16
        first, second = (torch.tensor(numbers, dtype=torch.float64) for numbers in zip(
            *itertools.islice(itertools.cycle(itertools.product(edges, edges)), self.count)))
        self.dtype = dtype
        steps = (first, second, first.flip(0), second.roll(7), first + 1)
        start = second.roll(3).to(DTYPES[dtype][0])
        self.start = [start.where(start.isfinite(), torch.ones_like(start))]
        self.gradients = [[values.to(DTYPES[dtype][0])] for values in steps]


# ----------------------------------------------------------------------------------------- PyTorch


class Trial:
    """One case in PyTorch. `name` tells its tensors from those of the other trials of a twin."""

    def __init__(self, name, case, data, sizes):
        self.name, self.case, self.dtype = name, case, data.dtype
        self.sizes = sizes_of(case, data.dtype, sizes)
        self.parameters = [values[:size].clone() for values, size in zip(data.start, self.sizes)]
        self.optimizer = case.make(self.parameters)

    @property
    def keys(self):
        return [f"{self.name}.{i}" for i in range(len(self.sizes))]

    def step(self, gradients):
        """PyTorch says of `capturable` that a CPU cannot; its arithmetic is the same there."""
        for parameter, gradient, size in zip(self.parameters, gradients, self.sizes):
            parameter.grad = None if gradient is None else gradient[:size]
        with Exact(), mock.patch(CAPTURABLE_DEVICES, return_value=["cpu"]):
            self.optimizer.step()

    def array(self, i, array):
        """The i-th tensor's parameter or state as integers of its bits; None where PyTorch has none."""
        if array:
            tensor = self.optimizer.state[self.parameters[i]].get(array)
        else:
            tensor = self.parameters[i]
        return None if tensor is None else bits(tensor)

    def steps(self, i):
        return int(self.optimizer.state[self.parameters[i]].get("step", 0))


def bits(tensor):
    return tensor.detach().contiguous().view(dtype_of(tensor)[1]).numpy()


def dtype_of(tensor):
    return next(row for row in DTYPES.values() if row[0] == tensor.dtype)


# ---------------------------------------------------------------------------------------- the daemon


class Difference(NamedTuple):
    """Where the daemon's bits are not PyTorch's: how many, and the first of them."""

    case: Case
    dtype: str
    step: int
    size: int
    array: str
    count: int
    index: int
    wanted: str
    got: str

    def __str__(self):
        return (f"{self.dtype} {self.case}, step {self.step}: {self.array or 'parameter'} of {self.size}: "
                f"{self.count} differ, first [{self.index}]: torch {self.wanted}, adamd {self.got}")


class Twin:
    """A model with a param group for each trial."""

    def __init__(self, daemon, name, trials):
        self.daemon, self.trials, self.sequence = daemon, trials, 0
        self.path = f"/v1/models/{name}"
        daemon.post("/v1/models", json.dumps(self._body()).encode(), model_id=name,
                    headers={"Content-Type": "application/json"}).expect(200)
        start = {key: tensor for trial in trials for key, tensor in zip(trial.keys, trial.parameters)}
        daemon.request("PUT", self.path + "/state", write_file(start), SAFETENSORS,
                       timeout=60).expect(200)
        said = daemon.request("POST", self.path + "/workers", worker_id="w0").expect(200).json()
        self.epoch = said["epoch"]

    def _body(self):
        return {
            "tensors": [{"key": key, "shape": [str(size)], "dataType": DTYPES[trial.dtype][2]}
                        for trial in self.trials for key, size in zip(trial.keys, trial.sizes)],
            "paramGroups": [{"params": trial.keys, "options": group_options(trial.optimizer)}
                            for trial in self.trials],
            "stepPolicy": {"nonfinite": "NONFINITE_ALLOW"},
            "durability": "DURABILITY_NONE",
        }

    def push(self, gradients):
        """One step with {dtype: gradient of each size}. Raw bytes where that is all there is to say, else
        a file of the tensors that have a gradient."""
        self.sequence += 1
        query = {"worker": "w0", "epoch": self.epoch, "sequence": self.sequence}
        pieces = {key: gradients[trial.dtype][i][:size]
                  for trial in self.trials for i, (key, size) in enumerate(zip(trial.keys, trial.sizes))
                  if gradients[trial.dtype][i] is not None}
        if len(gradients) == 1 and len(pieces) == sum(len(trial.keys) for trial in self.trials):
            kind = {"Content-Type": "application/octet-stream"}
            body = b"".join(bits(tensor).tobytes() for tensor in pieces.values())
        else:
            kind, body = SAFETENSORS, write_file(pieces)
        reply = self.daemon.request("POST", self.path + "/gradients", body, kind, timeout=60, **query)
        assert reply.expect(200).json()["outcome"] == "PUSH_OUTCOME_APPLIED", reply

    def delete(self):
        self.daemon.request("DELETE", self.path, force="true").expect(200)

    def differences(self, step):
        """Every array of every trial, as the daemon's state holds it now."""
        held = read_file(self.daemon.get(self.path + "/state", timeout=60).expect(200).body)
        for trial in self.trials:
            for i, key in enumerate(trial.keys):
                steps = int(held[key + ".step"][0])
                assert steps == trial.steps(i), f"{trial.case}: {steps} steps, not {trial.steps(i)}"
                for array in ARRAYS:
                    yield from self._differences_of(trial, i, key, array, held, step)

    def _differences_of(self, trial, i, key, array, held, step):
        wanted = trial.array(i, array)
        got = held.get(f"{key}.{array}" if array else key)
        if wanted is None:  # never stepped, or no amsgrad: then the daemon may hold zeros
            assert got is None or not got.any(), f"{trial.case}: {array} is not zero"
            return
        if array == "max_exp_avg_sq":
            assert got is not None, f"{trial.case}: no {array}"
        wrong = (wanted != got) & ~(is_nan(wanted, trial.dtype) & is_nan(got, trial.dtype))
        if wrong.any():
            index = int(wrong.argmax())
            yield Difference(trial.case, trial.dtype, step, trial.sizes[i], array, int(wrong.sum()), index,
                             said(wanted[index], trial.dtype), said(got[index], trial.dtype))


def group_options(optimizer):
    """What PyTorch's own group says, as the daemon's JSON. None is what is not said."""
    group = optimizer.param_groups[0]
    return {name: value for name, value in group.items() if name != "params" and value is not None}


def _number(value, dtype):
    return torch.from_numpy(numpy.asarray(value).reshape(1)).view(DTYPES[dtype][0])


def is_nan(integers, dtype):
    return torch.from_numpy(integers.copy()).view(DTYPES[dtype][0]).isnan().numpy()


def said(integer, dtype):
    """A number by its value and its bits."""
    width = integer.dtype.itemsize
    return f"{float(_number(integer, dtype)):.9g} (0x{int(integer) & (1 << 8 * width) - 1:0{2 * width}x})"


# ------------------------------------------------------------------------------------------- files

SAFETENSORS = {"Content-Type": "application/x-safetensors"}
_INTEGERS = {"F32": "<i4", "F64": "<i8", "F16": "<i2", "BF16": "<i2", "I64": "<i8"}


def write_file(tensors, metadata=None):
    """A safetensors file of {key: tensor}."""
    header, pieces, at = {"__metadata__": metadata} if metadata else {}, [], 0
    for key, tensor in tensors.items():
        data = bits(tensor).tobytes()
        header[key] = {"dtype": dtype_of(tensor)[3], "shape": list(tensor.shape),
                       "data_offsets": [at, at + len(data)]}
        pieces.append(data)
        at += len(data)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + b"".join(pieces)


def read_file(data):
    """{key: integers of the bits}."""
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + size])
    body = memoryview(data)[8 + size:]
    return {key: numpy.frombuffer(body[slice(*entry["data_offsets"])], _INTEGERS[entry["dtype"]])
            for key, entry in header.items() if key != "__metadata__"}
