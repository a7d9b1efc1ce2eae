"""Param groups as a resource: ordered, with keys that PyTorch does not know, changed and added while
the model trains."""

import json
import unittest

import tensors
from harness import DaemonTest

ST = {"Content-Type": "application/x-safetensors"}
MANUAL = {"trigger": "TRIGGER_MANUAL"}
EXTRA = [{"key": "initial_lr", "json": "0.10"}, {"key": "tag", "json": "{\"a\": [1, -2e3, null, true]}"},
         {"key": "name", "json": "\"déca\\u0079\""}]


class Groups(DaemonTest):
    def make(self, policy=MANUAL, **options):
        return self.daemon.create_model(
            self.name, {"w": [2, 2], "b": [3]}, policy,
            groups=[{"params": ["w"], "extra": EXTRA}, {"params": ["b"], "options": {"lr": 0.5}}],
            start={"w": [1, 2, 3, 4], "b": [5, 6, 7]}, **options)

    def groups(self, model):
        return self.daemon.get(model.path + "/groups").expect(200).json()["paramGroups"]

    def patch(self, model, index, body, **query):
        return self.daemon.request("PATCH", f"{model.path}/groups/{index}", body, **query)

    def add(self, model, body, **kwargs):
        return self.daemon.post(model.path + "/groups", body, **kwargs)

    def add_file(self, model, values, group=None, **shapes):
        metadata = {"adamd.param_groups": json.dumps([group])} if group is not None else None
        body = tensors.write_safetensors(
            {key: (shapes.get(key, [len(v)]), tensors.floats(v)) for key, v in values.items()}, metadata)
        return self.add(model, body, headers=ST)

    def check(self, reply, status, reason, field, message=None):
        self.assertEqual((reply.status, reply.reason), (status, reason), reply)
        self.assertTrue(any(field in said for said in reply.fields), reply)
        if message:
            self.assertIn(message, reply.json()["message"])


