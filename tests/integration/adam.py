"""torch.optim.Adam in float32, one element at a time: the reference that the daemon is compared with.

Each operation is rounded where PyTorch's for-loop rounds it. A double holds the exact result of one
float32 operation closely enough that rounding it once more is harmless; only fma needs libm.
"""

import ctypes
import ctypes.util
import math

from tensors import floats

_libm = ctypes.CDLL(ctypes.util.find_library("m") or "libm.so.6")
_libm.fmaf.argtypes = [ctypes.c_float] * 3
_libm.fmaf.restype = ctypes.c_float
fma = _libm.fmaf


def f32(value):
    return ctypes.c_float(value).value


DEFAULTS = {
    "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0,
    "amsgrad": False, "maximize": False, "decoupled_weight_decay": False,
}


class Adam:
    """`params`: {key: list of numbers}."""

    def __init__(self, params, **options):
        self.options = {**DEFAULTS, **options}
        self.params = {key: floats(values) for key, values in params.items()}
        self.exp_avg = {key: floats([0] * len(v)) for key, v in self.params.items()}
        self.exp_avg_sq = {key: floats([0] * len(v)) for key, v in self.params.items()}
        self.max_exp_avg_sq = {key: floats([0] * len(v)) for key, v in self.params.items()}
        self.steps = {key: 0 for key in self.params}

    def step(self, grads):
        """`grads`: {key: values}; a key left out has no gradient and is skipped."""
        for key, grad in grads.items():
            self.steps[key] += 1
            for i, g in enumerate(floats(grad)):
                self._update(key, i, g, self.steps[key])

    def _update(self, key, i, g, t):
        o = self.options
        beta1, beta2 = o["betas"]
        theta, m, v = self.params[key][i], self.exp_avg[key][i], self.exp_avg_sq[key][i]
        weight = f32(1 - beta1)
        g = -g if o["maximize"] else g
        if o["weight_decay"] and o["decoupled_weight_decay"]:
            theta = f32(theta * f32(1 - o["lr"] * o["weight_decay"]))
        elif o["weight_decay"]:
            g = fma(f32(o["weight_decay"]), theta, g)
        difference = f32(g - m)
        if abs(weight) < 0.5:
            m = fma(weight, difference, m)
        else:
            m = fma(-difference, f32(1 - weight), g)
        v = fma(f32(f32(1 - beta2) * g), g, f32(v * f32(beta2)))
        u = v
        if o["amsgrad"]:
            u = max(self.max_exp_avg_sq[key][i], v)
            self.max_exp_avg_sq[key][i] = u
        root = f32(math.sqrt(1 - beta2**t))
        denominator = f32(f32(f32(math.sqrt(u)) / root) + f32(o["eps"]))
        minus_step = f32(-(o["lr"] / (1 - beta1**t)))
        self.params[key][i] = f32(theta + f32(f32(minus_step * m) / denominator))
        self.exp_avg[key][i], self.exp_avg_sq[key][i] = m, v


def weighted_mean(contributions):
    """`contributions`: [(weight, values)] in ascending rank. One alone is taken as it is."""
    if len(contributions) == 1:
        return floats(contributions[0][1])
    total = f32(sum(weight for weight, _ in contributions))
    result = floats(f32(f32(contributions[0][0]) * g) for g in floats(contributions[0][1]))
    for weight, values in contributions[1:]:
        result = floats(fma(f32(weight), g, r) for g, r in zip(floats(values), result))
    return floats(f32(r / total) for r in result)
