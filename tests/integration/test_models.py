"""Models as resources: what is asked for wrongly is named, and nothing is half made or half changed."""

import json
import unittest

from harness import Background, DaemonTest

JSON = {"Content-Type": "application/json"}


def tensor(key="w", shape=("4",), **more):
    return {"key": key, "shape": list(shape), **more}


# Bodies for POST /v1/models, and a word that the named field must hold.
BAD_MODELS = {
    "no tensors": ({"tensors": []}, "tensors"),
    "one key of two": ({"tensors": [tensor(), {"shape": ["4"]}]}, "param_groups[0].params"),
    "a long key": ({"tensors": [tensor("k" * 257)]}, "key"),
    "a key twice": ({"tensors": [tensor(), tensor()]}, "key"),
    "a key like state": ({"tensors": [tensor("w"), tensor("w.exp_avg")]}, "key"),
    "a negative dimension": ({"tensors": [tensor(shape=["-1"])]}, "shape"),
    "a broken dimension": ({"tensors": [tensor(shape=["1.5"])]}, "shape"),
    "nine dimensions": ({"tensors": [tensor(shape=["1"] * 9)]}, "shape"),
    "an overflow": ({"tensors": [tensor(shape=["4294967296"] * 3)]}, "shape"),
    "an unknown type": ({"tensors": [tensor(dataType="DATA_TYPE_INT4")]}, "data"),
    "a group of nobody": ({"tensors": [tensor()], "paramGroups": [{"params": ["x"]}]}, "group"),
    "a tensor in two groups": ({"tensors": [tensor()], "paramGroups": [
        {"params": ["w"]}, {"params": ["w"]}]}, "group"),
    "a tensor in no group": ({"tensors": [tensor(), tensor("b")],
                              "paramGroups": [{"params": ["w"]}]}, "group"),
    "lr below zero": ({"tensors": [tensor()], "defaults": {"lr": -0.1}}, "lr"),
    "lr that is none": ({"tensors": [tensor()], "defaults": {"lr": "NaN"}}, "lr"),
    "lr as a word": ({"tensors": [tensor()], "defaults": {"lr": "fast"}}, "lr"),
    "beta of one": ({"tensors": [tensor()], "defaults": {"betas": [1.0, 0.9]}}, "betas"),
    "one beta": ({"tensors": [tensor()], "defaults": {"betas": [0.9]}}, "betas"),
    "three betas": ({"tensors": [tensor()], "defaults": {"betas": [0.9, 0.9, 0.9]}}, "betas"),
    "eps below zero": ({"tensors": [tensor()], "defaults": {"eps": -1e-8}}, "eps"),
    "weight decay below zero": ({"tensors": [tensor()], "defaults": {"weightDecay": -1}}, "weight"),
    "amsgrad as a number": ({"tensors": [tensor()], "defaults": {"amsgrad": 1}}, "amsgrad"),
    "an unknown option": ({"tensors": [tensor()], "defaults": {"learningRate": 1}}, "learningRate"),
    "an unknown field": ({"tensors": [tensor()], "colour": "red"}, "colour"),
    "a field twice": ('{"tensors":[{"key":"w"}],"tensors":[]}', "tensors"),
    "a bad trigger": ({"tensors": [tensor()], "stepPolicy": {"trigger": "NEVER"}}, "trigger"),
    "a bad deadline": ({"tensors": [tensor()], "stepPolicy": {
        "trigger": "TRIGGER_BARRIER", "deadline": "soon"}}, "deadline"),
    "a quorum below zero": ({"tensors": [tensor()], "stepPolicy": {"quorum": -1}}, "quorum"),
    "a label without key": ({"tensors": [tensor()], "labels": [{"value": "x"}]}, "label"),
    "33 labels": ({"tensors": [tensor()], "labels": [
        {"key": f"k{i}", "value": "v"} for i in range(33)]}, "label"),
}
BAD_IDS = ("", "M", "9m", "a_b", "a b", "-a", "a-", "x" * 64, "ä", "a/b", "..")
BAD_JSON = ("", "{", "[]", "null", "1", '"text"', "{}{}", '{"tensors":}', "{'tensors':[]}",
            '{"tensors":[' * 2000, "[" * 100000, '{"a":"\\ud800"}', '{"a":"\x01"}', "\ufeff{}",
            '{"tensors":[{"key":"w","shape":[1e999]}]}', "nul", '{"displayName":1}')


