"""Hooks over the wire: the resource, what each action does to the numbers, and what stays of it."""

import json
import math
import unittest

import tensors
from adam import Adam, f32, weighted_mean
from harness import Daemon, DaemonTest, find_binary

SHAPES = {"w": [2, 3], "b": [4]}
START = {"w": [1, 2, 3, 4, 5, 6], "b": [7, 8, 9, 10]}
GRAD = [3.0, -2.0, 1.0, 0.5, -0.25, 4.0, 2.0, -1.0, 0.125, 8.0]
PLUGIN = find_binary("plugin_half.so")


def split(values):
    return {"w": values[:6], "b": values[6:]}


def norm(values):
    return math.sqrt(sum(v * v for v in values))


def clipped(values, max_norm):
    coef = min(1.0, max_norm / (norm(values) + 1e-6))
    return [f32(v * f32(coef)) for v in values] if coef < 1.0 else list(values)


class Hooks(DaemonTest):
    flags = ("--plugin.half", PLUGIN)

    def make(self, trigger="EACH_PUSH", name=None, **options):
        options.setdefault("lr", 0.1)
        return self.daemon.create_model(name or self.name, SHAPES, {"trigger": f"TRIGGER_{trigger}"},
                                        start=START, **options)

    def add(self, model, action, event=None, **parameters):
        body = {"action": action, "parameters": parameters}
        if event:
            body["event"] = f"EVENT_{event}"
        return self.daemon.post(model.path + "/hooks", body)

    def hooks(self, model):
        return self.daemon.get(model.path + "/hooks").expect(200).json().get("hooks", [])

    def assert_is(self, model, expected):
        got = model.parameters()
        self.assertEqual({k: list(v) for k, v in got.items()},
                         {k: list(v) for k, v in expected.params.items()})

    # ------------------------------------------------------------------------------ the resource

    def test_a_hook_is_added_shown_listed_and_removed(self):
        model = self.make()
        said = self.add(model, "clip_grad_norm", maxNorm=1.5).expect(200).json()
        self.assertEqual(said["action"], "clip_grad_norm")
        self.assertEqual(said["event"], "EVENT_STEP_PRE")
        self.assertEqual(said["parameters"]["maxNorm"], 1.5)
        self.assertEqual(said["parameters"]["normType"], 2)
        path = "/v1/" + said["name"]
        self.assertEqual(self.daemon.get(path).expect(200).json(), said)
        other = self.add(model, "ema", decay=0.5).expect(200).json()
        self.assertEqual([h["name"] for h in self.hooks(model)], [said["name"], other["name"]])
        self.assertGreater(int(other["name"].rsplit("/", 1)[1]), int(said["name"].rsplit("/", 1)[1]))

        self.assertTrue(self.daemon.request("DELETE", path).expect(200).json()["removed"])
        again = self.daemon.request("DELETE", path).expect(200).json()
        self.assertFalse(again.get("removed", False))  # as remove() of a handle
        self.daemon.get(path).expect(404, "NOT_FOUND")
        for typo in ("abc", "-1", "01", "99999999999999999999"):
            for method in ("GET", "DELETE"):
                reply = self.daemon.request(method, f"{model.path}/hooks/{typo}")
                self.assertEqual(reply.expect(400, "BAD_FIELD").fields, ["name"])
        self.assertEqual([h["name"] for h in self.hooks(model)], [other["name"]])

    def test_the_same_over_rpc(self):
        model = self.make()
        parent = "models/" + model.name
        rpc = "/adamd.v1.ModelService/"
        made = self.daemon.post(rpc + "CreateHook", {
            "parent": parent, "hook": {"action": "clip_grad_value", "parameters": {"clip_value": 2}},
        }).expect(200).json()
        self.assertEqual(self.daemon.post(rpc + "GetHook", {"name": made["name"]}).json(), made)
        self.assertEqual(self.daemon.post(rpc + "ListHooks", {"parent": parent}).json(),
                         {"hooks": [made]})
        self.daemon.post(rpc + "DeleteHook", {"name": made["name"]}).expect(200)
        self.assertEqual(self.hooks(model), [])

    def test_errors_name_the_field(self):
        model = self.make()
        for body, status, field in (
            ({}, 400, "action"),
            ({"action": "format_disk"}, 400, "action"),
            ({"action": "plugin:other", "event": "EVENT_STEP_PRE"}, 404, "action"),
            ({"action": "plugin:half", "parameters": {"text": "1"}}, 400, "event"),
            ({"action": "plugin:half", "event": 1, "parameters": {"text": "?"}}, 422,
             "parameters.text"),
            ({"action": "clip_grad_norm"}, 400, "parameters.max_norm"),
            ({"action": "clip_grad_norm", "parameters": {"maxNorm": -1}}, 400,
             "parameters.max_norm"),
            ({"action": "clip_grad_norm", "parameters": {"maxNorm": 1, "decay": 1}}, 400,
             "parameters.decay"),
            ({"action": "lr_schedule", "parameters": {"schedule": "sine"}}, 400,
             "parameters.schedule"),
            ({"action": "lr_schedule", "parameters": {"schedule": "cosine"}}, 400,
             "parameters.t_max"),
            ({"action": "ema", "event": "EVENT_STEP_PRE"}, 400, "event"),
            ({"action": "nonfinite_guard", "prepend": True}, 400, "prepend"),
            ({"action": "unscale", "parameters": {"scale": "NaN"}}, 400, "parameters.scale"),
        ):
            reply = self.daemon.post(model.path + "/hooks", body).expect(status)
            self.assertEqual(reply.fields, [field], (body, reply))
        self.assertEqual(self.hooks(model), [])
        self.daemon.post("/v1/models/none/hooks", {"action": "ema"}).expect(404, "NOT_FOUND")
        self.daemon.get(model.path + "/hooks/9999").expect(404, "NOT_FOUND")
        self.add(model, "ema").expect(200)
        self.add(model, "ema").expect(409, "EXISTS")

    def test_there_is_a_limit(self):
        model = self.make()
        for _ in range(64):
            self.add(model, "clip_grad_value", clipValue=1).expect(200)
        self.add(model, "clip_grad_value", clipValue=1).expect(413, "TOO_LARGE")

    # -------------------------------------------------------------------------------- the numbers

    def test_clipping_unscaling_and_order(self):
        model = self.make()
        self.add(model, "unscale", scale=4, growthInterval="0").expect(200)
        self.add(model, "clip_grad_norm", maxNorm=1).expect(200)
        self.add(model, "clip_grad_value", clipValue=0.25).expect(200)
        worker, expected = model.register("w0"), Adam(START, lr=0.1)
        for k in range(3):
            grad = [g * (k + 1) for g in GRAD]
            worker.push(grad).expect(200)
            unscaled = [f32(g * 0.25) for g in grad]
            total = norm(unscaled)
            expected.step(split([max(-0.25, min(0.25, g)) for g in clipped(unscaled, 1)]))
            record = model.records()[-1]
            self.assertAlmostEqual(record["totalNorm"], total, places=9)
            self.assertAlmostEqual(record["clipCoefficient"], 1 / (total + 1e-6), places=9)
            self.assertEqual(record["unscaleFactor"], 0.25)
        self.assert_is(model, expected)

    def test_an_overflow_skips_the_step_and_halves_the_scale(self):
        model = self.make()  # the policy rejects what is not finite, but for this hook
        path = "/v1/" + self.add(model, "unscale", scale=1024, growthInterval="2").json()["name"]
        worker, expected = model.register("w0"), Adam(START, lr=0.1)
        scales, outcomes = [], []
        for step in range(6):
            scale = self.daemon.get(path).json()["parameters"]["scale"]
            scales.append(scale)
            bad = step == 1
            grad = [math.inf if bad and i == 4 else g * scale for i, g in enumerate(GRAD)]
            reply = worker.push(grad).expect(200)
            outcomes.append(reply.outcome)
            if not bad:
                expected.step(split(GRAD))
        self.assertEqual(scales, [1024, 1024, 512, 512, 1024, 1024])
        self.assertEqual(outcomes, ["APPLIED", "SKIPPED_NONFINITE"] + ["APPLIED"] * 4)
        self.assertEqual(model.version, 5)
        skipped = [r for r in model.records() if r.get("skipped")]
        self.assertEqual([r["skipReason"] for r in skipped], ["SKIP_REASON_NONFINITE"])
        self.assert_is(model, expected)

    def test_a_schedule_moves_every_groups_lr(self):
        model = self.daemon.create_model(
            self.name, SHAPES, groups=[{"params": ["w"], "options": {"lr": 0.1}},
                                       {"params": ["b"], "options": {"lr": 0.4}}], start=START)
        self.add(model, "lr_schedule", schedule="cosine", tMax="4", warmupSteps="2",
                 warmupStartFactor=0.5).expect(200)
        worker, lrs = model.register("w0"), []
        for _ in range(6):
            lrs.append([g["options"]["lr"] for g in model.get()["paramGroups"]])
            worker.push(GRAD).expect(200)
            self.assertEqual(model.records()[-1]["lr"], lrs[-1][0])
        factors = [0.5, 0.75] + [(1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)]
        for (w, b), factor in zip(lrs, factors):
            self.assertAlmostEqual(w, 0.1 * factor, places=12)
            self.assertAlmostEqual(b, 0.4 * factor, places=12)
        self.assertEqual(self.hooks(model)[0]["state"]["position"], "6")

    def test_the_average_is_pulled_by_name(self):
        model = self.make()
        model.pull(source="ema").expect(404, "NOT_FOUND")
        model.pull(source="mean").expect(400, "BAD_FIELD")
        self.add(model, "ema", decay=0.75).expect(200)
        worker, average = model.register("w0"), None
        for _ in range(4):
            worker.push(GRAD).expect(200)
            now = model.parameters()
            average = now if average is None else {
                k: [0.75 * a + 0.25 * p for a, p in zip(average[k], now[k])] for k in now}
            reply = model.pull(source="ema").expect(200)
            got, _ = tensors.read_safetensors(reply.body)
            for key, values in average.items():
                for a, b in zip(got[key][1], values):
                    self.assertAlmostEqual(a, b, places=5)
        again = model.pull({"If-None-Match": reply.headers["etag"]}, source="ema")
        self.assertEqual(again.status, 304)
        self.assertNotEqual(reply.headers["etag"], model.pull().headers["etag"])

    def test_a_round_is_clipped_as_its_mean(self):
        model = self.make("BARRIER")
        self.add(model, "clip_grad_norm", maxNorm=1).expect(200)
        workers = [model.register(f"w{i}", rank=i) for i in range(2)]
        grads = [GRAD, [g / 3 - 1 for g in GRAD]]
        workers[1].stage(grads[1], weight=2)
        workers[0].push(grads[0], weight=1).expect(200)
        expected = Adam(START, lr=0.1)
        mean = weighted_mean([(1, grads[0]), (2, grads[1])])
        expected.step(split(clipped(list(mean), 1)))
        self.assert_is(model, expected)

    def test_manual_clips_the_gradient_that_stays(self):
        model = self.make("MANUAL")
        hook = self.add(model, "clip_grad_norm", maxNorm=1).expect(200).json()
        model.register("w0").push(GRAD).expect(200)
        model.step().expect(200)
        self.daemon.request("DELETE", "/v1/" + hook["name"]).expect(200)
        model.step().expect(200)
        expected = Adam(START, lr=0.1)
        for _ in range(2):
            expected.step(split(clipped(GRAD, 1)))
        self.assert_is(model, expected)

    # -------------------------------------------------------------------------------------- plugins

    def test_a_plugin_works_on_the_gradient(self):
        model = self.make()
        said = self.add(model, "plugin:half", "STEP_PRE", text="5").expect(200).json()
        self.assertEqual((said["action"], said["parameters"]), ("plugin:half", {"text": "5"}))
        worker, expected = model.register("w0"), Adam(START, lr=0.1)
        for factor in (1, 0.25):
            grad = [g * factor for g in GRAD]
            worker.push(grad).expect(200)
            expected.step(split([g / 2 for g in grad] if norm(grad) > 5 else grad))
        self.assert_is(model, expected)

    def test_a_plugin_that_refuses_leaves_nothing(self):
        model = self.make("MANUAL")
        worker = model.register("w0")
        worker.push(GRAD).expect(200)
        hook = self.add(model, "plugin:half", "STEP_PRE", text="fail").expect(200).json()

        def refused():
            reply = model.step().expect(422, "HOOK_FAILED")
            self.assertIn("told to fail", reply.json()["message"])

        before = model.parameters()
        refused()
        self.assertEqual(model.parameters(), before)
        self.assertEqual(model.version, 0)
        self.daemon.request("DELETE", "/v1/" + hook["name"]).expect(200)
        model.step().expect(200)
        self.assertEqual(model.version, 1)

    def test_hooks_of_the_state_dict(self):
        model = self.make()
        for event in ("STATE_DICT_PRE", "STATE_DICT_POST", "LOAD_STATE_DICT_PRE"):
            body = {"action": "plugin:half", "event": f"EVENT_{event}", "prepend": True,
                    "parameters": {"text": "1"}}
            self.daemon.post(model.path + "/hooks", body).expect(200)
        saved = model.get_state()
        model.put_state(saved.body, force="true").expect(200)
        hook = self.add(model, "plugin:half", "STATE_DICT_POST", text="fail").expect(200).json()
        reply = self.daemon.get(model.path + "/state").expect(422, "HOOK_FAILED")
        self.assertIn("told to fail", reply.json()["message"])
        self.daemon.request("DELETE", "/v1/" + hook["name"]).expect(200)
        hook = self.add(model, "plugin:half", "LOAD_STATE_DICT_PRE", text="fail").expect(200).json()
        model.put_state(saved.body, force="true").expect(422, "HOOK_FAILED")

    # ---------------------------------------------------------------------------------------- state

    def everything(self, model):
        self.add(model, "unscale", scale=2, growthInterval="3").expect(200)
        self.add(model, "clip_grad_norm", maxNorm=1, normType="Infinity").expect(200)
        self.add(model, "lr_schedule", schedule="linear", startFactor=0.5, totalIters="9").expect(200)
        self.add(model, "ema", decay=0.9).expect(200)
        self.add(model, "plugin:half", "STEP_PRE", text="2.5").expect(200)

    def test_hooks_come_back_with_the_state(self):
        model = self.make()
        self.everything(model)
        worker = model.register("w0")
        for _ in range(4):
            worker.push(GRAD).expect(200)
        saved = model.get_state()
        read, metadata = tensors.read_safetensors(saved.body)
        self.assertLessEqual({"w.ema", "b.ema"}, set(read))
        self.assertEqual([h["action"] for h in json.loads(metadata["adamd.hooks"])],
                         ["unscale", "clip_grad_norm", "plugin:half", "lr_schedule", "ema"])
        with Daemon(*self.flags) as other:
            copy = other.create_model("copy", SHAPES, lr=0.7)
            copy.put_state(saved.body).expect(200)
            self.assertEqual(copy.get_state().body, saved.body)
            for m in (model, copy):
                again = m.register("w9")
                for _ in range(3):
                    again.push(GRAD).expect(200)
            self.assertEqual(copy.digest(), model.digest())
        with Daemon() as other:  # whose operator named no plugin
            copy = other.create_model("copy", SHAPES)
            copy.put_state(saved.body).expect(404, "NOT_FOUND")

    def test_a_state_of_a_model_without_hooks_has_none(self):
        model = self.make()
        plain = model.get_state()
        self.everything(model)
        model.put_parameters(START)  # parameters alone leave them
        self.assertEqual(len(self.hooks(model)), 5)
        model.put_state(plain.body, force="true").expect(200)
        self.assertEqual(self.hooks(model), [])
        self.assertEqual(model.digest(), plain.headers["adamd-state-digest"])

    def test_a_file_with_bad_hooks_changes_nothing(self):
        model = self.make()
        self.everything(model)
        model.register("w0").push(GRAD).expect(200)
        read, metadata = tensors.read_safetensors(model.get_state().body)
        metadata.pop("adamd.state_digest")

        def put(hooks, drop=None):
            names = {k: v for k, v in read.items() if not (drop and k.endswith(drop))}
            data = tensors.write_safetensors(names, {**metadata, "adamd.hooks": hooks})
            return lambda: model.put_state(data, force="true")

        self.assert_untouched(model, put("{}")).expect(400, "BAD_FIELD")
        self.assert_untouched(model, put('[{"action":"rm","event":"step_pre"}]')).expect(400)
        self.assert_untouched(model, put("[]")).expect(422, "LAYOUT_MISMATCH")
        self.assert_untouched(model, put(metadata["adamd.hooks"], ".ema")).expect(
            422, "LAYOUT_MISMATCH")


