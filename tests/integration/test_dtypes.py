"""Every dtype over the wire: what goes in and out has the parameter's type, and the steps are those of
PyTorch in that type, to the bit."""

import json
import unittest

import tensors
from adam import Adam
from harness import DaemonTest

SHAPES = {"single": [3], "half": [5], "brain": [2, 3], "double": [4], "one": []}
DTYPES = {"half": "FLOAT16", "brain": "BFLOAT16", "double": "FLOAT64", "one": "BFLOAT16"}
FILE_TYPES = {"single": "F32", "half": "F16", "brain": "BF16", "double": "F64", "one": "BF16"}
START = {"single": [1, -2, 0.5], "half": [0.1, -3, 7, 1e-3, 60], "brain": [1, 2, 3, -4, 0.25, 9],
         "double": [1 / 3, -1e-9, 1e9, 0], "one": [0.7]}


def grads(step):
    """Different at each step, with a zero among them."""
    return {key: [(i - 1.5) * (step + 0.3) * 1.7 ** (i - step) if i != 2 else 0.0
                  for i in range(len(values))] for key, values in START.items()}


def file_of(values, types=None, shapes=None):
    types = {**FILE_TYPES, **(types or {})}
    return tensors.write_safetensors(
        {key: ((shapes or SHAPES)[key], types[key], tensors.encode(types[key], v))
         for key, v in values.items()})


SAFETENSORS = {"Content-Type": "application/x-safetensors"}


class Dtypes(DaemonTest):
    def make(self, name=None, **options):
        model = self.daemon.create_model(name or self.name, SHAPES, dtypes=DTYPES, **options)
        model.put_state(file_of(START), force="true").expect(200)
        return model

    def push_file(self, worker, values, **types):
        return worker.push(file_of(values, types), headers=SAFETENSORS)

    def test_a_mixed_model_says_what_its_tensors_are(self):
        self.make()
        told = self.daemon.get(f"/v1/models/{self.name}").expect(200).json()
        types = {t["key"]: t["dataType"] for t in told["tensors"]}
        self.assertEqual(types, {key: "DATA_TYPE_" + DTYPES.get(key, "FLOAT32") for key in SHAPES})
        self.assertEqual(int(told["byteSize"]), 3 * 4 + 5 * 2 + 6 * 2 + 4 * 8 + 2)

    def test_each_rounding_steps_as_pytorch_does(self):
        cases = {
            "loop": {"foreach": None}, "foreach": {"foreach": True}, "fused": {"fused": True},
            "loop-l2": {"weight_decay": 0.1, "amsgrad": True},
            "foreach-decoupled": {"foreach": True, "weight_decay": 0.1,
                                  "decoupled_weight_decay": True},
            "fused-l2": {"fused": True, "weight_decay": 0.1, "maximize": True, "betas": (0.4, 0.9)},
        }
        for name, options in cases.items():
            with self.subTest(name):
                options = {"lr": 0.01, "eps": 1e-3, **options}
                model = self.make(name=f"rounding-{name}", **options)
                worker = model.register("w0")
                expected = Adam(START, FILE_TYPES, **options)
                for step in range(4):
                    values = grads(step)
                    if step == 2:
                        del values["brain"]  # None: not touched
                    self.push_file(worker, values).expect(200)
                    expected.step(values)
                state, _ = tensors.read_safetensors(model.get_state().body)
                for key in SHAPES:
                    self.assertEqual(list(state[key][1]), list(expected.params[key]), key)
                    self.assertEqual(list(state[key + ".exp_avg"][1]),
                                     list(expected.exp_avg[key]), key)
                    self.assertEqual(list(state[key + ".exp_avg_sq"][1]),
                                     list(expected.exp_avg_sq[key]), key)
                    self.assertEqual(list(state[key + ".step"][1]), [expected.steps[key]])

    def test_raw_bytes_and_files_are_the_same_push(self):
        digests = []
        for form in ("raw", "file"):
            model = self.make(name=f"form-{form}")
            worker = model.register("w0")
            values = grads(1)
            if form == "raw":
                body = b"".join(tensors.encode(FILE_TYPES[k], values[k]) for k in SHAPES)
                worker.push(body).expect(200)
            else:
                self.push_file(worker, values).expect(200)
            digests.append(model.digest())
        self.assertEqual(digests[0], digests[1])

    def test_parameters_and_state_come_in_the_parameters_types(self):
        model = self.make(amsgrad=True)
        worker = model.register("w0")
        self.push_file(worker, grads(0)).expect(200)
        pulled = model.pull().expect(200).body
        self.assertEqual(tensors.read_dtypes(pulled), FILE_TYPES)
        state = model.get_state().body
        types = tensors.read_dtypes(state)
        for key, kind in FILE_TYPES.items():
            for suffix in ("", ".exp_avg", ".exp_avg_sq", ".max_exp_avg_sq"):
                self.assertEqual(types[key + suffix], kind)
            self.assertEqual(types[key + ".step"], "I64")
        raw = model.pull(format="raw").expect(200).body
        read, _ = tensors.read_safetensors(pulled)
        self.assertEqual(raw, b"".join(tensors.encode(FILE_TYPES[k], read[k][1]) for k in SHAPES))

    def test_a_state_comes_back_whole(self):
        model = self.make()
        worker = model.register("w0")
        self.push_file(worker, grads(0)).expect(200)
        state, digest = model.get_state().body, model.digest()
        other = self.daemon.create_model(self.name + "-copy", SHAPES, dtypes=DTYPES)
        other.put_state(state, force="true").expect(200)
        self.assertEqual(other.digest(), digest)

    def test_another_type_is_refused_with_the_tensors_name(self):
        model = self.make()
        worker = model.register("w0")
        reply = self.push_file(worker, grads(0), half="BF16")
        reply.expect(422, "LAYOUT_MISMATCH")
        self.assertIn("half", json.dumps(reply.json()))
        reply = self.push_file(worker, grads(0), double="F32")
        reply.expect(422, "LAYOUT_MISMATCH")
        self.assertIn("double", json.dumps(reply.json()))
        self.assertEqual(model.version, 0)

    def test_values_past_the_type_are_not_finite_there(self):
        model = self.make()
        worker = model.register("w0")
        values = grads(0)
        values["half"][0] = 1e6  # infinite in float16
        self.push_file(worker, values).expect(422, "NONFINITE")
        values["half"][0] = 0.0
        values["double"][0] = 1e300
        self.push_file(worker, values).expect(200)

    def test_gradients_accumulate_in_their_type(self):
        model = self.make(policy={"trigger": "TRIGGER_MANUAL"})
        worker = model.register("w0")
        first, second = grads(0), grads(3)
        self.push_file(worker, first).expect(200)
        self.push_file(worker, second).expect(200)
        model.step({}).expect(200)
        encode, decode = tensors.encode, tensors.decode
        sums = {}
        for key, kind in FILE_TYPES.items():
            a, b = (decode(kind, encode(kind, v[key])) for v in (first, second))
            sums[key] = [x + y for x, y in zip(a, b)]
        expected = Adam(START, FILE_TYPES)
        expected.step(sums)
        read, _ = tensors.read_safetensors(model.pull().expect(200).body)
        for key in SHAPES:
            if key != "half":  # whose eps is 0: a zero gradient makes it NaN, as in PyTorch
                self.assertEqual(list(read[key][1]), list(expected.params[key]), key)

    def test_eps_is_zero_in_float16(self):
        model = self.make()
        worker = model.register("w0")
        self.push_file(worker, grads(0)).expect(200)
        read, _ = tensors.read_safetensors(model.pull().expect(200).body)
        self.assertNotEqual(read["half"][1][2], read["half"][1][2])  # NaN
        self.assertEqual(read["brain"][1][2], 3)


