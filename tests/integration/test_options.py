"""What PyTorch refuses about Adam's options is refused in its words and in its order, whichever way
the options come in; what it accepts is accepted and shown.

PyTorch looks at its constructor's own values only. The daemon looks at all that come in: groups,
groups that are added, edits while it trains, options of one step, loaded states.
"""

import json
import math
import struct
import unittest

import tensors
from harness import DaemonTest

LR_TENSOR = "lr as a Tensor is not supported for capturable=False and foreach=True"
BETA_TENSOR = "betas[0] as a Tensor is not supported for capturable=False and foreach=True"
MIXED = "betas must be either both floats or both Tensors"
DIFFERENTIABLE = "`fused` does not support `differentiable`"
BOTH = "`fused` and `foreach` cannot be `True` together."
AUTOGRAD = "_foreach ops don't support autograd"

# In the constructor's order. Each row has everything wrong that a later row has, where one can.
REFUSED = {
    "tensor lr and foreach, first of all": (
        {"lr": -1, "tensorLr": True, "foreach": True, "eps": -1}, "lr", LR_TENSOR),
    "lr, before eps": ({"lr": -0.1, "eps": -1, "betas": [1, 1]}, "lr", "Invalid learning rate: -0.1"),
    "lr as an int": ({"lr": -1, "integers": ["lr"]}, "lr", "Invalid learning rate: -1"),
    "lr as a float": ({"lr": -1}, "lr", "Invalid learning rate: -1.0"),
    "lr as a tensor": ({"lr": -0.1, "tensorLr": True}, "lr",
                       "Invalid learning rate: -0.10000000149011612"),
    "lr nan": ({"lr": "NaN"}, "lr", "Invalid learning rate: nan"),
    "lr -inf": ({"lr": "-Infinity"}, "lr", "Invalid learning rate: -inf"),
    "eps, before betas": ({"eps": -1e-8, "betas": [1.0, 1.0]}, "eps",
                          "Invalid epsilon value: -1e-08"),
    "beta 0, before beta 1": ({"betas": [1.0, -1.0]}, "betas[0]",
                              "Invalid beta parameter at index 0: 1.0"),
    "beta 1, before weight decay": ({"betas": [0.0, 1.0], "weightDecay": -1}, "betas[1]",
                                    "Invalid beta parameter at index 1: 1.0"),
    "weight decay as an int": ({"weightDecay": -1, "integers": ["weight_decay"]}, "weight_decay",
                               "Invalid weight_decay value: -1"),
    "weight decay, before the betas' kinds": (
        {"weightDecay": -1, "tensorBetas": [True, False]}, "weight_decay",
        "Invalid weight_decay value: -1.0"),
    "betas of two kinds": ({"betas": [0.5, 0.5], "tensorBetas": [True, False], "foreach": True},
                           "betas", MIXED),
    "betas of two kinds, the other way round": (
        {"betas": [0.5, 0.5], "tensorBetas": [False, True]}, "betas", MIXED),
    "an int beta": ({"betas": [0, 0.9], "integers": ["betas[0]"]}, "betas", MIXED),
    "tensor betas and foreach": ({"betas": [0.5, 0.5], "tensorBetas": [True], "foreach": True},
                                 "betas[0]", BETA_TENSOR),
    "fused and differentiable, before both": (
        {"fused": True, "differentiable": True, "foreach": True}, "fused", DIFFERENTIABLE),
    "fused and foreach": ({"fused": True, "foreach": True}, "fused", BOTH),
    "foreach and differentiable": ({"foreach": True, "differentiable": True}, "foreach", AUTOGRAD),
}

ACCEPTED = {
    "zeros": {"lr": 0, "eps": 0, "betas": [0.0, 0.0], "weightDecay": 0},
    "infinities": {"lr": "Infinity", "eps": "Infinity", "weightDecay": "Infinity"},
    "ints": {"lr": 1, "eps": 0, "weightDecay": 0, "integers": ["lr", "eps", "weight_decay"]},
    "all flags": {"amsgrad": True, "maximize": True, "capturable": True, "foreach": True,
                  "decoupledWeightDecay": True},
    "differentiable": {"differentiable": True},
    "differentiable for-loop": {"differentiable": True, "foreach": False, "fused": False},
    "fused": {"fused": True, "foreach": False},
    "fused and capturable": {"fused": True, "capturable": True},
    "tensors": {"lr": 0.1, "tensorLr": True, "betas": [0.9, 0.99], "tensorBetas": [True]},
    "tensors, foreach and capturable": {
        "lr": 0.1, "tensorLr": True, "betas": [0.9, 0.99], "tensorBetas": [True], "foreach": True,
        "capturable": True},
    "tensors and fused": {"lr": 0.1, "tensorLr": True, "fused": True},
}