class EveryDtype(DaemonTest):
    """Hooks on a model of several types: each is scaled in its own, as a model without hooks shows
    that is given what they should make of the gradient."""

    SHAPES = {"single": [5], "half": [4], "brain": [2, 3], "double": [3]}
    DTYPES = {"half": "FLOAT16", "brain": "BFLOAT16", "double": "FLOAT64"}
    KINDS = {"single": "F32", "half": "F16", "brain": "BF16", "double": "F64"}

    def stored(self, key, values):
        """`values` as the type has them."""
        data = tensors.encode(self.KINDS[key], values)
        file = tensors.write_safetensors({key: ([len(values)], self.KINDS[key], data)})
        return list(tensors.read_safetensors(file)[0][key][1])

    def make(self, name):
        model = self.daemon.create_model(name, self.SHAPES, dtypes=self.DTYPES, lr=0.1, eps=1e-3)
        model.initialize()
        return model, model.register("w0")

    def push(self, worker, values):
        worker.push(tensors.write_safetensors(
            {k: (self.SHAPES[k], self.KINDS[k], tensors.encode(self.KINDS[k], v))
             for k, v in values.items()}),
            headers={"Content-Type": "application/x-safetensors"}).expect(200)

    def scaled(self, key, values, factor):
        if key == "double":
            return [v * factor for v in values]
        return self.stored(key, [f32(v * f32(factor)) for v in values])

    def test_each_type_is_scaled_in_its_own(self):
        (model, worker), (plain, other) = self.make("hooked"), self.make("plain")
        for body in ({"action": "unscale", "parameters": {"scale": 8}},
                     {"action": "clip_grad_norm", "parameters": {"maxNorm": 0.75}},
                     {"action": "clip_grad_value", "parameters": {"clipValue": 0.3}}):
            self.daemon.post(model.path + "/hooks", body).expect(200)
        for step in range(3):
            values = {k: self.stored(k, [((i * 7 + step) % 5 - 2) * 1.3 + 0.1 * i for i in range(n)])
                      for k, n in (("single", 5), ("half", 4), ("brain", 6), ("double", 3))}
            self.push(worker, values)
            values = {k: self.scaled(k, v, 0.125) for k, v in values.items()}
            total = norm([x for v in values.values() for x in v])
            coef = min(1.0, 0.75 / (total + 1e-6))
            values = {k: self.scaled(k, v, coef) for k, v in values.items()}
            limits = {k: self.stored(k, [0.3])[0] for k in values}
            self.push(other, {k: [max(-limits[k], min(limits[k], x)) for x in v]
                              for k, v in values.items()})
            self.assertAlmostEqual(model.records()[-1]["totalNorm"], total, places=9)
        self.assertEqual(model.pull(format="raw").body, plain.pull(format="raw").body)

    def test_the_average_has_the_parameters_types(self):
        model, worker = self.make("average")
        self.daemon.post(model.path + "/hooks", {"action": "ema", "parameters": {"decay": 0.25}})
        values = {k: self.stored(k, [1.0] * n)
                  for k, n in (("single", 5), ("half", 4), ("brain", 6), ("double", 3))}
        self.push(worker, values)
        first, _ = tensors.read_safetensors(model.pull().body)
        self.push(worker, values)
        second, _ = tensors.read_safetensors(model.pull().body)
        reply = model.pull(source="ema").expect(200)
        self.assertEqual(tensors.read_dtypes(reply.body), self.KINDS)
        got, _ = tensors.read_safetensors(reply.body)
        for key, kind in self.KINDS.items():
            for average, old, new in zip(got[key][1], first[key][1], second[key][1]):
                self.assertAlmostEqual(average, 0.25 * old + 0.75 * new,
                                       delta={"F32": 1e-7, "F64": 1e-15}.get(kind, 2e-3))

    def test_a_group_that_is_added_is_averaged_too(self):
        model, worker = self.make("grown")
        self.daemon.post(model.path + "/hooks", {"action": "ema", "parameters": {"decay": 0.5}})
        self.daemon.post(model.path + "/hooks", {"action": "lr_schedule", "parameters": {
            "schedule": "exponential", "gamma": 0.5}})
        values = {k: [1.0] * n for k, n in (("single", 5), ("half", 4), ("brain", 6), ("double", 3))}
        for _ in range(2):
            self.push(worker, values)
        before, _ = tensors.read_safetensors(model.pull(source="ema").expect(200).body)
        data = tensors.write_safetensors({"new": ([2], tensors.floats([5, 6]))})
        self.daemon.post(model.path + "/groups", data,
                         headers={"Content-Type": "application/x-safetensors"}).expect(200)
        self.SHAPES = {**self.SHAPES, "new": [2]}
        self.KINDS = {**self.KINDS, "new": "F32"}
        read, _ = tensors.read_safetensors(model.pull(source="ema").expect(200).body)
        self.assertEqual(list(read["new"][1]), [5, 6])
        self.assertEqual({k: list(v[1]) for k, v in before.items()},
                         {k: list(v[1]) for k, v in read.items() if k != "new"})
        again = model.register("w1")
        self.push(again, {**values, "new": [1.0, -1.0]})
        read, _ = tensors.read_safetensors(model.pull(source="ema").expect(200).body)
        now, _ = tensors.read_safetensors(model.pull().body)
        self.assertEqual(list(read["new"][1]), list(now["new"][1]))  # the first: a copy
        for old, average, new in zip(before["single"][1], read["single"][1], now["single"][1]):
            self.assertAlmostEqual(average, 0.5 * old + 0.5 * new, places=6)
        lrs = [g["options"]["lr"] for g in model.get()["paramGroups"]]
        self.assertEqual(lrs[0], 0.1 * 0.5 ** 3)
        saved = model.get_state()  # and all of it comes back
        model.put_state(saved.body, force="true").expect(200)
        self.assertEqual(model.digest(), saved.headers["adamd-state-digest"])