class Resource(Groups):
    def test_groups_are_listed_in_order_and_one_by_one(self):
        model = self.make()
        first, second = self.groups(model)
        self.assertEqual([g["name"] for g in (first, second)],
                         [f"models/{model.name}/groups/{i}" for i in range(2)])
        self.assertEqual((first["params"], second["params"]), (["w"], ["b"]))
        self.assertEqual((first["index"], second["index"]), (0, 1))
        self.assertEqual(first["extra"], EXTRA)
        self.assertEqual(second["options"]["lr"], 0.5)
        self.assertEqual(self.daemon.get(model.path + "/groups/1").expect(200).json(), second)
        self.assertEqual(model.get()["paramGroups"], [first, second])
        for index, status, reason in (("2", 404, "NOT_FOUND"), ("x", 400, "BAD_FIELD"),
                                      ("-1", 400, "BAD_FIELD"), ("00", 400, "BAD_FIELD"),
                                      ("99999999999", 404, "NOT_FOUND")):
            self.daemon.get(f"{model.path}/groups/{index}").expect(status, reason)
        rpc = self.daemon.post("/adamd.v1.ModelService/GetParamGroup", {"name": second["name"]},
                               headers={"Content-Type": "application/json"}).expect(200).json()
        self.assertEqual(rpc, second)

    def test_a_change_names_the_version_from_which_it_holds(self):
        model = self.make()
        reply = self.patch(model, 1, {"options": {"lr": 0.25}}).expect(200)
        self.assertEqual(reply.headers["adamd-holds-from-version"], "1")
        self.assertEqual(reply.json()["sinceVersion"], "1")
        self.assertEqual(reply.json()["options"]["lr"], 0.25)
        self.assertEqual(self.groups(model)[0]["options"]["lr"], 0.001)
        worker = model.register("a")
        worker.push([1] * 7).expect(200)
        model.step().expect(200)
        self.assertAlmostEqual(model.parameters()["b"][0], 4.75, places=5)
        reply = self.patch(model, 0, {"options": {"lr": 0.5}}).expect(200)
        self.assertEqual(reply.json()["sinceVersion"], "2")
        self.assertEqual(self.groups(model)[1]["sinceVersion"], "1")

    def test_extra_keys_are_kept_verbatim_and_in_order(self):
        model = self.make()
        self.patch(model, 0, {"extra": [{"key": "new", "json": " 7 "}, {"key": "tag", "json": "0"}]}
                   ).expect(200)
        self.assertEqual([(e["key"], e["json"]) for e in self.groups(model)[0]["extra"]],
                         [("initial_lr", "0.10"), ("tag", "0"), ("name", EXTRA[2]["json"]), ("new", " 7 ")])
        self.patch(model, 0, {"extra": EXTRA[:1]}, update_mask="extra").expect(200)
        self.assertEqual(self.groups(model)[0]["extra"], EXTRA[:1])
        self.patch(model, 0, {}, update_mask="extra").expect(200)
        self.assertEqual(self.groups(model)[0]["extra"], [])

    def test_extra_keys_are_part_of_the_state(self):
        model = self.make()
        state = model.get_state()
        metadata = tensors.read_safetensors(state.body)[1]
        self.assertIn('"initial_lr":0.10,"tag":{"a": [1, -2e3, null, true]},"name":"déca\\u0079","params"',
                      metadata["adamd.param_groups"])
        before = model.digest()
        self.patch(model, 0, {"extra": EXTRA[:1]}, update_mask="extra").expect(200)
        self.assertNotEqual(model.digest(), before)
        model.put_state(state.body, force="true").expect(200)
        self.assertEqual(self.groups(model)[0]["extra"], EXTRA)
        self.assertEqual(model.digest(), before)

    def test_extra_keys_that_cannot_be_kept(self):
        model = self.make()
        before = model.get()
        many = [{"key": f"k{i}", "json": "0"} for i in range(65)]
        for extra, status, field in (
            ([{"key": "lr", "json": "1"}], 400, "extra[0].key"),
            ([{"key": "params", "json": "[]"}], 400, "extra[0].key"),
            ([{"key": "", "json": "1"}], 400, "extra[0].key"),
            ([{"key": "a" * 129, "json": "1"}], 400, "extra[0].key"),
            ([{"key": "a", "json": "1"}] * 2, 400, "extra[1].key"),
            ([{"key": "a", "json": "nan"}], 400, "extra[0].value"),
            ([{"key": "a", "json": "[" * 17 + "]" * 17}], 400, "extra[0].value"),
            ([{"key": "a", "json": '"' + "x" * 16384 + '"'}], 413, "extra[0].value"),
            (many, 413, "extra"),
        ):
            with self.subTest(field, extra=str(extra)[:40]):
                reply = self.patch(model, 0, {"extra": extra}, update_mask="extra")
                self.assertEqual(reply.status, status, reply)
                self.assertTrue(any(field in f for f in reply.fields), reply)
        self.assertEqual(model.get(), before)

    def test_a_policy_that_cannot_be_leaves_the_options_alone(self):
        model = self.make()
        model.register("a").push([1] * 7).expect(200)
        before = model.get()
        reply = model.patch({"defaults": {"lr": 7}, "stepPolicy": {"trigger": "TRIGGER_BARRIER"}})
        self.check(reply, 400, "BAD_FIELD", "step_policy.trigger", "gradients are accumulated")
        self.assertEqual(model.get(), before)

    def test_what_a_group_cannot_change(self):
        model = self.make()
        for body, mask, field in (
            ({"params": ["b"]}, None, "params"), ({"paramNames": ["b"]}, None, "param_names"),
            ({}, "params", "update_mask"), ({}, "name", "update_mask"),
            ({"options": {"eps": 1}}, "options.lr", "options.lr"),
        ):
            with self.subTest(body=body, mask=mask):
                self.check(self.patch(model, 0, body, update_mask=mask), 400, "BAD_FIELD", field)