def float32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def as_group(options):
    """The same as one of a state file's groups; None if JSON cannot say it."""
    tensor_betas = options.get("tensorBetas", [False])
    ints = options.get("integers", [])
    group = {}
    for name, key in (("lr", "lr"), ("eps", "eps"), ("weightDecay", "weight_decay")):
        if name in options:
            if options[name] in ("NaN", "-Infinity"):
                return None
            is_word = isinstance(options[name], str)
            group[key] = options[name] if is_word or key in ints else float(options[name])
    if options.get("tensorLr"):
        group["lr"] = {"tensor": group["lr"]}
    if any(name.startswith("betas") for name in ints):
        return None  # no int can be told from a float there, and is taken for one
    if "betas" in options or "tensorBetas" in options:
        group["betas"] = [
            {"tensor": float(beta)} if kind else float(beta)
            for beta, kind in zip(options.get("betas", [0.9, 0.999]), tensor_betas * 2)]
    for name, key in (("amsgrad", "amsgrad"), ("maximize", "maximize"), ("foreach", "foreach"),
                      ("capturable", "capturable"), ("differentiable", "differentiable"),
                      ("fused", "fused"), ("decoupledWeightDecay", "decoupled_weight_decay")):
        if name in options:
            group[key] = options[name]
    return group


