"""The REST paths: every route, what it answers, and that whatever is refused is named and changes nothing."""

import http.client
import json
import struct
import time
import unittest

import tensors
from harness import Background, Daemon, DaemonTest, eventually, seconds

SHAPES = {"w": [2, 3], "b": [2]}
START = {"w": [1, 2, 3, 4, 5, 6], "b": [7, 8]}
ONES = [1.0] * 8
JSON = {"Content-Type": "application/json"}
TENSORS = [{"key": "w", "shape": ["2", "3"]}, {"key": "b", "shape": ["2"]}]


class Rest(DaemonTest):
    def make(self, **more):
        return self.daemon.create_model(self.name, SHAPES, start=START, **more)

    def refused(self, reply, status, reason, field=None):
        """An error with code, message, reason and, if given, the name of the field."""
        reply.expect(status, reason)
        body = reply.json()
        self.assertTrue(body["code"])
        self.assertGreater(len(body["message"]), 5)
        self.assertEqual(body["details"][0]["type"], "adamd.v1.ErrorInfo")
        self.assertEqual(body["details"][0]["debug"]["domain"], "adamd")
        if field:
            self.assertTrue(any(field in f for f in reply.fields), (field, reply))
        return reply


class Server(Rest):
    def test_health_is_ok_and_verbose_lists_the_checks(self):
        for path in ("/livez", "/readyz", "/v1/health/live", "/v1/health/ready"):
            with self.subTest(path):
                reply = self.daemon.get(path).expect(200)
                self.assertEqual(reply.body.strip(), b"ok")
                self.assertIn(b"[+]", self.daemon.get(path + "?verbose").expect(200).body)
                head = self.daemon.request("HEAD", path).expect(200)
                self.assertEqual(head.body, b"")

    def test_the_index_names_every_call(self):
        index = self.daemon.get("/v1").expect(200).json()
        self.assertEqual(index["name"], "adamd")
        self.assertIn("GET /v1/models/{m}/parameters", index["calls"])
        self.assertIn("POST /adamd.v1.ModelService/CreateModel", index["calls"])
        for call in index["calls"]:
            method, path = call.split()
            if "drain" not in path.lower():
                path = path.replace("{m}", "nobody").replace("{w}", "w")
                reply = self.daemon.request(method, path)
                self.assertNotIn(reply.reason, ("UNKNOWN_METHOD", "METHOD_NOT_ALLOWED"), call)

    def test_the_server_says_what_it_is_and_what_its_limits_are(self):
        server = self.daemon.get("/v1/server").expect(200).json()
        self.assertEqual(server["state"], "serving")
        self.assertTrue(server["backend"].startswith("cpu-"))
        self.assertGreaterEqual(server["threads"], 1)
        self.assertGreaterEqual(server["connections"], 1)
        limits = {limit["name"]: int(limit["value"]) for limit in server["limits"]}
        for name, value in (("labels_per_model", 32), ("label_key", 64), ("label_value", 256),
                            ("metrics_per_push", 64), ("page_size", 1000), ("wait", 60000),
                            ("dimensions_per_tensor", 8), ("in_flight_per_worker", 4)):
            self.assertEqual(limits[name], value, name)

    def test_a_drain_over_rest_ends_the_process(self):
        daemon = Daemon().start()
        self.assertEqual(daemon.post("/v1/server:drain").expect(200).json(), {})
        self.assertEqual(daemon.wait(), 0)
        daemon.discard()

    def test_every_answer_has_a_request_id_and_takes_the_callers(self):
        self.assertTrue(self.daemon.get("/v1/server").headers["adamd-request-id"])
        reply = self.daemon.get("/v1/server", headers={"X-Request-Id": "my-own.1"})
        self.assertEqual(reply.headers["adamd-request-id"], "my-own.1")

    def test_what_is_not_there(self):
        self.refused(self.daemon.get("/v2"), 404, "UNKNOWN_METHOD")
        self.refused(self.daemon.get("/v1/models/nobody"), 404, "NOT_FOUND")
        self.refused(self.daemon.post("/v1/models/nobody:explode"), 404, "UNKNOWN_METHOD")
        reply = self.refused(self.daemon.request("PUT", "/v1/server"), 405, "METHOD_NOT_ALLOWED")
        self.assertIn("GET", reply.headers["allow"])
        self.refused(self.daemon.get("/v1/models?page_sise=3"), 400, "BAD_FIELD", "page_sise")

    def test_a_name_in_an_error_is_short_and_printable(self):
        reply = self.daemon.get("/v1/models/" + "a" * 300)
        self.refused(reply, 404, "NOT_FOUND")
        self.assertNotIn("a" * 65, reply.json()["message"])

    def test_errors_come_as_problem_json_where_asked_for(self):
        reply = self.daemon.get("/v1/models/nobody",
                                headers={"Accept": "application/problem+json"}).expect(404)
        self.assertTrue(reply.headers["content-type"].startswith("application/problem+json"))
        problem = reply.json()
        self.assertEqual(problem["type"], "urn:adamd:reason:NOT_FOUND")
        self.assertEqual((problem["status"], problem["reason"]), (404, "NOT_FOUND"))