class Constructor(Groups):
    """The rows of PyTorch's base constructor, as far as a service can be asked them."""

    def create(self, body):
        return self.daemon.post("/v1/models", body, model_id=self.name)

    def test_refused(self):
        w, b = {"key": "w"}, {"key": "b"}
        none = {}
        for name, body, field, message in (
            ("params is one tensor", {"tensors": [w], "paramGroups": [{"params": "w"}]},
             "paramGroups[0].params", None),
            ("a group is no dict", {"tensors": [w], "paramGroups": [{"params": ["w"]}, 7]},
             "paramGroups[1]", None),
            ("an item is no tensor", {"tensors": [w], "paramGroups": [{"params": [7]}]},
             "paramGroups[0].params[0]", None),
            ("an empty list", {"tensors": []}, "tensors", "optimizer got an empty parameter list"),
            ("the same twice in one group", {"tensors": [w], "paramGroups": [{"params": ["w", "w"]}]},
             "param_groups[0].params[1]",
             "optimizer contains a parameter group with duplicate parameters"),
            ("the same in two groups",
             {"tensors": [w], "paramGroups": [{"params": ["w"]}, {"params": ["w"]}]},
             "param_groups[1].params[0]",
             "some parameters appear in more than one parameter group"),
            ("names mixed with none", {"tensors": [w, none]}, "param_groups[0].params",
             "all optimizer params should be with/without names. Some param names are missing"),
            ("a group with names behind one without",
             {"tensors": [none, b], "paramGroups": [{"params": ["0"]}, {"params": ["b"]}]},
             "param_groups[1]",
             "all optimizer param groups should be with/without names. cannot add param group with "
             "names to the optimizer"),
            ("a group without names behind one with",
             {"tensors": [w, none], "paramGroups": [{"params": ["w"]}, {"params": ["1"]}]},
             "param_groups[1]",
             "all optimizer param groups should be with/without names. cannot add param group "
             "without names to the optimizer"),
            ("two tensors of one key", {"tensors": [w, w]}, "tensors[1].key", None),
        ):
            with self.subTest(name):
                self.check(self.create(body), 400, "BAD_FIELD", field, message)
        self.daemon.get(f"/v1/models/{self.name}").expect(404)

    def test_a_group_of_nobody_is_accepted(self):
        model = self.create({"tensors": [{"key": "w"}], "paramGroups": [
            {"params": []}, {"params": ["w"]}]}).expect(200).json()
        self.assertEqual([g["params"] for g in model["paramGroups"]], [[], ["w"]])

    def test_missing_options_come_from_the_defaults(self):
        model = self.create({"tensors": [{"key": "w"}, {"key": "b"}], "defaults": {"lr": 0.5, "eps": 1},
                             "paramGroups": [{"params": ["w"], "options": {"lr": 2}},
                                             {"params": ["b"]}]}).expect(200).json()
        self.assertEqual([(g["options"]["lr"], g["options"]["eps"]) for g in model["paramGroups"]],
                         [(2, 1), (0.5, 1)])
        self.assertEqual(model["defaults"]["lr"], 0.5)

    def test_parameters_without_names(self):
        model = self.create({"tensors": [{"shape": [2]}, {"shape": [1]}]}).expect(200).json()
        self.assertEqual([t["key"] for t in model["tensors"]], ["0", "1"])
        self.assertTrue(model["paramGroups"][0]["unnamed"])
        self.check(self.daemon.post(f"/v1/models/{self.name}/groups", {"tensors": [{"key": "n"}]}),
                   400, "BAD_FIELD", "param_names",
                   "cannot add param group with names to the optimizer")
        added = self.daemon.post(f"/v1/models/{self.name}/groups",
                                 {"tensors": [{"shape": [3]}]}).expect(200).json()
        self.assertEqual([t["key"] for t in added["tensors"]], ["2"])

    def test_names_may_be_given_twice(self):
        model = self.create({"tensors": [{}, {}], "paramGroups": [
            {"params": ["0", "1"], "paramNames": ["n", "n"]}]}).expect(200).json()
        self.assertEqual(model["paramGroups"][0]["paramNames"], ["n", "n"])
        self.assertFalse(model["paramGroups"][0]["unnamed"])


