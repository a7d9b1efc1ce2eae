"""States as files of torch.save, without PyTorch: files that it wrote are loaded, what is wrong with one is
listed, and part of one is loaded where that is asked for."""

import io
import json
import pathlib
import struct
import unittest
import zipfile

import tensors
from harness import DaemonTest, eventually, is_sanitized

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = ROOT / "fuzz" / "corpus" / "pt"
EXPECTED = json.loads((ROOT / "integration" / "pt_fixtures.json").read_text())
SHAPES = {"w": [2, 3], "b": [2], "s": []}
START = {"w": [1, 2, 3, 4, 5, 6], "b": [7, 8], "s": [9]}
ORDER = ["w", "b", "s"]
GROUPS = [{"params": ["b"]}, {"params": ["w", "s"]}]
PT = {"Content-Type": "application/x-pytorch"}


def fixture(name):
    return (FILES / f"torch-{name}.pt").read_bytes()


def repacked(data, method=zipfile.ZIP_STORED, **records):
    """The archive with other records; None removes one."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w", method) as new:
        for name in old.namelist():
            short = name.split("/", 1)[1].replace("/", "_").replace(".", "_")
            content = records.get(short, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return file.getvalue()


def renamed(data, old, new):
    """Of texts in the pickle."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        pickle = archive.read([n for n in archive.namelist() if n.endswith("data.pkl")][0])
    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value
    assert text(old) in pickle
    return repacked(data, data_pkl=pickle.replace(text(old), text(new)))