class Create(Rest):
    def create(self, body, model_id="made", **more):
        return self.daemon.post("/v1/models", body, model_id=model_id, **more)

    def test_a_model_is_what_was_asked_for(self):
        body = {
            "displayName": "A small one", "labels": [{"key": "team", "value": "blue"}],
            "tensors": TENSORS,
            "paramGroups": [{"params": ["b"], "options": {"weightDecay": 0}}, {"params": ["w"]}],
            "defaults": {"lr": 0.5, "betas": [0.8, 0.9], "weightDecay": 0.25, "amsgrad": True},
            "stepPolicy": {"trigger": "TRIGGER_BARRIER", "quorum": 2, "deadline": "1.5s"},
        }
        model = self.create(body, self.name).expect(200).json()
        self.assertEqual(model["name"], "models/" + self.name)
        self.assertEqual(model["displayName"], "A small one")
        self.assertEqual(model["labels"], [{"key": "team", "value": "blue"}])
        self.assertEqual(model["state"], "STATE_INITIALIZING")
        self.assertEqual((model["parameterCount"], model["byteSize"]), ("8", "32"))
        self.assertEqual([t["key"] for t in model["tensors"]], ["w", "b"])
        self.assertEqual([t["group"] for t in model["tensors"]], [1, 0])
        first, second = model["paramGroups"]
        self.assertEqual((first["params"], first["options"]["weightDecay"]), (["b"], 0))
        self.assertEqual((second["params"], second["options"]["weightDecay"]), (["w"], 0.25))
        for group in (first, second):
            self.assertEqual(group["options"]["lr"], 0.5)
            self.assertEqual(group["options"]["betas"], [0.8, 0.9])
            self.assertEqual(group["options"]["eps"], 1e-8)
            self.assertTrue(group["options"]["amsgrad"])
        self.assertEqual(model["stepPolicy"]["deadline"], "1.500s")
        self.assertEqual(len(model["uid"]), 32)
        self.assertEqual(len(model["layoutDigest"]), 32)
        self.assertTrue(model["etag"].startswith("g1.v0.c"), model["etag"])
        self.assertEqual(self.daemon.get("/v1/models/" + self.name).expect(200).json(), model)

    def test_validate_only_tells_the_sizes_and_makes_nothing(self):
        reply = self.create({"tensors": TENSORS}, self.name, validate_only="true").expect(200)
        self.assertEqual((reply.json()["parameterCount"], reply.json()["byteSize"]), ("8", "32"))
        self.assertGreater(int(reply.json()["residentBytes"]), 96)
        self.assertEqual([t["flatOffset"] for t in reply.json()["tensors"]], ["0", "24"])
        self.daemon.get("/v1/models/" + self.name).expect(404, "NOT_FOUND")
        self.make()
        self.refused(self.create({"tensors": TENSORS}, self.name, validate_only="true"), 409,
                     "EXISTS", "model_id")
        self.refused(self.create({"tensors": TENSORS * 2}, "other", validate_only="true"), 400,
                     "BAD_FIELD", "].key")

    def test_curl_d_sends_a_form_type_and_means_json(self):
        self.daemon.post("/v1/models", json.dumps({"tensors": TENSORS}).encode(),
                         headers={"Content-Type": "application/x-www-form-urlencoded"},
                         model_id=self.name).expect(200)

    def test_snake_case_is_taken_too(self):
        body = {"tensors": TENSORS, "step_policy": {"trigger": 3}, "display_name": "x"}
        model = self.create(body, self.name).expect(200).json()
        self.assertEqual(model["stepPolicy"]["trigger"], "TRIGGER_MANUAL")

    def test_a_name_is_taken_once(self):
        self.create({"tensors": TENSORS}, self.name).expect(200)
        self.refused(self.create({"tensors": TENSORS}, self.name), 409, "EXISTS", "model_id")

    def test_names_that_are_none(self):
        for name in ("", "A", "1a", "a-", "-a", "a_b", "a.b", "a" * 64, "ü", "a/b"):
            with self.subTest(name):
                self.refused(self.create({"tensors": TENSORS}, name), 400, "BAD_FIELD", "model_id")
        self.refused(self.daemon.post("/v1/models", {"tensors": TENSORS}), 400, "BAD_FIELD",
                     "model_id")

    def test_bodies_that_are_refused_name_the_field(self):
        def tensor(**more):
            return {"tensors": [{"key": "w", "shape": ["2"], **more}]}

        def with_options(**options):
            return {"tensors": TENSORS, "defaults": options}

        def policy(**fields):
            return {"tensors": TENSORS, "stepPolicy": fields}

        labels = [{"key": f"k{i}", "value": ""} for i in range(33)]
        cases = {
            "no tensors": ({}, "tensors"),
            "one key of two": ({"tensors": [{"key": "w"}, {}]}, "param_groups[0].params"),
            "long key": (tensor(key="k" * 257), "tensors[0].key"),
            "key twice": ({"tensors": [TENSORS[0], TENSORS[0]]}, "tensors[1].key"),
            "key of state": ({"tensors": [{"key": "w"}, {"key": "w.exp_avg"}]}, "tensors[1].key"),
            "nine dimensions": (tensor(shape=["1"] * 9), "tensors[0].shape"),
            "too large": (tensor(shape=[str(1 << 40), str(1 << 40)]), "tensors[0].shape"),
            "lr": (with_options(lr=-1), "lr"),
            "lr NaN": (with_options(lr="NaN"), "lr"),
            "eps": (with_options(eps=-1e-8), "eps"),
            "beta1": (with_options(betas=[1.0, 0.9]), "betas"),
            "one beta": (with_options(betas=[0.9]), "betas"),
            "weight_decay": (with_options(weightDecay=-0.1), "weight_decay"),
            "label twice": ({"tensors": TENSORS, "labels": labels[:1] * 2}, "labels[1].key"),
            "33 labels": ({"tensors": TENSORS, "labels": labels}, "labels"),
            "long label": ({"tensors": TENSORS, "labels": [{"key": "k" * 65}]}, "labels[0].key"),
            "long value": ({"tensors": TENSORS, "labels": [{"key": "k", "value": "v" * 257}]},
                           "labels[0].value"),
            "long name": ({"tensors": TENSORS, "displayName": "n" * 128}, "display_name"),
            "unknown param": ({"tensors": TENSORS, "paramGroups": [{"params": ["x"]}]},
                              "param_groups[0].params"),
            "param twice": ({"tensors": TENSORS,
                             "paramGroups": [{"params": ["w"]}, {"params": ["b", "w"]}]},
                            "param_groups[1].params"),
            "param in no group": ({"tensors": TENSORS, "paramGroups": [{"params": ["w"]}]},
                                  "param_groups"),
            "trigger": (policy(trigger="TRIGGER_SOMETIMES"), "trigger"),
            "trigger 9": (policy(trigger=9), "trigger"),
            "deadline": (policy(trigger="TRIGGER_BARRIER", deadline="-1s"), "deadline"),
            "deadline text": (policy(trigger="TRIGGER_BARRIER", deadline="soon"), "deadline"),
            "unknown field": ({"tensors": TENSORS, "tensorz": []}, "tensorz"),
            "unknown inside": ({"tensors": [{"key": "w", "shap": []}]}, "shap"),
        }
        for name, (body, field) in cases.items():
            with self.subTest(name):
                reply = self.create(body)
                self.assertIn(reply.status, (400, 413, 501), reply)
                self.assertTrue(any(field in f for f in reply.fields), (field, reply))
        self.daemon.get("/v1/models/made").expect(404)

    def test_what_this_build_cannot_do_yet_is_said(self):
        for body, field in (
            ({"tensors": TENSORS, "durability": "DURABILITY_WAL"}, "durability"),
        ):
            with self.subTest(field):
                self.refused(self.create(body), 501, "UNSUPPORTED", field)

    def test_json_that_is_none(self):
        deep = b'{"tensors":' * 20 + b"1" + b"}" * 20
        for text in (b"{", b"[]", b"null", b"{} {}", b'{"tensors":[{"key":"w"},]}', b"\xff{}",
                     b'{"tensors":[],"tensors":[]}', b"\xef\xbb\xbf{}", b'{"displayName":"\\u0000"}',
                     b'{"displayName":"\xc3\x28"}', b'{"displayName":7}', b"{'a':1}",
                     b'{"defaults":{"lr":1e999}}', b'{"defaults":{"lr":01}}', deep,
                     b'{"version":"1","displayName":"a\nb"}'):
            with self.subTest(text[:40]):
                reply = self.daemon.post("/v1/models", text, headers=JSON, model_id="made")
                self.refused(reply, 400, "BAD_FIELD")
        self.daemon.get("/v1/models/made").expect(404)

    def test_types_that_are_not_taken(self):
        for kind in ("text/plain", "application/xml", "multipart/form-data; boundary=x"):
            with self.subTest(kind):
                reply = self.daemon.post("/v1/models", b"{}", headers={"Content-Type": kind},
                                         model_id="made")
                self.refused(reply, 415, "UNSUPPORTED_MEDIA_TYPE")


