"""The same calls as RPC: Connect's unary protocol in JSON and protobuf, POST and GET, and its error statuses."""

import base64
import json
import unittest
import urllib.parse

import wire
from harness import DaemonTest, Model, Worker

SHAPES = {"w": [2, 3], "b": [2]}
START = {"w": [1, 2, 3, 4, 5, 6], "b": [7, 8]}
TENSORS = [{"key": "w", "shape": ["2", "3"]}, {"key": "b", "shape": ["2"]}]
PROTO = "application/proto"


class Connect(DaemonTest):
    def call(self, method, body=None, **more):
        service = {"Model": "ModelService", "Server": "ServerService"}.get(
            "Server" if "Server" in method else "Model" if "Model" in method or "Tensors" in method
            else "", "TrainingService")
        return self.daemon.post(f"/adamd.v1.{service}/{method}", {} if body is None else body,
                                **more)

    def make(self, **model):
        body = {"modelId": self.name, "model": {"tensors": TENSORS, **model}}
        self.call("CreateModel", body).expect(200)
        return Model(self.daemon, self.name, SHAPES)

    def refused(self, reply, status, code, reason, field=None):
        reply.expect(status, reason)
        self.assertEqual(reply.headers["content-type"], "application/json")
        self.assertEqual(reply.json()["code"], code)
        if field:
            self.assertTrue(any(field in f for f in reply.fields), (field, reply))
        return reply

    def test_a_model_lives_over_rpc_alone(self):
        name = "models/" + self.name
        model = self.make(stepPolicy={"trigger": "TRIGGER_MANUAL"})
        self.assertEqual(self.call("GetModel", {"name": name}).json(), model.get())
        self.assertEqual(self.call("InitializeModel", {"name": name}).expect(200).json()["state"],
                         "STATE_ACTIVE")
        names = [m["name"] for m in self.call("ListModels", {"pageSize": 1000}).json()["models"]]
        self.assertIn(name, names)
        reply = self.call("UpdateModel", {"name": name, "model": {"defaults": {"lr": 0.5}},
                                          "updateMask": "defaults.lr"}).expect(200)
        self.assertEqual(reply.json()["paramGroups"][0]["options"]["lr"], 0.5)
        self.assertEqual(len(self.call("ListTensors", {"parent": name}).json()["tensors"]), 2)

        registered = self.call("RegisterWorker", {"parent": name, "workerId": "w0"}).expect(200)
        worker = Worker(model, "w0", int(registered.json()["epoch"]), 1)
        there = {"name": name + "/workers/w0"}
        self.call("RenewLease", {**there, "epoch": str(worker.epoch)}).expect(200)
        self.assertEqual(self.call("GetWorker", there).json()["name"], there["name"])
        self.assertEqual(len(self.call("ListWorkers", {"parent": name}).json()["workers"]), 1)
        worker.push([1.0] * 8).expect(200)
        step = self.call("OptimStep", {"name": name, "expectedVersion": "0"}).expect(200).json()
        self.assertEqual(step["record"]["version"], "1")
        self.call("ZeroGrad", {"name": name, "setToNone": False}).expect(200)
        self.assertEqual(len(self.call("ListSteps", {"parent": name}).json()["steps"]), 1)

        self.assertEqual(self.call("PauseModel", {"name": name}).json()["state"], "STATE_PAUSED")
        self.assertEqual(self.call("ResumeModel", {"name": name}).json()["state"], "STATE_ACTIVE")
        self.refused(self.call("DeleteModel", {"name": name}), 400, "failed_precondition",
                     "HAS_WORKERS")
        self.call("DeregisterWorker", there).expect(200)
        self.assertEqual(self.call("DeleteModel", {"name": name}).expect(200).json(), {})
        self.refused(self.call("GetModel", {"name": name}), 404, "not_found", "NOT_FOUND", "name")

    def test_the_server(self):
        self.assertEqual(self.call("GetServer").expect(200).json()["state"], "serving")

    def test_protobuf_in_gives_protobuf_out(self):
        model = self.make()
        reply = self.call("GetModel", wire.encode([(1, "models/" + self.name)]),
                          headers={"Content-Type": PROTO}).expect(200)
        self.assertEqual(reply.headers["content-type"], PROTO)
        said = wire.decode(reply.body)
        self.assertEqual(said[1].decode(), "models/" + self.name)
        self.assertEqual(said[99].decode(), model.get()["etag"])
        self.assertEqual(said[16], 32)

    def test_errors_are_json_even_for_protobuf(self):
        reply = self.call("GetModel", wire.encode([(1, "models/nobody")]),
                          headers={"Content-Type": PROTO})
        self.refused(reply, 404, "not_found", "NOT_FOUND", "name")
        for detail in reply.json()["details"]:
            base64.b64decode(detail["value"] + "=" * (-len(detail["value"]) % 4), validate=True)

    def test_reads_may_be_got(self):
        model = self.make()
        message = json.dumps({"name": "models/" + self.name})
        path = "/adamd.v1.ModelService/GetModel?connect=v1&encoding="
        reply = self.daemon.get(path + "json&message=" + urllib.parse.quote(message)).expect(200)
        self.assertEqual(reply.json(), model.get())
        text = base64.urlsafe_b64encode(message.encode()).decode().rstrip("=")
        reply = self.daemon.get(f"{path}json&base64=1&message={text}").expect(200)
        self.assertEqual(reply.json(), model.get())
        packed = base64.urlsafe_b64encode(wire.encode([(1, "models/" + self.name)])).decode()
        reply = self.daemon.get(f"{path}proto&base64=1&message={packed.rstrip('=')}").expect(200)
        self.assertEqual(wire.decode(reply.body)[1].decode(), "models/" + self.name)
        for query, field in (("xml&message=%7B%7D", "encoding"),
                             ("json&base64=1&message=!!!", "message"),
                             ("json&message=%7B", None)):
            self.refused(self.daemon.get(path + query), 400, "invalid_argument", "BAD_FIELD", field)
        reply = self.daemon.get("/adamd.v1.ModelService/CreateModel?connect=v1&encoding=json")
        self.assertEqual(reply.status, 501, reply)

    def test_what_is_not_served(self):
        for path in ("/adamd.v1.ModelService/Nothing", "/adamd.v1.Nobody/GetModel",
                     "/adamd.v1.TrainingService/PushGradients"):
            with self.subTest(path):
                reply = self.daemon.post(path, {})
                self.assertEqual((reply.status, reply.json()["code"]), (501, "unimplemented"), reply)

    def test_bodies_that_are_wrong(self):
        cases = {
            "unknown field": ({"nme": "x"}, "nme"),
            "no name": ({}, "name"),
            "a name of something else": ({"name": "workers/w"}, "name"),
            "a name with a tail": ({"name": "models/a/b"}, "name"),
            "a number for a text": ({"name": 7}, "name"),
        }
        for name, (body, field) in cases.items():
            with self.subTest(name):
                self.refused(self.call("GetModel", body), 400, "invalid_argument", "BAD_FIELD",
                             field)
        for body in (b"\xff" * 9, b"\x0a\x05ab", b"\x0b", b"\x0a\x02\xc3\x28",
                     wire.encode([(1, b"a\0b")]), b"\x50\x01" * 100):
            with self.subTest(body):
                reply = self.call("GetModel", body, headers={"Content-Type": PROTO})
                self.refused(reply, 400, "invalid_argument", "BAD_FIELD")

    def test_types_that_are_not_taken(self):
        for kind in ("text/plain", "application/grpc", "application/connect+json",
                     "application/x-www-form-urlencoded"):
            with self.subTest(kind):
                reply = self.call("GetServer", b"{}", headers={"Content-Type": kind})
                self.assertEqual(reply.status, 415, reply)

    def test_a_message_over_its_limit(self):
        body = json.dumps({"name": "x" * (1 << 20)}).encode()
        reply = self.call("GetModel", body, headers={"Content-Type": "application/json"})
        self.refused(reply, 429, "resource_exhausted", "TOO_LARGE")

    def test_statuses_are_connects(self):
        self.make()
        name = "models/" + self.name
        exists = {"modelId": self.name, "model": {"tensors": TENSORS}}
        self.refused(self.call("CreateModel", exists), 409, "already_exists", "EXISTS")
        update = {"name": name, "model": {"displayName": "x"}, "etag": "g7.v7.c7"}
        self.refused(self.call("UpdateModel", update), 409, "aborted", "ETAG_MISMATCH")
        self.refused(self.call("PauseModel", {"name": "models/x"}), 404, "not_found", "NOT_FOUND")
        worker = {"name": name + "/workers/w9"}
        self.refused(self.call("GetWorker", worker), 404, "not_found", "UNKNOWN_WORKER")
        self.refused(self.call("RenewLease", {**worker, "epoch": "1"}), 404, "not_found",
                     "UNKNOWN_WORKER")
        unsupported = {"modelId": "other", "model": {"tensors": TENSORS,
                                                     "durability": "DURABILITY_WAL"}}
        self.refused(self.call("CreateModel", unsupported), 501, "unimplemented", "UNSUPPORTED",
                     "durability")


if __name__ == "__main__":
    unittest.main()
