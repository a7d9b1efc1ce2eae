"""The whole state out and in: every bit comes back, and a file that does not fit changes nothing."""

import json
import struct
import unittest

import tensors
from harness import Background, Daemon, DaemonTest, eventually

SHAPES = {"w": [2, 3], "b": [2], "s": [], "none": [0, 4]}
START = {"w": [1, 2, 3, 4, 5, 6], "b": [7, 8], "s": [9], "none": []}
GRAD = [0.1, -0.2, 0.3, -0.4, 0.5, -0.6, 0.7, -0.8, 0.9]
GROUPS = [{"params": ["b", "none"], "options": {"lr": 0.5, "amsgrad": True}},
          {"params": ["w", "s"], "options": {"weightDecay": 0.1}}]


def replaced(data, **changes):
    """The file with other metadata; None removes."""
    read, metadata = tensors.read_safetensors(data)
    for key, value in changes.items():
        key = "adamd." + key
        metadata = {k: v for k, v in metadata.items() if k != key}
        if value is not None:
            metadata[key] = value
    return tensors.write_safetensors(read, metadata)


def without(data, *keys):
    read, metadata = tensors.read_safetensors(data)
    metadata.pop("adamd.state_digest", None)
    return tensors.write_safetensors({k: v for k, v in read.items() if k not in keys}, metadata)