class Read(Rest):
    def test_lists_leave_tensors_out_and_have_pages(self):
        names = [f"{self.name}-{i}" for i in range(5)]
        for name in names:
            self.daemon.create_model(name, SHAPES)
        seen, token = [], ""
        for _ in range(20):
            page = self.daemon.get("/v1/models", page_size=2, page_token=token).expect(200).json()
            self.assertLessEqual(len(page.get("models", [])), 2)
            seen += [m["name"].removeprefix("models/") for m in page.get("models", [])]
            self.assertTrue(all(not m.get("tensors") for m in page.get("models", [])))
            token = page.get("nextPageToken", "")
            if not token:
                break
        self.assertEqual([n for n in seen if n.startswith(self.name)], names)
        everything = self.daemon.get("/v1/models", page_size=99999).expect(200).json()
        self.assertEqual(len(everything["models"]), len(seen))
        self.refused(self.daemon.get("/v1/models?page_token=xyz"), 400, "BAD_FIELD", "page_token")
        self.refused(self.daemon.get("/v1/models?page_size=-1"), 400, "BAD_FIELD", "page_size")

    def test_a_page_goes_on_after_a_model_that_was_deleted(self):
        for i in range(3):
            self.daemon.create_model(f"{self.name}-{i}", SHAPES)
        token, names = "", []
        while True:
            page = self.daemon.get("/v1/models", page_size=1, page_token=token).expect(200).json()
            names += [m["name"] for m in page["models"]]
            if page["models"][0]["name"].endswith("listed-0"):
                self.daemon.request("DELETE", "/v1/" + page["models"][0]["name"]).expect(200)
            token = page.get("nextPageToken", "")
            if not token:
                break
        self.assertEqual(len(names), len(set(names)))

    def test_tensors_have_places_steps_and_pages(self):
        model = self.make()
        worker = model.register("w0")
        worker.push({"w": [1] * 6}).expect(200)
        whole = self.daemon.get(model.path + "/tensors").expect(200).json()["tensors"]
        self.assertEqual([t["key"] for t in whole], ["w", "b"])
        self.assertEqual([t.get("flatOffset", "0") for t in whole], ["0", "24"])
        self.assertEqual([t["byteSize"] for t in whole], ["24", "8"])
        self.assertEqual([t.get("step", "0") for t in whole], ["1", "0"])
        first = self.daemon.get(model.path + "/tensors", page_size=1).expect(200).json()
        second = self.daemon.get(model.path + "/tensors", page_size=1,
                                 page_token=first["nextPageToken"]).expect(200).json()
        self.assertEqual(first["tensors"] + second["tensors"], whole)
        self.assertFalse(second.get("nextPageToken"))
        self.refused(self.daemon.get(model.path + "/tensors?page_token=n9x"), 400, "BAD_FIELD",
                     "page_token")

    def test_a_model_that_has_not_changed_is_not_sent_again(self):
        model = self.make()
        reply = self.daemon.get(model.path).expect(200)
        tag = reply.headers["etag"]
        self.assertEqual(tag, '"%s"' % reply.json()["etag"])
        self.daemon.get(model.path, headers={"If-None-Match": tag}).expect(304)
        self.daemon.get(model.path, headers={"If-None-Match": f'"x", W/{tag}'}).expect(304)
        model.patch({"displayName": "new"}).expect(200)
        self.daemon.get(model.path, headers={"If-None-Match": tag}).expect(200)