class Options(DaemonTest):
    def check(self, reply, field, message):
        self.assertEqual((reply.status, reply.reason), (400, "BAD_FIELD"), reply)
        self.assertTrue(any(said.endswith(field) for said in reply.fields), reply)
        said = reply.json()["message"]
        self.assertTrue(said == message or said.endswith(": " + message), reply)

    def refuse(self, call):
        """Each row, through call(options); None is left out."""
        for name, (options, field, message) in REFUSED.items():
            with self.subTest(name):
                reply = call(options)
                if reply is not None:
                    self.check(reply, field, message)

    def make(self):
        return self.daemon.create_model(
            self.name, {"w": [2], "b": [1]}, {"trigger": "TRIGGER_MANUAL"},
            groups=[{"params": ["w"]}, {"params": ["b"]}], start={"w": [1, 2], "b": [3]})

    def test_defaults_of_a_new_model(self):
        self.refuse(lambda options: self.daemon.post(
            "/v1/models", {"tensors": [{"key": "w"}], "defaults": options}, model_id=self.name))
        self.daemon.get(f"/v1/models/{self.name}").expect(404)

    def test_a_group_of_a_new_model(self):
        self.refuse(lambda options: self.daemon.post(
            "/v1/models", {"tensors": [{"key": "w"}, {"key": "b"}], "paramGroups": [
                {"params": ["w"]}, {"params": ["b"], "options": options}]}, model_id=self.name))
        self.daemon.get(f"/v1/models/{self.name}").expect(404)

    def test_a_group_that_is_added(self):
        model = self.make()
        before = model.get()
        self.refuse(lambda options: self.daemon.post(
            model.path + "/groups", {"paramGroup": {"options": options},
                                     "tensors": [{"key": "new"}]}))
        self.assertEqual(model.get(), before)

    def test_a_group_that_is_added_as_a_file(self):
        model = self.make()
        before = model.get()

        def call(options):
            group = as_group(options)
            if group is None:
                return None
            body = tensors.write_safetensors(
                {"new": ([], tensors.floats([1]))},
                {"adamd.param_groups": json.dumps([{**group, "params": ["new"]}])})
            return self.daemon.post(model.path + "/groups", body,
                                    headers={"Content-Type": "application/x-safetensors"})

        self.refuse(call)
        self.assertEqual(model.get(), before)

    def test_defaults_that_change(self):
        model = self.make()
        before = model.get()
        self.refuse(lambda options: model.patch({"defaults": options}))
        self.assertEqual(model.get(), before)

    def test_one_group_that_changes(self):
        model = self.make()
        before = model.get()
        self.refuse(lambda options: model.patch({"paramGroups": [{}, {"options": options}]}))
        self.refuse(lambda options: self.daemon.request(
            "PATCH", model.path + "/groups/1", {"options": options}))
        self.assertEqual(model.get(), before)

    def test_options_of_one_step(self):
        model = self.make()
        self.refuse(lambda options: model.step({"options": options}))
        self.assertEqual(model.version, 0)

    def test_options_of_a_loaded_state(self):
        model = self.make()
        read, metadata = tensors.read_safetensors(model.get_state().body)
        groups = json.loads(metadata["adamd.param_groups"])

        def call(options):
            group = as_group(options)
            if group is None:
                return None
            text = json.dumps([groups[0], {**group, "params": ["b"]}])
            body = tensors.write_safetensors(read, {"adamd.param_groups": text})
            return self.assert_untouched(model, lambda: model.put_state(body, force="true"))

        self.refuse(call)

    def test_what_pytorch_accepts_is_accepted_and_shown(self):
        model = self.make()
        for name, options in ACCEPTED.items():
            with self.subTest(name):
                before = model.get()["paramGroups"][1]["options"]
                reply = self.daemon.request("PATCH", model.path + "/groups/1", {"options": options})
                shown = reply.expect(200).json()["options"]
                is_tensor = options.get("tensorLr")
                for key, value in options.items():
                    if key == "lr" and is_tensor:
                        value = float32(value)
                    elif key == "betas" and options.get("tensorBetas"):
                        value = [float32(beta) for beta in value]
                    if key == "integers":
                        self.assertEqual(sorted(shown[key]), sorted(value))
                    else:
                        self.assertEqual(shown[key], value, key)
                self.assertEqual(shown, model.get()["paramGroups"][1]["options"])
                # And back, through a state file.
                state = model.get_state()
                self.daemon.request("PATCH", model.path + "/groups/1", {"options": {"lr": 7}}).expect(200)
                model.put_state(state.body, force="true").expect(200)
                self.assertEqual(model.get()["paramGroups"][1]["options"], shown)
                flags = {key: False for key in ("tensorLr", "amsgrad", "maximize", "capturable",
                                                "differentiable", "decoupledWeightDecay")}
                mask = "options.foreach,options.fused,options." + ",options.".join(
                    ["lr", "eps", "weightDecay", "betas", "tensorBetas", *flags])
                body = {"options": {**flags, "lr": 0.001, "eps": 1e-8, "weightDecay": 0,
                                    "betas": [0.9, 0.999], "tensorBetas": [False]}}
                self.daemon.request("PATCH", model.path + "/groups/1", body, update_mask=mask
                                    ).expect(200)
                after = model.get()["paramGroups"][1]["options"]
                for key in ("foreach", "fused", "tensorLr"):
                    self.assertNotIn(key, after)
                self.assertEqual(after["lr"], before["lr"])

    def test_defaults_are_adams(self):
        options = self.make().get()["paramGroups"][0]["options"]
        self.assertEqual(
            options, {"lr": 0.001, "betas": [0.9, 0.999], "eps": 1e-8, "weightDecay": 0,
                      "amsgrad": False, "maximize": False, "capturable": False,
                      "differentiable": False, "decoupledWeightDecay": False, "tensorBetas": [],
                      "integers": ["weight_decay"]})

    def test_a_tensors_float32_is_what_steps(self):
        values = {}
        for name, options in (("float", {"lr": float32(0.1)}), ("tensor", {"lr": 0.1, "tensorLr": True})):
            model = self.daemon.create_model(
                self.name + "-" + name, {"w": [4]}, {"trigger": "TRIGGER_MANUAL"},
                start={"w": [1, 2, 3, 4]}, betas=[0.9, 0.99], **options)
            model.register("a").push([0.5, -0.25, 1e-3, 3]).expect(200)
            model.step().expect(200)
            values[name] = model.parameters()["w"].tobytes()
        self.assertEqual(values["float"], values["tensor"])
        self.assertTrue(all(math.isfinite(v) for v in tensors.from_bytes("f", values["float"])))


if __name__ == "__main__":
    unittest.main()
