"""What PyTorch says about gradients, sentence by sentence: None against zero, zero_grad, accumulation,
and new parameters that begin by themselves."""

import unittest

import tensors
from adam import Adam
from harness import DaemonTest

START = {"w": [1, -2, 0.5], "b": [3, 4]}
SHAPES = {"w": [3], "b": [2]}
DECAY = {"lr": 0.1, "weightDecay": 0.5, "decoupledWeightDecay": True}


class Gradients(DaemonTest):
    def make(self, **options):
        model = self.daemon.create_model(
            self.name, SHAPES, {"trigger": "TRIGGER_MANUAL"}, start=START, **options)
        return model, model.register("a")

    def whole(self, model):
        """Every tensor of the state file, parameters, moments and steps."""
        read, _ = tensors.read_safetensors(model.get_state().body)
        return {key: list(values) for key, (_, values) in read.items()}

    def assert_alike(self, model, reference):
        state = self.whole(model)
        for key in reference.params:
            self.assertEqual(state[key], list(reference.params[key]), key)
            self.assertEqual(state[key + ".exp_avg"], list(reference.exp_avg[key]), key)
            self.assertEqual(state[key + ".exp_avg_sq"], list(reference.exp_avg_sq[key]), key)
            self.assertEqual(state[key + ".step"], [reference.steps[key]], key)

    def test_none_leaves_the_parameter_alone_wholly(self):
        """No step count, no weight decay, no decay of the moments."""
        model, worker = self.make(**DECAY)
        worker.push([1, 2, 3, 4, 5]).expect(200)
        model.step().expect(200)
        before = self.whole(model)
        model.zero_grad().expect(200)
        worker.push({"w": [1, 1, 1]}).expect(200)
        model.step().expect(200)
        after = self.whole(model)
        for key in before:
            check = self.assertEqual if key.startswith("b") else self.assertNotEqual
            check(after[key], before[key], key)

    def test_all_none_is_a_step_that_does_nothing_and_returns(self):
        model, worker = self.make(**DECAY)
        reply = self.assert_untouched(model, model.step)
        self.assertNotIn("record", reply.expect(200).json())
        worker.push([1] * 5).expect(200)
        model.step().expect(200)
        model.zero_grad().expect(200)
        self.assert_untouched(model, model.step).expect(200)
        self.assertEqual(model.version, 1)

    def test_zero_is_stepped(self):
        """State is made, t counts, weight decay applies: 1 becomes 0.95."""
        model, worker = self.make(**DECAY)
        worker.push([0] * 5).expect(200)
        model.step().expect(200)
        state = self.whole(model)
        self.assertAlmostEqual(state["w"][0], 0.95, places=6)
        self.assertEqual((state["w.step"], state["w.exp_avg"]), ([1], [0, 0, 0]))

    def test_momentum_goes_on_with_zero_gradients(self):
        model, worker = self.make()
        reference = Adam(START)
        for gradient in ([1, 2, 3, 4, 5], [0] * 5, [0] * 5):
            model.zero_grad().expect(200)
            worker.push(gradient).expect(200)
            before = self.whole(model)["w"]
            model.step().expect(200)
            reference.step({"w": gradient[:3], "b": gradient[3:]})
            self.assertNotEqual(self.whole(model)["w"], before)
        self.assert_alike(model, reference)

    def test_zero_gradients_from_fresh_state_move_nothing(self):
        model, worker = self.make()
        worker.push([0] * 5).expect(200)
        model.step().expect(200)
        self.assertEqual(self.whole(model)["w"], START["w"])

    def test_zero_grad_makes_none_by_default(self):
        for name, body in (("unset", None), ("true", {"setToNone": True})):
            with self.subTest(name):
                model = self.daemon.create_model(
                    f"{self.name}-{name}", SHAPES, {"trigger": "TRIGGER_MANUAL"}, start=START)
                worker = model.register("a")
                worker.push([1] * 5).expect(200)
                model.zero_grad(body).expect(200)
                self.assert_untouched(model, model.step).expect(200)

    def test_zero_grad_without_none_makes_zeros_and_none_stays_none(self):
        model, worker = self.make(**DECAY)
        worker.push({"w": [1, 2, 3]}).expect(200)
        model.zero_grad({"setToNone": False}).expect(200)
        model.step().expect(200)
        state = self.whole(model)
        self.assertEqual((state["w.step"], state["b.step"]), ([1], [0]))
        self.assertEqual((state["w.exp_avg"], state["b"]), ([0, 0, 0], START["b"]))
        # Nothing at all: nothing becomes of it.
        model.zero_grad().expect(200)
        model.zero_grad({"setToNone": False}).expect(200)
        self.assert_untouched(model, model.step).expect(200)

    def test_a_second_push_adds(self):
        model, worker = self.make()
        reference = Adam(START)
        worker.push([1, 2, 3, 4, 5]).expect(200)
        worker.push({"b": [0.5, 0.25]}).expect(200)
        model.step().expect(200)
        reference.step({"w": [1, 2, 3], "b": [4.5, 5.25]})
        self.assert_alike(model, reference)

    def test_a_push_may_replace(self):
        """Only what it has; the others keep theirs."""
        model, worker = self.make()
        reference = Adam(START)
        worker.push([1, 2, 3, 4, 5]).expect(200)
        worker.push({"b": [0.5, 0.25]}, replace="true").expect(200)
        model.step().expect(200)
        reference.step({"w": [1, 2, 3], "b": [0.5, 0.25]})
        self.assert_alike(model, reference)

    def test_a_replacement_may_be_the_first(self):
        model, worker = self.make()
        reference = Adam(START)
        worker.push({"w": [1, 2, 3]}, replace="true").expect(200)
        worker.push({"b": [1, 1]}).expect(200)
        model.step().expect(200)
        reference.step({"w": [1, 2, 3], "b": [1, 1]})
        self.assert_alike(model, reference)

    def test_gradients_stay_until_they_are_zeroed(self):
        model, worker = self.make()
        reference = Adam(START)
        worker.push([1, 2, 3, 4, 5]).expect(200)
        for _ in range(2):
            model.step().expect(200)
            reference.step({"w": [1, 2, 3], "b": [4, 5]})
        worker.push({"w": [1, 1, 1]}).expect(200)
        model.step().expect(200)
        reference.step({"w": [2, 3, 4], "b": [4, 5]})
        self.assert_alike(model, reference)

    def test_each_parameter_counts_its_own_steps(self):
        """One that was frozen for a while has another bias correction than its neighbour."""
        model, worker = self.make(lr=0.1)
        reference = Adam(START, lr=0.1)
        for gradient in ({"w": [1, 2, 3]}, {"w": [3, 2, 1]}, {"w": [1, 1, 1], "b": [1, -1]}):
            model.zero_grad().expect(200)
            worker.push(gradient).expect(200)
            model.step().expect(200)
            reference.step(gradient)
        self.assertEqual(reference.steps, {"w": 3, "b": 1})
        self.assert_alike(model, reference)

    def test_new_parameters_begin_at_step_0_and_earlier_ids_stay(self):
        model, worker = self.make()
        reference = Adam({**START, "n": [1, 1]})
        worker.push([1, 2, 3, 4, 5]).expect(200)
        model.step().expect(200)
        reference.step({"w": [1, 2, 3], "b": [4, 5]})
        before = [(t["index"], t["key"], t["flatOffset"]) for t in model.get()["tensors"]]
        body = tensors.write_safetensors({"n": ([2], tensors.floats([1, 1]))})
        self.daemon.post(model.path + "/groups", body,
                         headers={"Content-Type": "application/x-safetensors"}).expect(200)
        after = [(t["index"], t["key"], t["flatOffset"]) for t in model.get()["tensors"]]
        self.assertEqual(after, before + [(2, "n", "20")])
        model.zero_grad().expect(200)
        worker.push([1] * 7).expect(200)
        model.step().expect(200)
        reference.step({"w": [1] * 3, "b": [1] * 2, "n": [1] * 2})
        self.assert_alike(model, reference)

    def test_a_shape_that_is_none_of_the_parameters_is_refused(self):
        model, worker = self.make()
        for body, reason in ((tensors.write_safetensors({"w": ([1, 3], tensors.floats([1, 2, 3]))}),
                              "LAYOUT_MISMATCH"),
                             (tensors.write_safetensors({"x": ([3], tensors.floats([1, 2, 3]))}),
                              "LAYOUT_MISMATCH")):
            reply = worker.push(body, headers={"Content-Type": "application/x-safetensors"})
            self.assertEqual((reply.status, reply.reason), (422, reason), reply)
        self.assert_untouched(model, model.step).expect(200)


if __name__ == "__main__":
    unittest.main()