class Update(Rest):
    def options(self, model):
        return [group["options"] for group in model.get()["paramGroups"]]

    def test_a_mask_says_what_is_meant(self):
        model = self.make(lr=0.1)
        reply = model.patch({"defaults": {"lr": 0.5, "eps": 1e-3}}, update_mask="defaults.lr")
        self.assertEqual(reply.expect(200).headers["adamd-holds-from-version"],
                         str(model.version + 1))
        self.assertEqual((self.options(model)[0]["lr"], self.options(model)[0]["eps"]), (0.5, 1e-8))
        model.patch({"defaults": {"lr": 0.25, "weightDecay": 1}}).expect(200)
        self.assertEqual(self.options(model)[0]["lr"], 0.25)
        self.assertEqual(self.options(model)[0]["weightDecay"], 1)

    def test_groups_are_changed_in_order_and_the_policy_field_by_field(self):
        model = self.make(groups=[{"params": ["w"]}, {"params": ["b"]}])
        model.patch({"paramGroups": [{}, {"options": {"lr": 0.5}}]}).expect(200)
        self.assertEqual([o["lr"] for o in self.options(model)], [0.001, 0.5])
        model.patch({"stepPolicy": {"quorum": 3, "minWorkers": 2}},
                    update_mask="stepPolicy.quorum").expect(200)
        policy = model.get()["stepPolicy"]
        self.assertEqual((policy["quorum"], policy["minWorkers"] in (0, 1)), (3, True))
        model.patch({"labels": [{"key": "a", "value": "b"}], "displayName": "x"}).expect(200)
        self.assertEqual(model.get()["labels"], [{"key": "a", "value": "b"}])
        model.patch({}, update_mask="labels").expect(200)
        self.assertFalse(model.get().get("labels"))
        self.assertEqual(model.get()["displayName"], "x")

    def test_nothing_is_half_applied(self):
        model = self.make(groups=[{"params": ["w"]}, {"params": ["b"]}])
        cases = {
            "second group": ({"paramGroups": [{"options": {"lr": 0.5}},
                                              {"options": {"lr": -1}}]}, None, "param_groups[1]"),
            "policy after options": ({"defaults": {"lr": 0.5},
                                      "stepPolicy": {"deadline": "-1s"}}, None, "deadline"),
            "labels after all": ({"defaults": {"lr": 0.5}, "labels": [{"key": ""}]}, None,
                                 "labels[0].key"),
            "three groups": ({"paramGroups": [{}, {}, {"options": {"lr": 1}}]}, None,
                             "param_groups"),
            "unknown path": ({"defaults": {"lr": 0.5}}, "defaults.lr,defaults.lrr", "update_mask"),
            "output only path": ({"defaults": {"lr": 0.5}}, "version", "update_mask"),
            "path without value": ({"defaults": {"lr": 0.5}}, "defaults.lr,defaults.eps", "eps"),
            "two flags": ({"defaults": {"lr": 0.5, "fused": True, "foreach": True}}, None, "fused"),
        }
        before = model.get()
        digest = model.digest()
        for name, (body, mask, field) in cases.items():
            with self.subTest(name):
                reply = model.patch(body, update_mask=mask)
                self.assertIn(reply.status, (400, 501), reply)
                self.assertTrue(any(field in f for f in reply.fields), (field, reply))
                self.assertEqual(model.get(), before)
        self.assertEqual(model.digest(), digest)

    def test_an_etag_guards_against_changes_of_others(self):
        model = self.make()
        tag = model.get()["etag"]
        self.refused(model.patch({"displayName": "x"}, etag="g1.v9.c9"), 412, "ETAG_MISMATCH",
                     "etag")
        reply = self.daemon.request("PATCH", model.path, {"displayName": "x"},
                                    {"If-Match": '"g9.v9.c9"'})
        self.refused(reply, 412, "ETAG_MISMATCH", "If-Match")
        self.daemon.request("PATCH", model.path, {"displayName": "x"},
                            {"If-Match": f'"{tag}"'}).expect(200)
        self.refused(model.patch({"displayName": "y"}, etag=tag), 412, "ETAG_MISMATCH")
        self.assertEqual(model.get()["displayName"], "x")