class AcrossVariants(unittest.TestCase):
    """The same run with hooks gives the same bits, on every variant, in every order of arrival."""

    SHAPES = {"a": [517, 13], "b": [31], "c": [1]}

    def run_with(self, flags, order):
        count = 517 * 13 + 31 + 1
        with Daemon(*flags) as daemon:
            model = daemon.create_model("m", self.SHAPES, {"trigger": "TRIGGER_BARRIER"}).initialize()
            for body in (
                {"action": "unscale", "parameters": {"scale": 3}},
                {"action": "clip_grad_norm", "parameters": {"maxNorm": 1}},
                {"action": "clip_grad_value", "parameters": {"clipValue": 0.05}},
                {"action": "lr_schedule", "parameters": {"schedule": "step", "stepSize": 2,
                                                         "gamma": 0.5}},
                {"action": "ema"},
            ):
                daemon.post(model.path + "/hooks", body).expect(200)
            workers = [model.register(f"w{i}", rank=i) for i in range(3)]
            for step in range(3):
                grads = [[math.sin(i * (r + 1) + step) * 10 for i in range(count)]
                         for r in range(3)]
                for rank in order[:-1]:
                    workers[rank].stage(grads[rank])
                workers[order[-1]].push(grads[order[-1]]).expect(200)
                for rank in order[:-1]:
                    workers[rank].push(grads[rank]).expect(200)
            return model.digest()

    def test_one_digest(self):
        digests = {self.run_with(("--cpu-variant", "base", "--threads", "1"), [0, 1, 2])}
        for variant in ("avx2", "avx512"):
            try:
                digests.add(self.run_with(("--cpu-variant", variant, "--threads", "2"), [2, 0, 1]))
            except AssertionError as error:
                if "cannot be had" not in str(error):
                    raise
        digests.add(self.run_with((), [1, 2, 0]))
        self.assertEqual(len(digests), 1, digests)


class Configuration(unittest.TestCase):
    def refused(self, *flags):
        daemon = Daemon(*flags)
        with self.assertRaises(AssertionError) as caught:
            daemon.start()
        daemon.discard()
        return str(caught.exception)

    def test_a_plugin_that_cannot_be_loaded_is_told(self):
        self.assertIn("plugin.half", self.refused("--plugin.half", "/nowhere/half.so"))
        self.assertIn("absolute path", self.refused("--plugin.half", "half.so"))
        self.assertIn("a-z", self.refused("--plugin.Half!", PLUGIN))


if __name__ == "__main__":
    unittest.main()