class State(DaemonTest):
    def make(self, name=None, pushes=3):
        model = self.daemon.create_model(
            name or self.name, SHAPES, groups=GROUPS, start=START)
        worker = model.register("w0")
        for _ in range(pushes):
            worker.push(GRAD).expect(200)
        if pushes:
            worker.push({"b": [1, 1]}).expect(200)
        return model

    def test_it_holds_everything_under_pytorchs_names(self):
        model = self.make()
        reply = model.get_state()
        read, metadata = tensors.read_safetensors(reply.body)
        suffixes = ("", ".exp_avg", ".exp_avg_sq", ".step")
        self.assertLessEqual({k + s for k in SHAPES for s in suffixes}, set(read))
        self.assertIn("b.max_exp_avg_sq", read)
        self.assertEqual([list(read[k + ".step"][1]) for k in SHAPES], [[3], [4], [3], [3]])
        self.assertEqual({k: read[k][0] for k in SHAPES}, SHAPES)
        self.assertEqual((metadata["format"], metadata["adamd.version"]), ("pt", "4"))
        self.assertEqual(metadata["adamd.state_digest"], reply.headers["adamd-state-digest"])
        groups = json.loads(metadata["adamd.param_groups"])
        self.assertEqual([g["params"] for g in groups], [["b", "none"], ["w", "s"]])
        self.assertEqual([(g["lr"], g["amsgrad"], g["weight_decay"]) for g in groups],
                         [(0.5, True, 0), (0.001, False, 0.1)])
        self.assertEqual((reply.headers["adamd-version"], reply.headers["adamd-generation"]),
                         ("4", str(model.generation)))

    def test_it_comes_back_bit_for_bit_in_another_daemon(self):
        model = self.make()
        saved = model.get_state()
        with Daemon() as other:
            copy = other.create_model("copy", SHAPES, groups=GROUPS)
            said = copy.put_state(saved.body).expect(200).json()
            self.assertEqual((said["state"], said["version"]), ("STATE_ACTIVE", "4"))
            self.assertTrue(copy.get_state().body == saved.body)
            for m in (model, copy):
                m.register("w9").push(GRAD).expect(200)
            self.assertEqual(copy.digest(), model.digest())

    def test_parameters_alone_begin_anew(self):
        model = self.make()
        reply = model.put_parameters(START).json()
        read, _ = tensors.read_safetensors(model.get_state().body)
        self.assertEqual(list(read["w"][1]), START["w"])
        for key, (_, values) in read.items():
            if key not in SHAPES:
                self.assertFalse(any(values), key)
        self.assertEqual(reply["paramGroups"][0]["options"]["lr"], 0.5)

    def test_a_state_is_replaced_only_by_those_who_know_which(self):
        model = self.make()
        saved = model.get_state()
        self.assert_untouched(model, lambda: model.put_state(saved.body).expect(
            428, "PRECONDITION_REQUIRED"))
        self.assert_untouched(model, lambda: model.put_state(
            saved.body, {"If-Match": '"g1.v1.st"'}).expect(412, "ETAG_MISMATCH"))
        model.put_state(saved.body, {"If-Match": saved.headers["etag"]}).expect(200)
        self.assertEqual(model.generation, 2)
        self.assertEqual(model.digest(), saved.headers["adamd-state-digest"])

    def test_a_file_that_does_not_fit_changes_nothing(self):
        model = self.make()
        good = model.get_state().body
        read, metadata = tensors.read_safetensors(good)

        def other(key, shape, values):
            return tensors.write_safetensors({**read, key: (shape, values)})

        flipped = bytearray(good)
        flipped[-8] ^= 1
        bad = {
            "one bit": bytes(flipped),
            "another digest": replaced(good, state_digest="0" * 32),
            "no digest at all in it": replaced(good, state_digest="x"),
            "a parameter missing": without(good, "w"),
            "an unknown tensor": other("x", [1], tensors.floats([1])),
            "transposed": other("w", [3, 2], read["w"][1]),
            "another type": other("w", [3], tensors.from_bytes("q", b"\0" * 24)),
            "a step that is a float": other("b.step", [], tensors.floats([4])),
            "a negative step": other("b.step", [], tensors.from_bytes("q", b"\xff" * 8)),
            "a moment of another shape": other("b.exp_avg", [3], tensors.floats([1, 2, 3])),
            "groups that are not JSON": replaced(good, param_groups="{", state_digest=None),
            "groups of others": replaced(good, param_groups='[{"params":["x"]}]', state_digest=None),
            "a bad learning rate": replaced(
                good, state_digest=None,
                param_groups=metadata["adamd.param_groups"].replace('"lr":0.5', '"lr":-1')),
            "a version that is none": replaced(good, version="many", state_digest=None),
            "another format": replaced(good, format="99", state_digest=None),
            "cut": good[:-4], "cut in the header": good[:40], "nothing": b"",
            "bytes behind": good + b"1234",
            "a header beyond the file": struct.pack("<Q", 1 << 50) + good[8:],
        }
        for name, body in bad.items():
            with self.subTest(name):
                reply = self.assert_untouched(
                    model, lambda b=body: model.put_state(b, force="true"))
                self.assertIn(reply.status, (400, 411, 413, 422, 501), reply)
                self.assertTrue(reply.reason, reply)
        model.register("w1").push(GRAD).expect(200)

    def test_an_upload_that_is_cut_changes_nothing(self):
        model = self.make()
        good = model.get_state().body
        def cut(size):
            with self.daemon.socket() as connected:
                connected.sendall(f"PUT {model.path}/state?force=true HTTP/1.1\r\nHost: t\r\n"
                                  "Content-Type: application/x-safetensors\r\n"
                                  f"Content-Length: {len(good)}\r\n\r\n".encode() + good[:size])
        for size in (0, 7, 9, 200, len(good) - 1):
            with self.subTest(size=size):
                self.assert_untouched(model, lambda s=size: cut(s))
        eventually(lambda: model.put_state(good, force="true").status == 200)

    def test_it_is_of_one_version_while_pushes_go_on(self):
        model = self.make(pushes=0)
        worker = model.register("w1")

        def pushes():
            for _ in range(60):
                worker.push(GRAD).expect(200)
        call = Background(pushes)
        seen = set()
        while not call.done():
            reply = self.daemon.get(model.path + "/state")
            if reply.status == 409:
                self.assertEqual(reply.reason, "OPERATION_RUNNING")
                continue
            read, metadata = tensors.read_safetensors(reply.expect(200).body)
            steps = {list(read[k + ".step"][1])[0] for k in SHAPES}
            self.assertEqual(steps, {int(metadata["adamd.version"])})
            seen.add(steps.pop())
        call.result()
        self.assertGreater(len(seen), 1)


if __name__ == "__main__":
    unittest.main()