class Delete(Rest):
    def test_live_workers_stand_against_it_unless_forced(self):
        model = self.make()
        model.register("w0")
        reply = self.daemon.request("DELETE", model.path)
        self.refused(reply, 409, "HAS_WORKERS", "force")
        self.assertEqual(reply.metadata["live_workers"], "1")
        self.assertEqual(self.daemon.request("DELETE", model.path, force="true").expect(200).json(),
                         {})
        self.daemon.get(model.path).expect(404, "NOT_FOUND")
        self.daemon.create_model(self.name, SHAPES, start=START)

    def test_an_etag_that_is_old_keeps_the_model(self):
        model = self.make()
        self.refused(self.daemon.request("DELETE", model.path, etag="g7.v7.c7"), 412,
                     "ETAG_MISMATCH")
        self.daemon.request("DELETE", model.path, etag=model.get()["etag"]).expect(200)

    def test_whoever_waits_is_told_at_once(self):
        model = self.make(policy={"trigger": "TRIGGER_BARRIER"})
        one, _ = model.register("w0"), model.register("w1")
        push = Background(one.push, ONES)
        pull = Background(model.pull, min_version=99, wait="30s")
        eventually(lambda: self.daemon.get("/v1/server").json()["connections"] >= 3)
        time.sleep(seconds(0.1))
        start = time.monotonic()
        self.daemon.request("DELETE", model.path, force="true").expect(200)
        push.result().expect(404, "NOT_FOUND")
        pull.result().expect(404, "NOT_FOUND")
        self.assertLess(time.monotonic() - start, seconds(5))

    def test_a_reader_in_the_middle_gets_its_version_to_the_end(self):
        shapes = {"w": [6 << 20]}
        model = self.daemon.create_model(self.name, shapes).initialize()
        with self.daemon.socket() as reader:
            reader.sendall(f"GET {model.path}/parameters?format=raw HTTP/1.1\r\nHost: t\r\n"
                           "Connection: close\r\n\r\n".encode())
            got = reader.recv(65536)
            self.daemon.request("DELETE", model.path).expect(200)
            self.daemon.get(model.path).expect(404)
            while piece := reader.recv(1 << 20):
                got += piece
        head, _, body = got.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 200"), head)
        self.assertEqual(len(body), 24 << 20)

    def test_a_push_in_the_middle_of_its_body_is_told(self):
        model = self.make()
        worker = model.register("w0")
        with self.daemon.socket() as pusher:
            pusher.sendall(f"POST {worker.target()} HTTP/1.1\r\nHost: t\r\nContent-Length: 32\r\n"
                           "Content-Type: application/octet-stream\r\n\r\n1234".encode())
            eventually(lambda: worker.info())
            time.sleep(seconds(0.1))
            self.daemon.request("DELETE", model.path, force="true").expect(200)
            pusher.sendall(b"\0" * 28)
            self.assertIn(b" 404 ", pusher.recv(65536).split(b"\r\n")[0])


