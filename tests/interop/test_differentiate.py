"""The daemon's vector-Jacobian product against autograd through torch.optim.Adam(differentiable=True).

In float64 within 1e-12, for every combination of flags. Autograd differentiates PyTorch's own sequence of
operations with the options as tensors; the daemon has the formulas: nothing is shared but the definition.
"""

import json
import unittest

from support import IS_CURRENT
import torch
from harness import DaemonTest

if IS_CURRENT:  # beside Debian's there is no such package
    from safetensors.torch import load, save

SHAPES = {"w": [3, 5], "b": [7]}
LR, BETAS, EPS = 0.1, (0.9, 0.99), 1e-3
STATE = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
TOLERANCE = 1e-12


def draw(generator, key, scale=1.0, low=-0.5):
    """Numbers around 0, or above 0 with low=0."""
    return (torch.rand(SHAPES[key], generator=generator, dtype=torch.float64) + low) * scale


class Scene:
    """What a step reads, and cotangents of what it writes; the same for both sides."""

    def __init__(self, seed, amsgrad, maximize, decoupled, weight_decay, t):
        generator = torch.Generator().manual_seed(seed)
        self.amsgrad, self.maximize, self.decoupled = amsgrad, maximize, decoupled
        self.weight_decay, self.t = weight_decay, t
        self.read = {}
        for key in SHAPES:
            second = draw(generator, key, 0.3, low=0.3)
            # A maximum now above, now below what the second moment becomes.
            flips = torch.where(draw(generator, key) > 0, 1.5, 0.5)
            self.read[key] = {
                "param": draw(generator, key, 4), "grad": draw(generator, key, 2),
                "exp_avg": draw(generator, key, 1), "exp_avg_sq": second,
                "max_exp_avg_sq": second * flips}
        self.written = ["param", "exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * amsgrad
        self.bars = {key: {name: draw(generator, key, 2) for name in self.written}
                     for key in SHAPES}


def autograd(scene):
    """({key: {array: cotangent}}, {option: cotangent}) by PyTorch."""
    leaves = {key: {name: value.clone().requires_grad_() for name, value in arrays.items()}
              for key, arrays in scene.read.items()}
    options = {"lr": LR, "beta1": BETAS[0], "beta2": BETAS[1], "weight_decay": scene.weight_decay}
    options = {name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
               for name, value in options.items()}
    params = {key: arrays["param"].clone() for key, arrays in leaves.items()}
    optimizer = torch.optim.Adam(
        list(params.values()), lr=options["lr"], betas=(options["beta1"], options["beta2"]),
        eps=EPS, weight_decay=options["weight_decay"] if scene.weight_decay else 0,
        amsgrad=scene.amsgrad, maximize=scene.maximize,
        decoupled_weight_decay=scene.decoupled, differentiable=True)
    results = {}
    for key, param in params.items():
        param.grad = leaves[key]["grad"].clone()
        # A step of double: the corrections of float32 steps are off by 1e-5.
        state = {"step": torch.tensor(float(scene.t - 1), dtype=torch.float64)}
        state.update({name: leaves[key][name].clone() for name in STATE if name in scene.written})
        optimizer.state[param] = state
        results[key] = {"param": param, **{n: state[n] for n in scene.written if n != "param"}}
    optimizer.step()
    total = sum((results[key][name] * bar).sum()
                for key, bars in scene.bars.items() for name, bar in bars.items())
    inputs = [(key, name) for key in SHAPES for name in leaves[key]]
    found = torch.autograd.grad(
        total, [leaves[key][name] for key, name in inputs] + list(options.values()),
        allow_unused=True)
    arrays = {key: {} for key in SHAPES}
    for (key, name), bar in zip(inputs, found):
        arrays[key][name] = bar
    return arrays, dict(zip(options, found[len(inputs):]))


@unittest.skipUnless(IS_CURRENT, "a current PyTorch")
class Differentiate(DaemonTest):
    def make(self, scene, dtype="DATA_TYPE_FLOAT64"):
        """A model at the state that the step reads, and a worker."""
        name = f"{self.name}-{self.made}"[-60:].strip("-")
        type(self).made += 1
        self.daemon.post("/v1/models", {
            "tensors": [{"key": k, "shape": [str(n) for n in s], "dataType": dtype}
                        for k, s in SHAPES.items()],
            "defaults": {"lr": LR, "betas": list(BETAS), "eps": EPS,
                         "weightDecay": scene.weight_decay, "amsgrad": scene.amsgrad,
                         "maximize": scene.maximize, "decoupledWeightDecay": scene.decoupled,
                         "differentiable": True}}, model_id=name).expect(200)
        state = {}
        for key, arrays in scene.read.items():
            state[key] = arrays["param"]
            state.update({f"{key}.{n}": arrays[n] for n in STATE if n in scene.written})
            state[key + ".step"] = torch.tensor(scene.t - 1)
        path = f"/v1/models/{name}"
        self.daemon.request("PUT", path + "/state", save(state), self.TYPE).expect(200)
        worker = self.daemon.request("POST", path + "/workers", worker_id="w").expect(200).json()
        self.daemon.request(
            "POST", path + "/gradients", save({k: a["grad"] for k, a in scene.read.items()}),
            self.TYPE, worker="w", epoch=worker["epoch"], sequence=1).expect(200)
        return path

    TYPE = {"Content-Type": "application/x-safetensors"}
    made = 0

    def daemons(self, path, scene):
        """As autograd(), by the daemon."""
        bars = {key if name == "param" else f"{key}.{name}": bar
                for key, named in scene.bars.items() for name, bar in named.items()}
        reply = self.daemon.request(
            "POST", path + ":differentiate", save(bars), self.TYPE).expect(200)
        size = int.from_bytes(reply.body[:8], "little")
        metadata = json.loads(reply.body[8 : 8 + size])["__metadata__"]
        (group,) = json.loads(metadata["adamd.param_groups"])
        read = load(reply.body)
        arrays = {key: {name: read.pop(key if name == "param" else f"{key}.{name}")
                        for name in [*scene.written, "grad"]} for key in SHAPES}
        self.assertEqual(read, {})
        return arrays, {"lr": group["lr"], "beta1": group["betas"][0],
                        "beta2": group["betas"][1], "weight_decay": group["weight_decay"]}

    def compare(self, scene):
        wanted, wanted_options = autograd(scene)
        got, options = self.daemons(self.make(scene), scene)
        for key, arrays in got.items():
            for name, value in arrays.items():
                torch.testing.assert_close(
                    value, wanted[key][name], rtol=TOLERANCE, atol=TOLERANCE,
                    msg=lambda text, where=(key, name): f"{where}: {text}")
        for name, bar in wanted_options.items():
            if bar is None:
                self.assertEqual((name, options[name]), ("weight_decay", None))
            else:
                torch.testing.assert_close(
                    torch.tensor(options[name], dtype=torch.float64), bar,
                    rtol=TOLERANCE, atol=TOLERANCE)

    def test_every_combination_of_flags_is_autograds(self):
        for i in range(16):
            for t in (1, 2, 11):
                amsgrad, maximize, decoupled, decays = (bool(i >> bit & 1) for bit in range(4))
                with self.subTest(amsgrad=amsgrad, maximize=maximize, decoupled=decoupled,
                                  decays=decays, t=t):
                    self.compare(Scene(i * 100 + t, amsgrad, maximize, decoupled,
                                       0.37 if decays else 0.0, t))

    def test_the_edges_are_autograds(self):
        """Where the root is of 0, and at a tie of amsgrad: the same infinities, NaN and halves."""
        scene = Scene(1, True, False, False, 0.0, 1)
        for arrays in scene.read.values():
            for name in ("grad", "exp_avg_sq", "max_exp_avg_sq"):
                arrays[name].zero_()
            arrays["exp_avg"].view(-1)[0] = 0.0
        wanted, _ = autograd(scene)
        got, _ = self.daemons(self.make(scene), scene)
        for key, arrays in got.items():
            for name, value in arrays.items():
                torch.testing.assert_close(value, wanted[key][name], rtol=TOLERANCE,
                                           atol=TOLERANCE, equal_nan=True)


if __name__ == "__main__":
    unittest.main()