class Complex(DaemonTest):
    SHAPES = {"c": [2], "z": [1, 2]}
    DTYPES = {"c": "COMPLEX64", "z": "COMPLEX128"}
    FILE_SHAPES = {"c": [2], "z": [1, 2, 2]}
    TYPES = {"c": "C64", "z": "F64"}

    def file(self, values):
        return file_of(values, self.TYPES, self.FILE_SHAPES)

    def test_they_step_as_pairs(self):
        model = self.daemon.create_model(self.name, self.SHAPES, dtypes=self.DTYPES, lr=0.1)
        start = {"c": [1, 2, 0, -1], "z": [1, 2, 5, 6]}
        model.put_state(self.file(start), force="true").expect(200)
        worker = model.register("w0")
        grad = {"c": [3, -4, 0.5, 0], "z": [3, -4, 1, 1]}
        worker.push(self.file(grad), headers=SAFETENSORS).expect(200)
        expected = Adam(start, {"c": "F32", "z": "F64"}, lr=0.1)
        expected.step(grad)
        body = model.pull().expect(200).body
        read, metadata = tensors.read_safetensors(body)
        self.assertEqual(tensors.read_dtypes(body), self.TYPES)
        self.assertEqual({k: v[0] for k, v in read.items()}, self.FILE_SHAPES)
        self.assertEqual(metadata["adamd.complex128"], "z")
        for key in start:
            self.assertEqual(list(read[key][1]), list(expected.params[key]))
        self.assertAlmostEqual(read["z"][1][0], 0.9)
        self.assertAlmostEqual(read["z"][1][1], 2.1)

    def test_their_state_comes_back_whole(self):
        model = self.daemon.create_model(self.name, self.SHAPES, dtypes=self.DTYPES)
        model.put_state(self.file({"c": [1, 2, 3, 4], "z": [5, 6, 7, 8]}), force="true").expect(200)
        worker = model.register("w0")
        worker.push(self.file({"z": [1, -1, 2, -2]}), headers=SAFETENSORS).expect(200)
        other = self.daemon.create_model(self.name + "-copy", self.SHAPES, dtypes=self.DTYPES)
        state = model.get_state().body
        self.assertEqual(tensors.read_safetensors(state)[1]["adamd.complex128"], "z")
        other.put_state(state, force="true").expect(200)
        self.assertEqual(other.digest(), model.digest())

    def test_a_wrong_shape_is_refused(self):
        model = self.daemon.create_model(self.name, self.SHAPES, dtypes=self.DTYPES).initialize()
        worker = model.register("w0")
        flat = tensors.write_safetensors({"z": ([1, 2], "F64", tensors.encode("F64", [1, 2]))})
        reply = worker.push(flat, headers=SAFETENSORS)
        reply.expect(422, "LAYOUT_MISMATCH")
        self.assertIn("[1,2,2]", json.dumps(reply.json()))


if __name__ == "__main__":
    unittest.main()