class Loads(Groups):
    def state_with(self, model, groups):
        read, _ = tensors.read_safetensors(model.get_state().body)
        return tensors.write_safetensors(read, {"adamd.param_groups": json.dumps(groups)})

    def test_groups_of_another_shape_are_refused_in_pytorchs_words(self):
        model = self.make()
        number = "loaded state dict has a different number of parameter groups"
        size = ("loaded state dict contains a parameter group that doesn't match the size of "
                "optimizer's group")
        for groups, field, message in (
            ([{"params": ["w", "b"]}], "param_groups", number),
            ([{"params": ["w"]}, {"params": ["b"]}, {"params": []}], "param_groups", number),
            ([{"params": ["w", "b"]}, {"params": []}], "param_groups[0].params", size),
            ([{"params": ["b"]}, {"params": ["w"]}], "param_groups[0].params[0]", None),
        ):
            with self.subTest(groups=groups):
                body = self.state_with(model, groups)
                reply = self.assert_untouched(model, lambda b=body: model.put_state(b, force="true"))
                self.check(reply, 422, "LAYOUT_MISMATCH", field, message)

    def test_options_and_extra_keys_come_from_the_file(self):
        model = self.make(lr=0.1)
        body = self.state_with(model, [{"params": ["w"], "lr": 3.0, "x": [1, 2.50]},
                                       {"params": ["b"], "initial_lr": 1}])
        model.put_state(body, force="true").expect(200)
        first, second = self.groups(model)
        self.assertEqual(first["options"]["lr"], 3)
        self.assertEqual([(e["key"], e["json"]) for e in first["extra"]], [("x", "[1, 2.5]")])
        self.assertEqual([e["key"] for e in second["extra"]], ["initial_lr"])
        # What the file lacks has fixed values, not the constructor's.
        self.assertEqual(second["options"]["lr"], 0.001)
        self.assertEqual(first["sinceVersion"], str(model.version + 1))

    def test_names_stay_if_either_side_had_them(self):
        model = self.make()
        body = self.state_with(model, [{"params": ["w"], "param_names": ["weight"]}, {"params": ["b"]}])
        model.put_state(body, force="true").expect(200)
        self.assertEqual(self.groups(model)[0]["paramNames"], ["weight"])
        self.assertFalse(self.groups(model)[1]["unnamed"])
        body = self.state_with(model, [{"params": ["w"]}, {"params": ["b"]}])
        model.put_state(body, force="true").expect(200)
        self.assertEqual(self.groups(model)[0]["paramNames"], ["weight"])


