"""The last step, differentiated over the wire, against the formulas in Python's doubles."""

import json
import math
import struct
import unittest

import tensors
from harness import Background, Daemon, DaemonTest, eventually

SHAPES = {"w": [2, 3], "b": [2], "s": [], "none": [0, 4]}
START = {"w": [1, -2, 0.5, 4, -5, 6], "b": [7, 0.125], "s": [-1.5], "none": []}
GRADS = [
    [0.1, -0.2, 0.3, -0.4, 0.5, -0.6, 0.7, -0.8, 0.9],
    [1.0, 0.02, -0.3, 0.04, -0.5, 0.06, 0.7, 1.8, -0.9],
    [-0.5, 0.25, 0.125, 1.5, 2.5, -1e-3, 0.75, -0.375, 3.0],
]
KEYS = ("", ".exp_avg", ".exp_avg_sq", ".max_exp_avg_sq")
DEFAULTS = {"lr": 0.1, "betas": [0.9, 0.99], "eps": 1e-3, "weightDecay": 0.1,
            "differentiable": True}


def flat(values):
    """{key: the numbers of that tensor} of numbers for all tensors in order."""
    taken, at = {}, 0
    for key, shape in SHAPES.items():
        count = math.prod(shape)
        taken[key] = values[at : at + count]
        at += count
    return taken


class Vjp:
    """The vector-Jacobian product of one step, one element at a time, and its sums."""

    def __init__(self, t, lr, betas, eps, weight_decay, amsgrad=False, maximize=False,
                 decoupled=False):
        self.t, self.lr, (self.b1, self.b2), self.eps = t, lr, betas, eps
        self.wd, self.amsgrad, self.maximize, self.decoupled = (
            weight_decay, amsgrad, maximize, decoupled)
        self.c1, self.c2 = 1 - self.b1**t, 1 - self.b2**t
        self.bars = {"lr": 0.0, "b1": 0.0, "b2": 0.0, "eps": 0.0, "weight_decay": 0.0}

    def element(self, theta, g, m, v, x, bar, m_bar, v_bar, x_bar):
        """(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq) of what was read."""
        l2 = self.wd != 0 and not self.decoupled
        sign = -1 if self.maximize else 1
        q = sign * g + (self.wd * theta if l2 else 0)
        m2 = self.b1 * m + (1 - self.b1) * q
        v2 = self.b2 * v + (1 - self.b2) * q * q
        u = max(x, v2) if self.amsgrad else v2
        root, r2, a = math.sqrt(u), math.sqrt(self.c2), self.lr / self.c1
        d = root / r2 + self.eps
        mu = m_bar - bar * a / d
        d_bar = bar * a * m2 / d**2
        u_bar = d_bar / (2 * root * r2) + (x_bar if self.amsgrad else 0)
        to_v, to_x = (1, 0) if not self.amsgrad or v2 > x else (0, 1) if v2 < x else (0.5, 0.5)
        vb = v_bar + to_v * u_bar
        q_bar = (1 - self.b1) * mu + 2 * (1 - self.b2) * q * vb
        bars = self.bars
        bars["lr"] -= bar * m2 / (self.c1 * d)
        bars["b1"] += mu * (m - q) - (
            self.t * self.b1**(self.t - 1) * bar * self.lr * m2 / (self.c1**2 * d))
        bars["b2"] += vb * (v - q * q) + (
            self.t * self.b2**(self.t - 1) * d_bar * root / (2 * self.c2**1.5))
        bars["eps"] += d_bar
        theta_bar = bar
        if l2:
            theta_bar += self.wd * q_bar
            bars["weight_decay"] += q_bar * theta
        elif self.wd != 0:
            theta_bar = bar * (1 - self.lr * self.wd)
            bars["lr"] -= bar * self.wd * theta
            bars["weight_decay"] -= bar * self.lr * theta
        return theta_bar, sign * q_bar, self.b1 * mu, self.b2 * vb, to_x * u_bar