class Models(DaemonTest):
    def tearDown(self):
        for model in self.ids():
            self.daemon.request("DELETE", f"/v1/models/{model}", force="true").expect(200)

    def create(self, body, model_id="m", **query):
        data = body if isinstance(body, (str, bytes)) else json.dumps(body)
        data = data.encode() if isinstance(data, str) else data
        return self.daemon.post("/v1/models", data, headers=JSON, model_id=model_id, **query)

    def ids(self):
        said = self.daemon.get("/v1/models").expect(200).json()
        return [m["name"].split("/")[1] for m in said.get("models", ())]

    def test_a_model_that_is_wrong_is_not_made(self):
        for name, (body, word) in BAD_MODELS.items():
            with self.subTest(name):
                reply = self.create(body)
                self.assertIn(reply.status, (400, 413, 501), reply)
                said = "".join(reply.fields).lower() + reply.json()["message"].lower()
                self.assertIn(word.lower(), said, reply)
                self.assertEqual(self.create(body, validate_only="true").status, reply.status)
                self.assertNotIn("m", self.ids())
        for name in BAD_IDS:
            with self.subTest(name):
                reply = self.create({"tensors": [tensor()]}, name).expect(400, "BAD_FIELD")
                self.assertEqual(reply.fields, ["model_id"])
                self.assertNotIn(name, self.ids())

    def test_text_that_is_no_message_is_refused(self):
        for text in BAD_JSON:
            with self.subTest(text[:30]):
                reply = self.create(text)
                self.assertIn(reply.status, (400, 411, 413), reply)
                self.assertIn(reply.reason, ("BAD_FIELD", "TOO_LARGE", "LENGTH_REQUIRED"), reply)
        reply = self.create(b'{"displayName":"\xff\xfe"}')
        self.assertEqual(reply.status, 400)
        self.assertNotIn("m", self.ids())
        wrong = self.daemon.post("/v1/models", b"{}", headers={"Content-Type": "text/xml"}, model_id="m")
        self.assertEqual(wrong.status, 415)

    def test_a_name_is_given_once(self):
        self.create({"tensors": [tensor()]}, "once").expect(200)
        self.create({"tensors": [tensor()]}, "once").expect(409, "EXISTS")
        self.create({"tensors": [tensor()]}, "once", validate_only="true").expect(409, "EXISTS")
        self.daemon.request("DELETE", "/v1/models/once", force="true").expect(200)
        self.daemon.get("/v1/models/once").expect(404, "NOT_FOUND")
        self.create({"tensors": [tensor()]}, "once").expect(200)
        self.daemon.request("DELETE", "/v1/models/once", force="true").expect(200)

    def test_a_list_goes_page_by_page(self):
        for i in range(5):
            self.create({"tensors": [tensor()]}, f"page{i}").expect(200)
        seen, token = [], None
        while True:
            said = self.daemon.get("/v1/models", page_size=2, page_token=token).expect(200).json()
            self.assertLessEqual(len(said["models"]), 2)
            seen += [m["name"] for m in said["models"]]
            token = said.get("nextPageToken")
            if not token:
                break
        self.assertEqual(seen, [f"models/page{i}" for i in range(5)])
        for bad in ({"page_size": "-1"}, {"page_size": "x"}, {"page_token": "nonsense"}):
            with self.subTest(bad):
                self.assertEqual(self.daemon.get("/v1/models", **bad).expect(400).fields, list(bad))
        for i in range(5):
            self.daemon.request("DELETE", f"/v1/models/page{i}", force="true").expect(200)

    def test_a_change_that_is_wrong_changes_nothing(self):
        model = self.daemon.create_model(self.name, {"w": [4], "b": [1]}, start={"w": [1] * 4, "b": [1]})
        bad = (
            ({"defaults": {"lr": -1}}, {}), ({"defaults": {"lr": 1, "eps": -1}}, {}),
            ({"paramGroups": [{"options": {"lr": 1}}, {"options": {"lr": 1}}]}, {}),
            ({"stepPolicy": {"trigger": "TRIGGER_BARRIER", "deadline": "-1s"}}, {}),
            ({"defaults": {"lr": 5}}, {"update_mask": "defaults.speed"}),
            ({"defaults": {"lr": 5}}, {"update_mask": "tensors"}),
            ({"tensors": [tensor("x")]}, {}), ({"version": "7"}, {"update_mask": "version"}),
            ({"defaults": {"lr": 5}, "labels": [{"value": "x"}]}, {}),
            ({"defaults": {"differentiable": True, "fused": True}}, {}),
        )
        before = model.get()
        for body, query in bad:
            with self.subTest(body=body, query=query):
                reply = model.patch(body, **query)
                self.assertIn(reply.status, (400, 501), reply)
                self.assertTrue(reply.fields, reply)
                self.assertEqual(model.get(), before)

    def test_a_mask_says_what_is_meant(self):
        model = self.daemon.create_model(self.name, {"w": [4]}, start={"w": [1] * 4}, lr=0.5, eps=0.25)
        said = model.patch({"defaults": {"lr": 0.125, "eps": 0.5}}, update_mask="defaults.lr")
        options = said.expect(200).json()["paramGroups"][0]["options"]
        self.assertEqual((options["lr"], options["eps"]), (0.125, 0.25))
        before = model.get()
        stale = {"If-Match": '"g9.v9.c9"'}
        self.daemon.request("PATCH", model.path, {"defaults": {"lr": 1}}, stale).expect(412, "ETAG_MISMATCH")
        self.assertEqual(model.get(), before)

    def test_both_spellings_of_a_field_are_taken(self):
        self.create({"tensors": [{"key": "w", "data_type": "DATA_TYPE_FLOAT32", "shape": [4]}],
                     "step_policy": {"trigger": "TRIGGER_MANUAL", "max_staleness": 3}}, "snake").expect(200)
        said = self.daemon.get("/v1/models/snake").json()
        self.assertEqual(said["stepPolicy"]["trigger"], "TRIGGER_MANUAL")
        self.daemon.request("DELETE", "/v1/models/snake", force="true").expect(200)

    def test_ten_thousand_tensors_are_an_ordinary_model(self):
        tensors_ = [tensor(f"layer{i}.weight", ["3"]) for i in range(10000)]
        self.create({"tensors": tensors_}, "many").expect(200)
        self.daemon.post("/v1/models/many:initialize").expect(200)
        first = self.daemon.get("/v1/models/many/tensors", page_size=10).expect(200).json()
        self.assertEqual(first["tensors"][9]["key"], "layer9.weight")
        self.assertEqual(len(self.daemon.get("/v1/models/many/parameters", format="raw").body), 120000)
        self.daemon.request("DELETE", "/v1/models/many", force="true").expect(200)

    def test_the_same_calls_go_over_rpc(self):
        def rpc(method, message, **headers):
            return self.daemon.post(f"/adamd.v1.{method}", message, headers=headers)
        model = {"tensors": [tensor()]}
        rpc("ModelService/CreateModel", {"modelId": "rpc", "model": model}).expect(200)
        rpc("ModelService/CreateModel", {"modelId": "rpc", "model": model}).expect(409, "EXISTS")
        rpc("ModelService/InitializeModel", {"name": "models/rpc"}).expect(200)
        rpc("TrainingService/RegisterWorker", {"parent": "models/rpc", "workerId": "w"}).expect(200)
        said = rpc("ModelService/GetModel", {"name": "models/rpc"}).expect(200).json()
        self.assertEqual(said["state"], "STATE_ACTIVE")
        get = self.daemon.get("/adamd.v1.ModelService/GetModel", connect="v1", encoding="json",
                              message='{"name":"models/rpc"}')
        self.assertEqual(get.expect(200).json(), said)
        binary = self.daemon.post("/adamd.v1.ModelService/GetModel", b"\x0a\x0amodels/rpc",
                                  headers={"Content-Type": "application/proto"}).expect(200)
        self.assertTrue(binary.body.startswith(b"\x0a\x0amodels/rpc"))
        reply = rpc("ModelService/GetModel", {"name": "models/none"}).expect(404, "NOT_FOUND")
        self.assertEqual(reply.json()["code"], "not_found")
        self.assertEqual(rpc("ModelService/GetModel", {"nome": "x"}).expect(400).json()["code"],
                         "invalid_argument")
        self.assertEqual(rpc("ModelService/Fly", {}).status, 501)
        rpc("ModelService/DeleteModel", {"name": "models/rpc", "force": True}).expect(200)

    def test_an_error_may_be_asked_for_as_a_problem(self):
        reply = self.daemon.get("/v1/models/none", headers={"Accept": "application/problem+json"})
        self.assertEqual(reply.headers["content-type"], "application/problem+json")
        said = reply.json()
        self.assertEqual((said["status"], said["reason"]), (404, "NOT_FOUND"))

    def test_a_model_that_is_deleted_lets_go_of_those_who_wait(self):
        policy = {"trigger": "TRIGGER_BARRIER"}
        model = self.daemon.create_model(self.name, {"w": [4]}, policy, start={"w": [1] * 4})
        one, _ = model.register("w0"), model.register("w1")
        one.stage([1] * 4)
        calls = [Background(one.push, [1] * 4), Background(model.pull, min_version=5, wait="20s"),
                 Background(self.daemon.get, model.path + "/steps", follow="true")]
        one.stage([1] * 4, wait_ms=100)
        self.daemon.request("DELETE", model.path, force="true").expect(200)
        for call in calls[:2]:
            call.result(5).expect(404, "NOT_FOUND")
        self.assertEqual(calls[2].result(5).status, 200)


if __name__ == "__main__":
    unittest.main()