class Adding(Groups):
    def test_a_file_brings_table_values_options_and_keys(self):
        model = self.make(lr=0.125)
        reply = self.add_file(model, {"n": [1, 2], "m": [3]},
                              {"params": ["n", "m"], "eps": 1.0, "initial_lr": 0.5}).expect(200)
        said = reply.json()
        self.assertEqual(said["paramGroup"]["params"], ["n", "m"])
        self.assertEqual(said["paramGroup"]["index"], 2)
        self.assertEqual(said["paramGroup"]["options"]["lr"], 0.125) # the constructor's default
        self.assertEqual(said["paramGroup"]["options"]["eps"], 1)
        self.assertEqual(said["paramGroup"]["extra"], [{"key": "initial_lr", "json": "0.5"}])
        self.assertEqual([(t["index"], t["key"], t["group"]) for t in said["tensors"]],
                         [(2, "n", 2), (3, "m", 2)])
        self.assertEqual(said["version"], "0")
        self.assertEqual(reply.headers["adamd-holds-from-version"], "1")
        now = model.get()
        self.assertEqual((said["layoutDigest"], said["byteSize"]), (now["layoutDigest"], now["byteSize"]))
        values = model.parameters()
        self.assertEqual({key: list(v) for key, v in values.items()},
                         {"w": [1, 2, 3, 4], "b": [5, 6, 7], "n": [1, 2], "m": [3]})
        self.assertEqual([t.get("step", "0") for t in now["tensors"]], ["0"] * 4)

    def test_a_message_brings_zeros(self):
        model = self.make()
        said = self.add(model, {"tensors": [{"key": "n", "shape": [2]}], "paramGroup": {
            "options": {"lr": 2}, "extra": EXTRA}}).expect(200).json()
        self.assertEqual(said["paramGroup"]["extra"], EXTRA)
        self.assertEqual(list(model.parameters()["n"]), [0, 0])
        said = self.daemon.post(
            "/adamd.v1.ModelService/AddParamGroup",
            {"parent": f"models/{model.name}", "tensors": [{"key": "o", "shape": [1]}]},
            headers={"Content-Type": "application/json"}).expect(200).json()
        self.assertEqual(said["paramGroup"]["index"], 3)
        self.assertEqual([g["params"] for g in self.groups(model)], [["w"], ["b"], ["n"], ["o"]])

    def test_it_trains_on(self):
        model = self.make()
        worker = model.register("a")
        worker.push([1] * 7).expect(200)
        model.step().expect(200)
        before = model.parameters()
        digest = model.get()["layoutDigest"]
        worker.push([2] * 7, layout_digest=digest).expect(200)
        self.add_file(model, {"n": [1, 1]}, {"params": ["n"], "lr": 0.5}).expect(200)
        self.assertEqual(model.parameters()["w"], before["w"])
        # A worker that does not know of it yet.
        reply = worker.push([1] * 7, layout_digest=digest)
        self.check(reply, 422, "LAYOUT_MISMATCH", "layout_digest")
        self.check(worker.push([1] * 7), 422, "LAYOUT_MISMATCH", "byte_size")
        # What was accumulated is still there; the new parameter has no gradient and does not move.
        model.step().expect(200)
        now = model.parameters()
        self.assertEqual(list(now["n"]), [1, 1])
        self.assertNotEqual(now["w"], before["w"])
        steps = {t["key"]: t.get("step") for t in model.get()["tensors"]}
        self.assertEqual(steps, {"w": "2", "b": "2", "n": "0"})
        worker.push([1] * 9).expect(200)
        model.step().expect(200)
        self.assertAlmostEqual(model.parameters()["n"][0], 0.5, places=5)
        steps = {t["key"]: t.get("step") for t in model.get()["tensors"]}
        self.assertEqual(steps, {"w": "3", "b": "3", "n": "1"})

    def test_a_pull_of_the_same_version_is_of_all_parameters(self):
        model = self.make()
        first = model.pull(format="raw").expect(200)
        self.add(model, {"tensors": [{"key": "n", "shape": [1]}]}).expect(200)
        second = model.pull(format="raw", headers={"If-None-Match": first.headers["etag"]}).expect(200)
        self.assertEqual(first.headers["adamd-version"], second.headers["adamd-version"])
        self.assertEqual(len(second.body), len(first.body) + 4)
        model.pull(format="raw", headers={"If-None-Match": second.headers["etag"]}).expect(304)
        self.assertEqual(set(model.parameters()), {"w", "b", "n"})

    def test_the_state_goes_round_with_it(self):
        model = self.make()
        before = model.get_state()
        self.add_file(model, {"n": [4]}, {"params": ["n"], "amsgrad": True, "k": None}).expect(200)
        model.register("a").push([1] * 8).expect(200)
        model.step().expect(200)
        state = model.get_state()
        digest = model.digest()
        model.put_state(state.body, force="true").expect(200)
        self.assertEqual(model.digest(), digest)
        reply = model.put_state(before.body, force="true")
        self.check(reply, 422, "LAYOUT_MISMATCH", "param_groups",
                   "loaded state dict has a different number of parameter groups")

    def test_what_cannot_be_added_adds_nothing(self):
        model = self.make()
        before = model.get()
        state = model.get_state()
        cases = {
            "a key that is there": (self.add(model, {"tensors": [{"key": "w"}]}), 400, "tensors[0].key"),
            "a key like state": (self.add(model, {"tensors": [{"key": "w.exp_avg"}]}), 400, "tensors"),
            "no name": (self.add(model, {"tensors": [{}]}), 400, "param_names"),
            "one name of two": (self.add(model, {"tensors": [{}, {"key": "n"}]}), 400, "tensors"),
            "parameters of others": (self.add(model, {"tensors": [{"key": "n"}], "paramGroup": {
                "params": ["w"]}}), 400, "param_group.params[0]"),
            "an option": (self.add(model, {"paramGroup": {"options": {"lr": -1}}}), 400, "lr"),
            "an extra key": (self.add(model, {"paramGroup": {"extra": [
                {"key": "lr", "json": "1"}]}}), 400, "extra[0].key"),
            "an unknown field": (self.add(model, {"tensorz": []}), 400, "tensorz"),
            "a file without its parameter": (
                self.add_file(model, {"n": [1]}, {"params": ["m"]}), 422, "params"),
            "a file with one twice": (
                self.add_file(model, {"n": [1], "m": [1]}, {"params": ["n", "n"]}), 422, "params"),
            "a file with more": (
                self.add_file(model, {"n": [1], "m": [1]}, {"params": ["n"]}), 422, "param_groups"),
            "a file with a key that is there": (
                self.add_file(model, {"w": [1]}, {"params": ["w"]}), 400, "tensors[0].key"),
        }
        for name, (reply, status, field) in cases.items():
            with self.subTest(name):
                self.assertEqual(reply.status, status, reply)
                self.assertTrue(any(field in f for f in reply.fields), reply)
        whole = tensors.write_safetensors({"n": ([2], tensors.floats([1, 2]))})
        for body in (whole[:-1], whole[:12], b"", whole + b"x"):
            self.assertIn(self.add(model, body, headers=ST).status, (400, 411, 422))
        self.add(model, b"x", headers={"Content-Type": "text/plain"}).expect(415)
        self.assertEqual(model.get(), before)
        self.assertEqual(model.get_state().body, state.body)

    def test_a_group_of_nobody_can_be_added(self):
        model = self.make()
        said = self.add(model, {}).expect(200).json()
        self.assertEqual((said["paramGroup"]["index"], said["paramGroup"]["params"]), (2, []))
        model.register("a").push([1] * 7).expect(200)
        model.step().expect(200)

    def test_under_every_policy_while_workers_push(self):
        for policy in ({"trigger": "TRIGGER_EACH_PUSH"}, {"trigger": "TRIGGER_BARRIER"}):
            with self.subTest(policy["trigger"]):
                model = self.daemon.create_model(
                    self.name + policy["trigger"][-4:].lower(), {"w": [1000]}, policy,
                    start={"w": [0] * 1000})
                worker = model.register("a")
                size = 1000
                for i in range(10):
                    worker.push([1] * size).expect(200)
                    self.add_file(model, {f"n{i}": [i]}).expect(200)
                    size += 1
                worker.push([1] * size).expect(200)
                self.assertEqual(model.version, 11)
                self.assertEqual([t["step"] for t in model.get()["tensors"]],
                                 [str(n) for n in (11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1)])
                self.assertAlmostEqual(model.parameters()["n9"][0], 9 - 1e-3, places=5)


if __name__ == "__main__":
    unittest.main()