class Differentiate(DaemonTest):
    def make(self, groups=None, **options):
        model = self.daemon.create_model(
            self.name, SHAPES, groups=groups, start=START, **{**DEFAULTS, **options})
        return model, model.register("w0")

    def call(self, model, cotangents, headers=None, **query):
        """`cotangents`: {name in the file: numbers}."""
        data = tensors.write_safetensors({
            name: (SHAPES[name.split(".")[0]], tensors.floats(values))
            for name, values in cotangents.items()})
        return self.send(model, data, headers, **query)

    def send(self, model, data, headers=None, **query):
        return self.daemon.request(
            "POST", model.path + ":differentiate", data,
            {"Content-Type": "application/x-safetensors", **(headers or {})}, **query)

    def check(self, model, before, grad, cotangents, vjp):
        """`before`: the state file of before the step; `grad`: what was pushed."""
        reply = self.call(model, cotangents).expect(200)
        read, metadata = tensors.read_safetensors(reply.body)
        state, _ = tensors.read_safetensors(before)
        grads = flat(list(tensors.floats(grad)))
        given = {key: list(tensors.floats(v)) for key, v in cotangents.items()}
        wanted_keys = {k + s for k in SHAPES for s in (*KEYS[:3], ".grad")}
        if vjp.amsgrad:
            wanted_keys |= {k + KEYS[3] for k in SHAPES}
        self.assertEqual(set(read), wanted_keys)
        for key in SHAPES:
            zeros = [0.0] * math.prod(SHAPES[key])
            states = [state[key + s][1] if key + s in state else zeros for s in KEYS]
            bars = [given.get(key + s, zeros) for s in KEYS]
            for i, grad_of in enumerate(grads[key]):
                wanted = vjp.element(
                    states[0][i], grad_of, *(s[i] for s in states[1:]), *(b[i] for b in bars))
                names = [key, key + ".grad", *(key + s for s in KEYS[1:])]
                for name, value in zip(names, wanted):
                    if name in read:
                        self.assertEqual(read[name][0], SHAPES[key])
                        self.assertTrue(
                            math.isclose(read[name][1][i], value, rel_tol=1e-6, abs_tol=1e-10),
                            (name, i, read[name][1][i], value))
        (group,) = json.loads(metadata["adamd.param_groups"])
        self.assertEqual(group["params"], list(SHAPES))
        for got, name in ((group["lr"], "lr"), (group["betas"][0], "b1"), (group["betas"][1], "b2"),
                          (group["eps"], "eps")):
            self.assertTrue(math.isclose(got, vjp.bars[name], rel_tol=1e-11, abs_tol=1e-14),
                            (name, got, vjp.bars[name]))
        if vjp.wd == 0:
            self.assertIsNone(group["weight_decay"])
        else:
            self.assertAlmostEqual(group["weight_decay"], vjp.bars["weight_decay"], places=11)
        return reply, metadata

    def test_every_combination_of_flags_is_the_formulas(self):
        for i in range(16):
            amsgrad, maximize, decoupled, decay = (bool(i >> bit & 1) for bit in range(4))
            with self.subTest(amsgrad=amsgrad, maximize=maximize, decoupled=decoupled, decay=decay):
                weight_decay = 0.37 if decay else 0.0
                model = self.daemon.create_model(
                    f"flags-{i}", SHAPES, start=START,
                    **{**DEFAULTS, "weightDecay": weight_decay, "amsgrad": amsgrad,
                       "maximize": maximize, "decoupledWeightDecay": decoupled})
                worker = model.register("w0")
                for t, grad in enumerate(GRADS, 1):
                    before = model.get_state().body
                    worker.push(grad).expect(200)
                    cotangents = {"w": [1, 0.5, -1, 2, -2, 0.25], "b.exp_avg": [1, -1],
                                  "s": [0.5], "w.exp_avg_sq": [-1, 1, 0.5, 0.25, 2, 3]}
                    if amsgrad:
                        cotangents["w.max_exp_avg_sq"] = [1, 2, 3, -4, 5, 6]
                    vjp = Vjp(t, 0.1, (0.9, 0.99), 1e-3, weight_decay, amsgrad, maximize,
                              decoupled)
                    reply, metadata = self.check(model, before, grad, cotangents, vjp)
                    self.assertEqual(metadata["adamd.version"], str(t))
                    self.assertEqual(reply.headers["adamd-version"], str(t))
                    self.assertEqual(reply.headers["adamd-generation"], "1")

    def test_the_same_call_gives_the_same_bytes_and_changes_nothing(self):
        model, worker = self.make()
        worker.push(GRADS[0]).expect(200)
        digest = model.digest()
        replies = {self.call(model, {"w": [1] * 6}, version=v).expect(200).body
                   for v in (None, None, 1)}
        self.assertEqual(len(replies), 1)
        self.assertEqual(model.digest(), digest)
        worker.push(GRADS[1]).expect(200)

    def test_groups_that_are_not_differentiable_are_left_out(self):
        model, worker = self.make(groups=[
            {"params": ["b", "none"], "options": {"differentiable": False}},
            {"params": ["w", "s"], "options": {"amsgrad": True}}])
        worker.push(GRADS[0]).expect(200)
        reply = self.call(model, {"w": [1] * 6}).expect(200)
        read, metadata = tensors.read_safetensors(reply.body)
        self.assertEqual(set(read), {k + s for k in ("w", "s") for s in (*KEYS, ".grad")})
        first, second = json.loads(metadata["adamd.param_groups"])
        self.assertEqual(first, {"lr": None, "betas": None, "eps": None, "weight_decay": None,
                                 "params": ["b", "none"]})
        self.assertNotEqual(second["lr"], 0)
        reply = self.call(model, {"b": [1, 1]}).expect(422, "LAYOUT_MISMATCH")
        self.assertIn("b", reply.json()["message"])

    def test_a_tensor_without_a_gradient_was_not_stepped(self):
        model, worker = self.make()
        worker.push({"b": [1, 2]}).expect(200)
        reply = self.call(model, {"w": [1, 2, 3, 4, 5, 6], "b": [1, 1]}).expect(200)
        read, _ = tensors.read_safetensors(reply.body)
        self.assertEqual(list(read["w"][1]), [1, 2, 3, 4, 5, 6])
        self.assertNotIn("w.grad", read)
        self.assertIn("b.grad", read)

    def test_a_gradient_of_zero_at_step_one_has_an_infinite_slope(self):
        model, worker = self.make(weightDecay=0)
        worker.push([0] * 9).expect(200)
        read, metadata = tensors.read_safetensors(self.call(model, {"s": [1]}).expect(200).body)
        self.assertEqual(list(read["s"][1]), [1])
        self.assertTrue(math.isnan(read["s.grad"][1][0]))
        (group,) = json.loads(metadata["adamd.param_groups"])
        self.assertEqual((group["lr"], group["betas"][1]), (0, "NaN"))

    def test_what_cannot_be_differentiated_says_why(self):
        model, worker = self.make()
        good = tensors.write_safetensors({"s": ([], tensors.floats([1]))})
        reply = self.send(model, good).expect(404, "NOT_FOUND")
        self.assertEqual(reply.fields, ["version"])
        worker.push(GRADS[0]).expect(200)
        worker.push(GRADS[0]).expect(200)
        reply = self.send(model, good, version=1).expect(412, "ETAG_MISMATCH")
        self.assertEqual((reply.fields, reply.metadata["current_version"]), (["version"], "2"))
        self.send(model, good, version="x").expect(400, "BAD_FIELD")
        self.send(model, good, colour="red").expect(400, "BAD_FIELD")
        self.send(model, good, {"Content-Type": "application/json"}).expect(
            415, "UNSUPPORTED_MEDIA_TYPE")
        self.send(model, good, version=2).expect(200)
        model.patch({"defaults": {"differentiable": False}}).expect(200)
        reply = self.send(model, good).expect(400, "BAD_FIELD")
        self.assertEqual(reply.fields, ["differentiable"])
        self.daemon.request("POST", "/v1/models/no-such:differentiate", good).expect(404)
        fresh = self.daemon.create_model("fresh", SHAPES, **DEFAULTS)
        self.send(fresh, good).expect(409, "INITIALIZING")

    def test_a_file_that_does_not_fit_is_refused_by_name(self):
        model, worker = self.make()
        worker.push(GRADS[0]).expect(200)
        good = tensors.write_safetensors({"w": (SHAPES["w"], tensors.floats([1] * 6))})

        def one(key, shape, values):
            return tensors.write_safetensors({key: (shape, values)})

        bad = {
            "x": one("x", [1], tensors.floats([1])),
            "w.grad": one("w.grad", [2, 3], tensors.floats([1] * 6)),
            "w.step": one("w.step", [], tensors.from_bytes("q", b"\0" * 8)),
            "w": one("w", [3, 2], tensors.floats([1] * 6)),
            "b.exp_avg": one("b.exp_avg", [3], tensors.floats([1] * 3)),
            "s": one("s", [], tensors.from_bytes("q", b"\0" * 8)),
            "max_exp_avg_sq": one("b.max_exp_avg_sq", [2], tensors.floats([1, 2])),
            "body": good[:-4] + b"",
        }
        for field, data in bad.items():
            with self.subTest(field):
                reply = self.send(model, data)
                self.assertIn((reply.status, reply.reason),
                              ((422, "LAYOUT_MISMATCH"), (400, "BAD_FIELD")), reply)
                if field != "body":
                    self.assertEqual(reply.fields, [field])
        for data in (b"", good[:20], good + b"1234", struct.pack("<Q", 1 << 50) + good[8:]):
            self.assertIn(self.send(model, data).status, (400, 411, 413, 422))
        self.send(model, b"", {"Content-Length": str(1 << 40)})
        self.send(model, good).expect(200)

    def test_a_caller_that_goes_away_leaves_room_for_the_next(self):
        model, worker = self.make()
        worker.push(GRADS[0]).expect(200)
        good = tensors.write_safetensors({"w": (SHAPES["w"], tensors.floats([1] * 6))})
        for size in (0, 9, len(good) - 1):
            with self.daemon.socket() as connected:
                connected.sendall(
                    f"POST {model.path}:differentiate HTTP/1.1\r\nHost: t\r\n"
                    "Content-Type: application/x-safetensors\r\n"
                    f"Content-Length: {len(good)}\r\n\r\n".encode() + good[:size])
                eventually(lambda: self.send(model, good).reason == "OPERATION_RUNNING")
            eventually(lambda: self.send(model, good).status == 200)

    def test_a_model_that_is_deleted_meanwhile(self):
        model, worker = self.make()
        worker.push(GRADS[0]).expect(200)
        good = tensors.write_safetensors({"w": (SHAPES["w"], tensors.floats([1] * 6))})
        with self.daemon.socket() as connected:
            connected.sendall(
                f"POST {model.path}:differentiate HTTP/1.1\r\nHost: t\r\nConnection: close\r\n"
                "Content-Type: application/x-safetensors\r\n"
                f"Content-Length: {len(good)}\r\n\r\n".encode() + good[:-1])
            eventually(lambda: self.send(model, good).reason == "OPERATION_RUNNING")
            self.daemon.request("DELETE", model.path, force="true").expect(200)
            connected.sendall(good[-1:])
            self.assertIn(b"404", connected.recv(4096))

    def test_steps_go_on_beside_it(self):
        shapes = {"w": [400000]}
        model = self.daemon.create_model("beside", shapes, **DEFAULTS).initialize()
        worker = model.register("w0")
        grad = tensors.to_bytes(tensors.floats([0.5] * 400000))
        worker.push(grad).expect(200)
        data = tensors.write_safetensors({"w": ([400000], tensors.floats([1.0] * 400000))})
        calls = [Background(self.send, model, data) for _ in range(4)]
        for _ in range(6):
            worker.push(grad).expect(200)
        statuses = {call.result().status for call in calls}
        self.assertLessEqual(statuses, {200, 409, 412})
        read, metadata = tensors.read_safetensors(self.send(model, data).expect(200).body)
        self.assertEqual(metadata["adamd.version"], "7")
        self.assertEqual(len(set(read["w.grad"][1])), 1)

    def test_the_gradient_is_the_rounds_mean(self):
        model = self.daemon.create_model(
            self.name, SHAPES, start=START, policy={"trigger": "TRIGGER_BARRIER"}, **DEFAULTS)
        workers = [model.register("w0"), model.register("w1")]
        before = model.get_state().body
        pushes = [Background(w.push, g) for w, g in zip(workers, GRADS)]
        for push in pushes:
            push.result().expect(200)
        mean = [tensors.floats([tensors.floats([a + b])[0] / 2])[0]
                for a, b in zip(tensors.floats(GRADS[0]), tensors.floats(GRADS[1]))]
        self.check(model, before, mean, {"w": [1] * 6, "b.exp_avg_sq": [3, 4]},
                   Vjp(1, 0.1, (0.9, 0.99), 1e-3, 0.1))