class Workers(Rest):
    def test_a_registration_says_all_that_a_worker_needs(self):
        model = self.make()
        reply = self.daemon.post(model.path + "/workers", worker_id="w0").expect(200).json()
        self.assertEqual((reply["epoch"], reply["generation"]), ("1", str(model.generation)))
        self.assertEqual((reply["byteSize"], reply["lease"]), ("32", "30s"))
        self.assertEqual(reply["layoutDigest"], model.get()["layoutDigest"])
        self.assertEqual(reply["worker"]["name"], f"models/{self.name}/workers/w0")
        self.assertTrue(reply["worker"]["live"])
        again = self.daemon.post(model.path + "/workers", worker_id="w0").expect(200).json()
        self.assertEqual(again["epoch"], "2")

    def test_workers_are_listed_by_rank_in_pages(self):
        model = self.make()
        for name, rank in (("c", 2), ("a", 0), ("b", 1)):
            model.register(name, rank=rank)
        path = model.path + "/workers"
        whole = self.daemon.get(path).expect(200).json()["workers"]
        self.assertEqual([w["name"].rsplit("/")[-1] for w in whole], ["a", "b", "c"])
        first = self.daemon.get(path, page_size=2).expect(200).json()
        rest = self.daemon.get(path, page_size=2,
                               page_token=first["nextPageToken"]).expect(200).json()
        names = [w["name"] for w in first["workers"] + rest["workers"]]
        self.assertEqual(names, [w["name"] for w in whole])

    def test_a_lease_is_renewed_and_given_up(self):
        model = self.make(policy={"lease": "60s"})
        worker = model.register("w0")
        before = worker.info()["leaseExpireTime"]
        time.sleep(0.02)
        self.assertGreater(worker.renew().expect(200).json()["leaseExpireTime"], before)
        worker.deregister().expect(200)
        self.assertFalse(worker.info().get("live", False))
        self.assertIn(worker.renew().reason, ("UNKNOWN_WORKER", "FENCED"))

    def test_what_is_refused(self):
        model = self.make()
        worker = model.register("w0", rank=0)
        path = model.path + "/workers"
        for name in ("", "a b", "ä", "x" * 65, "a/b"):
            with self.subTest(name):
                self.refused(self.daemon.post(path, worker_id=name), 400, "BAD_FIELD", "worker_id")
        self.refused(self.daemon.post(path), 400, "BAD_FIELD", "worker_id")
        self.refused(self.daemon.post(path, worker_id="w1", nonce="n" * 65), 400, "BAD_FIELD",
                     "nonce")
        self.refused(self.daemon.post(path, worker_id="w1", rank=0), 409, "EXISTS", "rank")
        self.refused(self.daemon.post(path, worker_id="w1", rank="x"), 400, "BAD_FIELD", "rank")
        self.refused(self.daemon.get(path + "/nobody"), 404, "UNKNOWN_WORKER")
        reply = self.refused(self.daemon.post(path + "/nobody:renew", epoch=1), 404,
                             "UNKNOWN_WORKER")
        self.assertIn("workers?worker_id=nobody", reply.json()["message"])
        self.refused(self.daemon.request("DELETE", path + "/nobody"), 404, "UNKNOWN_WORKER")
        self.refused(self.daemon.post(path + "/w0:renew", epoch=worker.epoch + 1), 400, "BAD_EPOCH")
        self.refused(self.daemon.post(path, worker_id="w2", generation=1, acknowledged_version=99),
                     409, "STATE_BEHIND")
        reply = self.daemon.post(model.path + "/gradients", b"\0" * 32,
                                 headers={"Content-Type": "application/octet-stream"},
                                 worker="ghost", epoch=1, sequence=1)
        self.refused(reply, 404, "UNKNOWN_WORKER", "worker")
        self.assertIn("workers?worker_id=ghost", reply.json()["message"])
        self.assertEqual(len(self.daemon.get(path).json()["workers"]), 1)