class TorchFiles(DaemonTest):
    def make(self, name=None, groups=None, dtype=None, start=START, pushes=2, **options):
        body = {"tensors": [{"key": key, "shape": [str(n) for n in shape]} for key, shape in SHAPES.items()]}
        if dtype:
            for tensor in body["tensors"]:
                tensor["dataType"] = "DATA_TYPE_" + dtype.upper()
        body.update({"paramGroups": groups} if groups else {}, defaults=options)
        self.daemon.post("/v1/models", body, model_id=name or self.name).expect(200)
        model = self.daemon_model(name or self.name)
        if start:
            model.put_parameters(start)
            worker = model.register("w0")
            for _ in range(pushes):
                worker.push([0.5] * 9).expect(200)
        return model

    def daemon_model(self, name):
        from harness import Model
        return Model(self.daemon, name, SHAPES)

    def put(self, model, data, headers=PT, part=None, **query):
        path = model.path + "/state" + (f"?path={part}" if part else "")
        return self.daemon.request("PUT", path, data, headers, **query)

    def read(self, model):
        return tensors.read_safetensors(model.get_state().body)

    def assert_state(self, model, expected, order=ORDER):
        read, _ = self.read(model)
        for i, key in enumerate(order):
            said = expected["state"].get(str(i))
            self.assertEqual(list(read[key + ".step"][1]), [said["step"]["values"][0] if said and isinstance(
                said["step"], dict) else said["step"] if said else 0])
            for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
                if said and name in said:
                    self.assertEqual(list(read[f"{key}.{name}"][1]), said[name]["values"], (key, name))

    def test_what_pytorch_wrote_of_optimizers_is_loaded(self):
        for name in ("adam", "adam-named", "adam-tensor-lr", "adam-partial", "adam-transposed", "adamw-old"):
            with self.subTest(name):
                model = self.make(name)
                before = self.read(model)[0]
                said = self.put(model, fixture(name), force="true").expect(200).json()
                self.assertEqual((said["generation"], said["version"]), ("2", "3"))
                self.assert_state(model, EXPECTED[name])
                after = self.read(model)[0]
                for key in SHAPES:
                    self.assertEqual(list(after[key][1]), list(before[key][1]))

    def test_groups_options_and_unknown_keys_come_with_it(self):
        model = self.make(groups=GROUPS)
        self.put(model, fixture("adamw-groups"), force="true").expect(200)
        self.assert_state(model, EXPECTED["adamw-groups"], ["b", "w", "s"])
        groups = json.loads(self.read(model)[1]["adamd.param_groups"])
        for ours, theirs in zip(groups, EXPECTED["adamw-groups"]["param_groups"]):
            for key, value in theirs.items():
                if key != "params":
                    self.assertEqual(ours[key], value, key)

    def test_what_an_older_file_lacks_is_filled_in(self):
        model = self.make(amsgrad=True, maximize=True, decoupledWeightDecay=True, weightDecay=0.3)
        self.put(model, fixture("adamw-old"), force="true").expect(200)
        group = json.loads(self.read(model)[1]["adamd.param_groups"])[0]
        self.assertEqual((group["amsgrad"], group["maximize"], group["foreach"], group["fused"]),
                         (False, False, None, None))
        # Whether it is of AdamW such a file does not say: the model does, as the class would.
        self.assertEqual((group["decoupled_weight_decay"], group["weight_decay"]), (True, 0.01))

    def test_values_are_cast_to_the_parameters_dtype(self):
        for name in ("adam-bfloat16", "adam-float16", "adam-float64"):
            with self.subTest(name):
                model = self.make(name)
                self.put(model, fixture(name), force="true").expect(200)
                read, _ = self.read(model)
                for i, key in enumerate(ORDER):
                    said = EXPECTED[name]["state"][str(i)]["exp_avg"]["values"]
                    for ours, theirs in zip(read[key + ".exp_avg"][1], said):
                        self.assertEqual(ours, struct.unpack("f", struct.pack("f", theirs))[0])

    def test_a_model_is_loaded_by_name_and_leaves_the_state(self):
        model = self.make()
        before = self.read(model)[0]
        said = self.put(model, fixture("model-parameters"), force="true").expect(200).json()
        self.assertEqual((said["generation"], said["version"]), ("2", "2"))
        read, _ = self.read(model)
        for key in SHAPES:
            self.assertEqual(list(read[key][1]), EXPECTED["model-parameters"][key]["values"])
            for suffix in (".exp_avg", ".exp_avg_sq", ".step"):
                self.assertEqual(list(read[key + suffix][1]), list(before[key + suffix][1]))

    def test_a_new_model_begins_with_a_file(self):
        model = self.make(start=None)
        self.put(model, fixture("adam")).expect(409, "INITIALIZING")
        self.put(model, fixture("model-parameters")).expect(200)
        self.assertEqual((model.generation, model.version), (1, 0))
        self.put(model, fixture("adam"), force="true").expect(200)
        self.assert_state(model, EXPECTED["adam"])

    def test_a_checkpoint_is_loaded_whole_or_by_path(self):
        model = self.make()
        self.put(model, fixture("checkpoint"), force="true").expect(200)
        self.assert_state(model, EXPECTED["checkpoint"]["optimizer"])
        read, _ = self.read(model)
        self.assertEqual(list(read["w"][1]), EXPECTED["checkpoint"]["model"]["w"]["values"])
        other = self.make(self.name + "2")
        self.put(other, fixture("checkpoint"), part="optimizer&force=true").expect(200)
        self.assert_state(other, EXPECTED["checkpoint"]["optimizer"])
        self.assertNotEqual(list(self.read(other)[0]["w"][1]), list(read["w"][1]))
        reply = self.assert_untouched(other, lambda: self.put(
            other, fixture("checkpoint"), part="optimiser&force=true"))
        reply.expect(404, "NOT_FOUND")
        self.assertIn('"optimizer"', reply.json()["message"])

    def test_parts_are_loaded_on_purpose(self):
        safetensors = {"Content-Type": "application/x-safetensors"}
        source = self.make("source", pushes=3)
        files = {"pt": (self.daemon.get(source.path + "/state", format="pt", content="all").expect(200).body, PT),
                 "safetensors": (source.get_state().body, safetensors)}
        full, _ = self.read(source)
        for form, (data, headers) in files.items():
            for load in ("weights", "moments", "reset"):
                with self.subTest(form=form, load=load):
                    model = self.make(f"{form}-{load}", start={k: [0] * len(v) for k, v in START.items()})
                    before, _ = self.read(model)
                    said = self.put(model, data, headers, force="true", load=load).expect(200).json()
                    after, _ = self.read(model)
                    version = {"weights": "2", "moments": "3", "reset": "0"}[load]
                    self.assertEqual(said.get("version"), version)
                    for key in SHAPES:
                        wanted = before if load == "moments" else full
                        self.assertEqual(list(after[key][1]), list(wanted[key][1]))
                        moment = {"weights": before, "moments": full}.get(load)
                        self.assertEqual(
                            list(after[key + ".exp_avg"][1]),
                            list(moment[key + ".exp_avg"][1]) if moment else [0] * model.count(key))

    def test_a_reset_needs_no_file(self):
        model = self.make()
        before, _ = self.read(model)
        self.put(model, b"", force="true", load="reset").expect(200)
        after, _ = self.read(model)
        self.assertEqual(list(after["w"][1]), list(before["w"][1]))
        self.assertEqual(list(after["w.step"][1]), [0])
        self.assertFalse(any(after["w.exp_avg"][1]))

    def test_a_file_is_known_by_its_first_bytes(self):
        for headers in ({}, {"Content-Type": "application/octet-stream"}):
            model = self.make(self.name + str(len(headers)))
            self.put(model, fixture("adam"), headers, force="true").expect(200)
            self.assert_state(model, EXPECTED["adam"])

    def test_it_goes_out_with_its_tags(self):
        model = self.make()
        query = {"format": "pt", "content": "all"}
        reply = self.daemon.get(model.path + "/state", **query).expect(200)
        self.assertEqual(reply.headers["content-type"], "application/x-pytorch")
        self.assertEqual(reply.headers["adamd-state-digest"], model.digest())
        head = self.daemon.request("HEAD", model.path + "/state", **query).expect(200)
        self.assertEqual(int(head.headers["content-length"]), len(reply.body))
        self.assertEqual(head.headers["etag"], reply.headers["etag"])
        self.daemon.get(model.path + "/state", headers={"If-None-Match": reply.headers["etag"]},
                        **query).expect(304)
        self.put(model, reply.body, {**PT, "If-Match": reply.headers["etag"]}).expect(200)
        self.assertEqual(model.digest(), reply.headers["adamd-state-digest"])
        for name, bad in (("format", {"format": "zip"}), ("content", {"format": "pt", "content": "x"}),
                          ("content", {"content": "model"})):
            self.assertEqual(self.daemon.get(model.path + "/state", **bad).expect(400).fields, [name])

    def test_hooks_and_their_average_come_with_the_whole(self):
        model = self.make(pushes=1)
        self.daemon.post(model.path + "/hooks", {"action": "ema"}).expect(200)
        model.register("w1").push([0.5] * 9).expect(200)
        saved = self.daemon.get(model.path + "/state", format="pt", content="all").expect(200)
        copy = self.make("copy", start=None)
        self.put(copy, saved.body).expect(200)
        self.assertEqual(copy.digest(), saved.headers["adamd-state-digest"])

    def test_every_difference_is_told(self):
        model = self.make(groups=GROUPS)
        reply = self.assert_untouched(model, lambda: self.put(model, fixture("adam"), force="true"))
        reply.expect(422, "LAYOUT_MISMATCH")
        self.assertIn("different number of parameter groups", reply.json()["message"])
        other = self.make(self.name + "2")
        bad = renamed(renamed(fixture("adam"), b"exp_avg", b"exp_awg"), b"eps", b"epz")
        reply = self.assert_untouched(other, lambda: self.put(other, bad, force="true")).expect(422)
        self.assertEqual(set(reply.fields), {
            "param_groups[0].eps", *(f"state[{i}].exp_av{c}" for i in range(3) for c in "g"),
            *(f"state[{i}].exp_awg" for i in range(3))})
        self.assertEqual(reply.metadata["differences"], "7")
        reply = self.put(other, fixture("adam-complex"), force="true").expect(422)
        self.assertIn("state[0].exp_avg", reply.fields)
        self.assertIn("complex64", reply.json()["message"])
        reply = self.put(other, fixture("model"), force="true").expect(422)
        self.assertLessEqual({"w", "b", "s", "0.weight"}, set(reply.fields))

    def test_a_file_that_is_none_changes_nothing(self):
        model = self.make()
        good = fixture("adam")
        flipped = bytearray(good)
        flipped[good.index(b"PK\x03\x04", 1000) - 40] ^= 1
        bad = {
            "compressed": repacked(good, zipfile.ZIP_DEFLATED), "cut": good[:-1], "longer": good + b"\n",
            "without a version": repacked(good, version=None), "a bit": bytes(flipped),
            "without a storage": repacked(good, data_0=None), "TorchScript": None,
            "os.system": repacked(good, data_pkl=b"\x80\x02cos\nsystem\nX\4\0\0\0true\x85R."),
            "a number": repacked(good, data_pkl=b"\x80\x02K\1."), "nothing": b"PK\3\4", "short": b"PK",
            "old": b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19." + bytes(100),
            "views": fixture("views"), "dtypes": fixture("dtypes"),
        }
        bad["TorchScript"] = repacked(good, data_0=None).replace(b"byteorder", b"constants")
        for name, data in bad.items():
            with self.subTest(name):
                reply = self.assert_untouched(model, lambda d=data: self.put(model, d, force="true"))
                self.assertIn(reply.status, (400, 413, 422, 501), reply)
                self.assertTrue(reply.json()["message"], reply)
        self.put(model, good).expect(428, "PRECONDITION_REQUIRED")
        self.put(model, good, force="true", load="half").expect(400, "BAD_FIELD")
        self.put(model, fixture("adam"), force="true", load="weights").expect(422)
        self.put(model, fixture("model-parameters"), force="true", load="moments").expect(422)
        self.put(model, good, force="true").expect(200)

    def test_an_upload_that_is_cut_changes_nothing(self):
        model = self.make()
        good = fixture("adam")

        def cut(size):
            with self.daemon.socket() as connected:
                connected.sendall(f"PUT {model.path}/state?force=true HTTP/1.1\r\nHost: t\r\n"
                                  f"Content-Type: application/x-pytorch\r\nContent-Length: {len(good)}"
                                  "\r\n\r\n".encode() + good[:size])
        for size in (0, 3, 4, 100, len(good) - 1):
            with self.subTest(size=size):
                self.assert_untouched(model, lambda s=size: cut(s))
        eventually(lambda: self.put(model, good, force="true").status == 200)

    @unittest.skipIf(is_sanitized(), "a sanitizer's memory is not the daemon's")
    def test_a_large_file_takes_its_own_size_and_an_array(self):
        shape = {"w": [4 << 20]}
        model = self.daemon.create_model("large", shape).initialize()

        def peak():
            text = pathlib.Path(f"/proc/{self.daemon.pid}/status").read_text()
            return int(text.split("VmHWM:")[1].split()[0]) << 10
        worker = model.register("w")
        worker.push(tensors.floats([0.5] * (4 << 20)).tobytes()).expect(200)
        data = self.daemon.get(model.path + "/state", format="pt", content="all", timeout=60).expect(200).body
        pathlib.Path(f"/proc/{self.daemon.pid}/clear_refs").write_text("5")
        before = peak()
        self.put(model, data, force="true").expect(200)
        self.assertLess(peak() - before, len(data) * 4 / 3 + (8 << 20))  # and one array of three


if __name__ == "__main__":
    unittest.main()
