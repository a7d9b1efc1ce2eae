"""torch.optim.Adam, one element at a time: the reference that the daemon is compared with.

Each operation is rounded where PyTorch's for-loop, foreach and fused round it. A double holds the
exact result of one float32 operation closely enough that rounding it once more is harmless; only fma
needs libm.
"""

import ctypes
import ctypes.util
import math

import tensors
from tensors import floats

_libm = ctypes.CDLL(ctypes.util.find_library("m") or "libm.so.6")
_libm.fmaf.argtypes = [ctypes.c_float] * 3
_libm.fmaf.restype = ctypes.c_float
_libm.fma.argtypes = [ctypes.c_double] * 3
_libm.fma.restype = ctypes.c_double
fma = _libm.fmaf


def f32(value):
    return ctypes.c_float(value).value


DEFAULTS = {
    "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0,
    "amsgrad": False, "maximize": False, "decoupled_weight_decay": False,
    "foreach": None, "fused": None,
}


def rounded(dtype, value):
    """To what a file calls F32, F16, BF16 or F64."""
    return tensors.decode(dtype, tensors.encode(dtype, [value]))[0]


class Adam:
    """`params`: {key: list of numbers}; `dtypes`: {key: "F16"}, F32 where it says nothing."""

    def __init__(self, params, dtypes=None, **options):
        self.options = {**DEFAULTS, **options}
        self.dtypes = {key: (dtypes or {}).get(key, "F32") for key in params}
        self.params = {key: self._array(key, values) for key, values in params.items()}
        self.exp_avg, self.exp_avg_sq, self.max_exp_avg_sq = (
            {key: self._array(key, [0] * len(v)) for key, v in self.params.items()}
            for _ in range(3))
        self.steps = {key: 0 for key in self.params}

    def _array(self, key, values):
        return tensors.decode(self.dtypes[key], tensors.encode(self.dtypes[key], values))

    def step(self, grads):
        """`grads`: {key: values}; a key left out has no gradient and is skipped."""
        for key, grad in grads.items():
            self.steps[key] += 1
            for i, g in enumerate(self._array(key, grad)):
                self._update(key, i, g, self.steps[key])

    def _update(self, key, i, g, t):
        o, dtype = self.options, self.dtypes[key]
        narrow = dtype in ("F16", "BF16")
        loop = narrow and o["fused"] is not True
        foreach = loop and o["foreach"] is True
        wide = dtype == "F64"
        real = float if wide else f32  # the computing type
        add = _libm.fma if wide else fma
        store = lambda x: rounded(dtype, x)
        result = (lambda x: store(real(x))) if loop else real
        in_add = store if loop else real  # a scalar that is added, or multiplied by
        in_mul = store if foreach else real
        beta1, beta2 = o["betas"]
        theta, m, v = self.params[key][i], self.exp_avg[key][i], self.exp_avg_sq[key][i]
        weight = real(1 - beta1)
        g = -g if o["maximize"] else g
        if o["weight_decay"] and o["decoupled_weight_decay"]:
            theta = result(theta * in_mul(1 - o["lr"] * o["weight_decay"]))
        elif o["weight_decay"]:
            g = result(add(in_add(o["weight_decay"]), theta, g))
        difference = real(g - m)
        if abs(weight) < 0.5:
            m = result(add(weight, difference, m))
        else:
            m = result(add(-difference, real(1 - weight), g))
        v = result(add(real(real(1 - beta2) * g), g, result(v * in_mul(beta2))))
        u = v
        if o["amsgrad"]:
            u = max(self.max_exp_avg_sq[key][i], v)
            self.max_exp_avg_sq[key][i] = store(u)
        root = real((1 - beta2**t) ** 0.5)
        denominator = result(math.sqrt(u))
        denominator = result(denominator / root)
        denominator = result(denominator + in_add(o["eps"]))
        minus_step = real(-(o["lr"] / (1 - beta1**t)))
        quotient = real(real(minus_step * m) / denominator) if denominator else float("nan")
        self.params[key][i] = store(real(theta + quotient))
        self.exp_avg[key][i], self.exp_avg_sq[key][i] = store(m), store(v)


def weighted_mean(contributions):
    """`contributions`: [(weight, values)] in ascending rank. One alone is taken as it is."""
    if len(contributions) == 1:
        return floats(contributions[0][1])
    total = f32(sum(weight for weight, _ in contributions))
    result = floats(f32(f32(contributions[0][0]) * g) for g in floats(contributions[0][1]))
    for weight, values in contributions[1:]:
        result = floats(fma(f32(weight), g, r) for g, r in zip(floats(values), result))
    return floats(f32(r / total) for r in result)