class State(Rest):
    def test_a_saved_state_is_put_back_bit_for_bit(self):
        model = self.make(lr=0.1, amsgrad=True)
        worker = model.register("w0")
        for i in range(3):
            worker.push([i + 1.0] * 8).expect(200)
        saved = model.get_state()
        read, metadata = tensors.read_safetensors(saved.body)
        self.assertEqual(metadata["adamd.state_digest"], saved.headers["adamd-state-digest"])
        self.assertEqual(metadata["adamd.version"], saved.headers["adamd-version"])
        groups = json.loads(metadata["adamd.param_groups"])
        self.assertEqual((groups[0]["lr"], groups[0]["params"]), (0.1, ["w", "b"]))
        names = {f"{k}{s}" for k in SHAPES
                 for s in ("", ".exp_avg", ".exp_avg_sq", ".max_exp_avg_sq", ".step")}
        self.assertEqual(set(read), names)
        worker.push(ONES).expect(200)
        self.assertNotEqual(model.digest(), saved.headers["adamd-state-digest"])
        restored = model.put_state(saved.body, force="true").expect(200).json()
        self.assertEqual(restored["generation"], str(int(saved.headers["adamd-generation"]) + 1))
        self.assertEqual(restored["version"], saved.headers["adamd-version"])
        self.assertEqual(model.digest(), saved.headers["adamd-state-digest"])
        self.assertEqual(worker.push(ONES, generation=worker.generation).reason, "RUN_RESTORED")

    def test_it_goes_into_another_model_of_the_same_tensors(self):
        model = self.make(lr=0.1)
        model.register("w0").push(ONES).expect(200)
        other = self.daemon.create_model(self.name[:50] + "-other", SHAPES)
        other.put_state(model.get_state().body).expect(200)
        self.assertEqual(other.digest(), model.digest())
        self.assertEqual(other.get()["paramGroups"][0]["options"]["lr"], 0.1)

    def test_head_says_what_get_would(self):
        model = self.make()
        head = self.daemon.request("HEAD", model.path + "/state").expect(200)
        got = model.get_state()
        for name in ("adamd-state-digest", "adamd-version", "adamd-generation", "etag",
                     "content-length"):
            self.assertEqual(head.headers[name], got.headers[name], name)
        self.assertEqual(head.body, b"")
        self.daemon.get(model.path + "/state",
                        headers={"If-None-Match": got.headers["etag"]}).expect(304)

    def test_a_state_that_is_there_is_not_overwritten_by_accident(self):
        model = self.make()
        saved = model.get_state()
        self.refused(model.put_state(saved.body), 428, "PRECONDITION_REQUIRED", "If-Match")
        self.refused(model.put_state(saved.body, {"If-Match": '"g1.v99.c1.state"'}), 412,
                     "ETAG_MISMATCH", "If-Match")
        model.put_state(saved.body, {"If-Match": saved.headers["etag"]}).expect(200)
        self.refused(model.put_state(saved.body, {"If-Match": saved.headers["etag"]}), 412,
                     "ETAG_MISMATCH")
        fresh = self.daemon.create_model(self.name[:50] + "-fresh", SHAPES)
        fresh.put_state(saved.body).expect(200)

    def test_files_that_are_refused_change_nothing(self):
        model = self.make(lr=0.1)
        model.register("w0").push(ONES).expect(200)
        good, metadata = tensors.read_safetensors(model.get_state().body)

        def file(change=None, drop=(), more=None):
            entries = {k: v for k, v in good.items() if k not in drop}
            entries.update(change or {})
            return tensors.write_safetensors(entries, {**metadata, **(more or {})})

        groups = json.loads(metadata["adamd.param_groups"])
        no_digest = {k: v for k, v in metadata.items() if k != "adamd.state_digest"}
        six = tensors.floats([0] * 6)
        cases = {
            "digest": (file(more={"adamd.state_digest": "0" * 32}), 422, "adamd.state_digest"),
            "flipped bit": (file({"w": ([2, 3], tensors.floats([9] * 6))}), 422,
                            "adamd.state_digest"),
            "digest text": (file(more={"adamd.state_digest": "xyz"}), 400, "adamd.state_digest"),
            "version text": (file(more={"adamd.version": "now"}), 400, "adamd.version"),
            "format": (file(more={"adamd.format": "99"}), 400, "adamd.format"),
            "missing parameter": (file(drop=("w",)), 422, "w"),
            "missing moment": (file(drop=("b.exp_avg",)), 422, "exp_avg"),
            "missing step": (file(drop=("w.step",)), 422, "step"),
            "unknown tensor": (file({"x": ([6], six)}), 422, "x"),
            "other shape": (file({"w": ([3, 2], six)}), 422, "w"),
            "step as float": (file({"w.step": ([], tensors.floats([1]))}), 422, "w.step"),
            "negative step": (tensors.write_safetensors(
                {**good, "w.step": ([], tensors.from_bytes("q", struct.pack("<q", -1)))},
                no_digest), 400, "step"),
            "groups": (file(more={"adamd.param_groups": "[]"}), 422, "param_groups"),
            "group options": (file(more={"adamd.param_groups": json.dumps(
                [{**groups[0], "lr": -1}])}), 400, "lr"),
            "group members": (file(more={"adamd.param_groups": json.dumps(
                [{**groups[0], "params": ["b", "w"]}])}), 422, "param_groups"),
            "groups no JSON": (file(more={"adamd.param_groups": "{"}), 400, "param_groups"),
            "empty": (b"", 400, None),
            "cut header": (file()[:40], 400, None),
            "cut data": (file()[:-4], 400, None),
            "more data": (file() + b"1234", 400, None),
        }
        for name, (body, status, field) in cases.items():
            with self.subTest(name):
                reply = self.assert_untouched(
                    model, lambda b=body: model.put_state(b, force="true"))
                self.assertEqual(reply.status, status, reply)
                if field:
                    said = "".join(reply.fields) + reply.json()["message"]
                    self.assertIn(field, said, reply)

    def test_a_type_that_is_not_taken(self):
        model = self.make()
        for kind in ("application/json", "application/x-www-form-urlencoded"):
            reply = model.put_state(b"{}", {"Content-Type": kind}, force="true")
            self.refused(reply, 415, "UNSUPPORTED_MEDIA_TYPE", "Content-Type")

    def test_parameters_alone_make_a_fresh_start(self):
        model = self.make(lr=0.1)
        model.register("w0").push(ONES).expect(200)
        model.put_parameters(START)
        read, _ = tensors.read_safetensors(model.get_state().body)
        self.assertEqual(list(read["w"][1]), START["w"])
        self.assertEqual(list(read["w.exp_avg"][1]), [0.0] * 6)
        self.assertEqual(list(read["w.step"][1]), [0])
        self.assertEqual(model.get()["paramGroups"][0]["options"]["lr"], 0.1)

    def test_before_there_are_parameters_there_is_nothing_to_read(self):
        model = self.daemon.create_model(self.name, SHAPES)
        for path in ("/state", "/parameters"):
            self.refused(self.daemon.get(model.path + path), 409, "INITIALIZING")
        model.initialize()
        self.assertEqual(list(model.parameters()["w"]), [0.0] * 6)