class Memory(unittest.TestCase):
    def test_what_is_kept_counts_and_is_given_back(self):
        shapes = {"w": [1 << 20]}
        with Daemon() as daemon:
            model = daemon.create_model("m", shapes).initialize()
            worker = model.register("w0")
            grad = bytes(4 << 20)
            worker.push(grad).expect(200)
            def resident():
                return int(model.get()["residentBytes"])
            before = resident()
            model.patch({"defaults": {"differentiable": True}}).expect(200)
            self.assertEqual(resident() - before, 4 * (4 << 20))
            worker.push(grad).expect(200)
            data = tensors.write_safetensors({"w": ([1 << 20], tensors.floats([1.0] * (1 << 20)))})
            daemon.post("/v1/models/m:differentiate", data).expect(200)
            eventually(lambda: resident() - before == 4 * (4 << 20))
            model.patch({"defaults": {"differentiable": False}}).expect(200)
            self.assertEqual(resident(), before)
            said = daemon.post("/v1/models", {
                "tensors": [{"key": "w", "shape": ["1048576"]}],
                "defaults": {"differentiable": True}}, model_id="x", validate_only="true").expect(200)
            self.assertEqual(int(said.json()["residentBytes"]), 9 * (4 << 20))


if __name__ == "__main__":
    unittest.main()