class Pull(Rest):
    def test_arguments_that_are_wrong(self):
        model = self.make()
        for query, field in ({"format": "pickle"}, "format"), ({"wait": "soon"}, "wait"), \
                ({"wait": "-1s"}, "wait"), ({"min_version": "-1"}, "min_version"), \
                ({"min_version": "x"}, "min_version"), ({"minversion": "1"}, "minversion"):
            with self.subTest(query):
                self.refused(model.pull(**query), 400, "BAD_FIELD", field)

    def test_head_has_the_length_and_no_body(self):
        model = self.make()
        head = self.daemon.request("HEAD", model.path + "/parameters", format="raw").expect(200)
        self.assertEqual((head.headers["content-length"], head.body), ("32", b""))

    def test_a_wait_without_a_version_waits_for_news(self):
        model = self.make()
        tag = model.pull(format="raw").headers["etag"]
        waiting = Background(model.pull, {"If-None-Match": tag}, format="raw", wait="20s")
        time.sleep(seconds(0.1))
        self.assertFalse(waiting.done())
        model.register("w0").push(ONES).expect(200)
        self.assertEqual(waiting.result().expect(200).headers["adamd-version"], "1")

    def test_a_client_that_has_a_deadline_is_told_in_time(self):
        model = self.make()
        start = time.monotonic()
        reply = model.pull({"Request-Timeout-Ms": "100"}, min_version=9, wait="30s")
        self.refused(reply, 504, "TIMED_OUT")
        self.assertLess(time.monotonic() - start, seconds(5))


class Steps(Rest):
    def test_records_are_lines_and_pages(self):
        model = self.make()
        worker = model.register("w0")
        for i in range(4):
            worker.push(ONES, **{"metric.loss": i}).expect(200)
        reply = self.daemon.get(model.path + "/steps").expect(200)
        self.assertEqual(reply.headers["content-type"], "application/jsonl")
        self.assertEqual([r["version"] for r in model.records()], ["1", "2", "3", "4"])
        self.assertEqual([r["version"] for r in model.records(after=2)], ["3", "4"])
        self.assertEqual([r["version"] for r in model.records(page_size=2)], ["1", "2"])
        self.assertEqual(model.records()[3]["metrics"], [{"key": "loss", "value": 3}])
        self.refused(self.daemon.get(model.path + "/steps?after_version=x"), 400, "BAD_FIELD",
                     "after_version")
        self.refused(self.daemon.get(model.path + "/steps?follow=perhaps"), 400, "BAD_FIELD",
                     "follow")

    def test_records_come_as_a_table_where_asked_for(self):
        model = self.make()
        model.register("w0").push(ONES, **{"metric.loss": 0.5}).expect(200)
        reply = self.daemon.get(model.path + "/steps", headers={"Accept": "text/csv"}).expect(200)
        self.assertTrue(reply.headers["content-type"].startswith("text/csv"))
        title, line = reply.body.decode().splitlines()
        row = dict(zip(title.split(","), line.split(",")))
        self.assertEqual((row["version"], row["loss"], row["lr"]), ("1", "0.5", "0.001"))

    def follow(self, model, query=""):
        connection = http.client.HTTPConnection("127.0.0.1", self.daemon.port, timeout=seconds(10))
        connection.request("GET", f"{model.path}/steps?follow=true{query}")
        self.addCleanup(connection.close)
        answer = connection.getresponse()
        self.assertEqual(answer.status, 200)
        return answer

    def test_a_follower_gets_what_was_and_what_comes(self):
        model = self.make()
        worker = model.register("w0")
        worker.push(ONES).expect(200)
        worker.push(ONES).expect(200)
        answer = self.follow(model, "&after_version=1")
        self.assertEqual(json.loads(answer.readline())["version"], "2")
        for version in ("3", "4", "5"):
            worker.push(ONES).expect(200)
            self.assertEqual(json.loads(answer.readline())["version"], version)
        self.daemon.request("DELETE", model.path, force="true").expect(200)
        self.assertEqual(answer.read(), b"")

    def test_a_follower_that_comes_late_gets_everything(self):
        model = self.daemon.create_model(self.name, {"w": [1]}, start={"w": [1]})
        worker = model.register("w0")
        with self.daemon.connection() as connection:
            for _ in range(1500):
                worker.push([1.0], connection=connection,
                            **{"metric.a_long_name_for_a_metric": 1}).expect(200)
        answer = self.follow(model)
        for version in range(1, 1501):
            self.assertEqual(json.loads(answer.readline())["version"], str(version))

    def test_a_step_says_what_it_did(self):
        model = self.make(policy={"trigger": "TRIGGER_MANUAL"})
        worker = model.register("w0")
        self.assertEqual(worker.push(ONES).expect(200).outcome, "STAGED")
        reply = self.daemon.post(model.path + ":step", expected_version=0).expect(200).json()
        self.assertEqual(reply["record"]["version"], "1")
        again = self.daemon.post(model.path + ":step", expected_version=0).expect(200).json()
        self.assertTrue(again["duplicate"])
        self.refused(self.daemon.post(model.path + ":step", expected_version=7), 412,
                     "ETAG_MISMATCH")
        self.assertEqual(self.daemon.post(model.path + ":zeroGrad", set_to_none="false").expect(
            200).json(), {})
        self.refused(model.step({"options": {"lr": -1}}), 400, "BAD_FIELD", "options.lr")
        self.refused(model.step({"option": {}}), 400, "BAD_FIELD", "option")
        self.assertEqual(model.version, 1)


if __name__ == "__main__":
    unittest.main()
