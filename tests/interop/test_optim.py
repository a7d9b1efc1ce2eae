"""What PyTorch's own tests ask of torch.optim.Adam and AdamW, asked of RemoteAdam and RemoteAdamW.

Each case is asked of PyTorch's classes, too: a case that they fail is wrong itself.
"""

import copy
import unittest

import support
import torch
from optim_cases import (CONFIGS, KINDS, TOLERANCES, Line, Network, advance, assert_close, configs,
                         rosenbrock, schedulers)
from subject import Remote, Torch, needs_current, parameter, torchs, train

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Cases:
    def refused(self, error, text, kind, parameters, **options):
        with self.subTest(text):
            with self.assertRaises(error) as caught:
                self.make(kind, parameters, **options)
            self.assertIn(text, str(caught.exception))

    # -------------------------------------------------------------------------------- errors

    def test_what_the_constructor_refuses(self):
        one, two = parameter(1.0), parameter(2.0)
        for kind in KINDS:
            self.refused(TypeError, "params argument given to the optimizer should be an iterable of "
                         "Tensors or dicts, but got", kind, one)
            self.refused(ValueError, "optimizer got an empty parameter list", kind, [])
            self.refused(ValueError, "some parameters appear in more than one parameter group", kind,
                         [{"params": [one]}, {"params": [one, two]}])
            self.refused(TypeError, "optimizer can only optimize Tensors, but one of the params is", kind,
                         [one, 5])
            self.refused(ValueError, "can't optimize a non-leaf Tensor", kind, [one * 2])
            self.refused(TypeError, "optimizer parameters need to be organized in ordered collections",
                         kind, [{"params": {one, two}}])
            self.refused(ValueError, "Invalid learning rate: -0.1", kind, [one], lr=-0.1)
            self.refused(ValueError, "Invalid epsilon value: -1.0", kind, [one], eps=-1.0)
            self.refused(ValueError, "Invalid beta parameter at index 0: 1.0", kind, [one],
                         betas=(1.0, 0.0))
            self.refused(ValueError, "Invalid beta parameter at index 1: 1.5", kind, [one],
                         betas=(0.5, 1.5))
            self.refused(ValueError, "Invalid weight_decay value: -1", kind, [one], weight_decay=-1)
            self.refused(ValueError, "Invalid learning rate: nan", kind, [one], lr=float("nan"))

    @needs_current
    def test_what_newer_constructors_refuse(self):
        one, two = parameter(1.0), parameter(2.0)
        tensor = torch.tensor
        for kind in KINDS:
            self.refused(ValueError, "lr as a Tensor is not supported for capturable=False and foreach=True",
                         kind, [one], lr=tensor(0.001), foreach=True)
            self.refused(ValueError, "Tensor lr must be 1-element", kind, [one], lr=tensor([0.1, 0.2]))
            self.refused(ValueError, "betas must be either both floats or both Tensors", kind, [one],
                         betas=(0.9, tensor(0.99)))
            self.refused(ValueError, "betas must be either both floats or both Tensors", kind, [one],
                         betas=(tensor(0.9), 0.99))
            self.refused(ValueError, "betas must be either both floats or both Tensors", kind, [one],
                         betas=(0, 0.99))
            self.refused(ValueError, "betas[0] as a Tensor is not supported for capturable=False and "
                         "foreach=True", kind, [one], betas=(tensor(0.9), tensor(0.99)), foreach=True)
            self.refused(RuntimeError, "`fused` and `foreach` cannot be `True` together.", kind, [one],
                         fused=True, foreach=True)
            self.refused(RuntimeError, "`fused` does not support `differentiable`", kind, [one],
                         fused=True, differentiable=True)
            self.refused(ValueError, "all optimizer params should be with/without names. Some param names "
                         "are missing", kind, [("one", one), two])
            self.refused(ValueError, "all optimizer param groups should be with/without names. cannot add "
                         "param group with names to the optimizer", kind,
                         [{"params": [one]}, {"params": [("two", two)]}])

    def test_a_parameter_twice_in_a_group_is_warned_of(self):
        one = parameter(1.0)
        with self.assertWarnsRegex(UserWarning, "a parameter group with duplicate parameters"):
            self.make("Adam", [{"params": [one, one]}])

    def test_sparse_gradients_are_refused(self):
        weight = torch.nn.Parameter(torch.ones(4, 2))
        optimizer = self.make("Adam", [weight])
        weight.grad = torch.sparse_coo_tensor([[1]], torch.ones(1, 2), (4, 2))
        with self.assertRaisesRegex(RuntimeError, "Adam does not support sparse gradients, please "
                                    "consider SparseAdam instead"):
            optimizer.step()
        self.assertTrue(bool((weight == 1).all()))

    # ----------------------------------------------------------------------------- direction

    def test_it_goes_in_the_right_direction(self):
        for contiguous in (True, False):
            for row, makers in enumerate(schedulers()):
                for kind in KINDS:
                    for maximize in (False, True):
                        with self.subTest(kind=kind, row=row, contiguous=contiguous, maximize=maximize):
                            line = Line(contiguous)
                            optimizer = self.make(kind, line.parameters, lr=0.01, maximize=maximize)
                            self.go(line, optimizer, makers, maximize)

    def test_groups_of_different_rates_go_in_the_right_direction(self):
        for row, makers in enumerate(schedulers()):
            with self.subTest(row=row):
                line = Line()
                groups = [{"params": [line.weight]}, {"params": [line.bias], "lr": 0.01}]
                self.go(line, self.make("AdamW", groups, lr=0.001), makers, False)

    def go(self, line, optimizer, makers, maximize):
        made = [maker(optimizer) for maker in makers]
        first = float(line.loss())
        for _ in range(20):
            loss = optimizer.step(line.closure(optimizer))
            self.assertIsInstance(loss, torch.Tensor)
            advance(made, loss)
        last = float(line.loss())
        self.assertTrue(last > first if maximize else last < first, f"from {first} to {last}")

    def test_step_returns_the_closures_loss_and_calls_it_once(self):
        weight = parameter(1.0, 2.0)
        optimizer = self.make("Adam", [weight])
        calls = []

        def closure():
            self.assertTrue(torch.is_grad_enabled())
            calls.append(1)
            optimizer.zero_grad()
            loss = weight.pow(2).sum()
            loss.backward()
            return loss
        self.assertEqual(float(optimizer.step(closure)), 5)
        self.assertEqual(len(calls), 1)
        self.assertIsNone(optimizer.step())

    # -------------------------------------------------------------------------- tensor options

    def test_a_rate_that_is_a_tensor(self):
        for path in self.paths:
            for kind in KINDS:
                for options in CONFIGS:
                    if path.get("foreach"):
                        continue  # which refuses it, above
                    with self.subTest(kind=kind, **options, **path):
                        self.same_with_tensors(kind, {**options, **path}, {"lr": 1e-3},
                                               {"lr": torch.tensor(1e-3)})

    @needs_current
    def test_betas_that_are_tensors(self):
        for kind in KINDS:
            betas = (torch.tensor([[[0.9]]]), torch.tensor([[0.99]]))
            self.same_with_tensors(kind, {"amsgrad": True}, {"lr": 1e-3, "betas": (0.9, 0.99)},
                                   {"lr": torch.tensor(1e-3), "betas": betas})

    def same_with_tensors(self, kind, options, floats, tensors):
        networks = [Network(torch.float32) for _ in range(2)]
        options = {name: value for name, value in options.items() if name not in floats}
        optimizers = [torchs(kind, list(networks[0].parameters()), **options, **floats),
                      self.make(kind, list(networks[1].parameters()), **options, **tensors)]
        for _ in range(5):
            train(networks, optimizers)
            assert_close(list(networks[1].parameters()), list(networks[0].parameters()))

    # --------------------------------------------------------------------------------- complex

    @needs_current
    def test_complex_parameters_are_pairs_of_real_ones(self):
        self.every(self.check_complex_parameters_are_pairs_of_real_ones, paths=self.paths[:2])

    def check_complex_parameters_are_pairs_of_real_ones(self, kind, options):
        torch.manual_seed(3)
        pairs = torch.randn(5, 2, dtype=torch.float64)
        whole = torch.nn.Parameter(torch.view_as_complex(pairs.clone()))
        halves = torch.nn.Parameter(pairs.clone())
        mixed = [torch.nn.Parameter(torch.full((2,), 0.5, dtype=torch.float64)) for _ in range(2)]
        optimizers = [torchs(kind, [halves, mixed[0]], **options),
                      self.make(kind, [whole, mixed[1]], **options)]
        for step in range(3):
            gradient = torch.randn(5, 2, dtype=torch.float64)
            halves.grad, whole.grad = gradient, torch.view_as_complex(gradient.clone())
            mixed[0].grad = mixed[1].grad = torch.tensor([step - 1.0, 2.0], dtype=torch.float64)
            for optimizer in optimizers:
                optimizer.step()
            assert_close(torch.view_as_real(whole.detach()), halves.detach())
            assert_close(mixed[1], mixed[0])
            states = [optimizer.state_dict()["state"][0] for optimizer in optimizers]
            self.assertEqual(states[1]["exp_avg"].dtype, torch.complex128)
            for name, value in states[0].items():
                got = states[1][name]
                assert_close(torch.view_as_real(got) if got.is_complex() else got, value)

    @needs_current
    def test_a_complex_valley_is_two_real_ones(self):
        self.every(self.check_a_complex_valley_is_two_real_ones, paths=self.paths[:2])

    def check_a_complex_valley_is_two_real_ones(self, kind, options):
        torch.manual_seed(4)
        start = torch.randn(2, dtype=torch.complex64)
        whole = torch.nn.Parameter(start.clone())
        real, imaginary = (torch.nn.Parameter(half.clone()) for half in (start.real, start.imag))
        optimizers = [torchs(kind, [real, imaginary], **options), self.make(kind, [whole], **options)]
        for _ in range(3):
            for optimizer, point in zip(optimizers, (lambda: torch.complex(real, imaginary),
                                                     lambda: whole)):
                optimizer.zero_grad()
                rosenbrock(*point()).abs().backward()
                optimizer.step()
            assert_close(whole.detach(), torch.complex(real, imaginary).detach())

    # ---------------------------------------------------------------------------- against itself

    def follow(self, kind, options, path, dtype, tolerance=None):
        """Seven steps beside PyTorch's for-loop, with parameters that have no gradient now and then."""
        networks = [Network(dtype) for _ in range(2)]
        optimizers = [torchs(kind, list(networks[0].parameters()), foreach=False, **options),
                      self.make(kind, list(networks[1].parameters()), **path, **options)]
        for step in range(7):
            train(networks, optimizers, forget=step == 2, freeze=step in (3, 4))
            assert_close(list(networks[1].parameters()), list(networks[0].parameters()), tolerance)
            states = [optimizer.state_dict()["state"] for optimizer in optimizers]
            self.assertEqual(states[1].keys(), states[0].keys())
            for number, state in states[0].items():
                self.assertEqual(float(states[1][number]["step"]), float(state["step"]))
                assert_close({name: value for name, value in states[1][number].items() if name != "step"},
                             {name: value for name, value in state.items() if name != "step"}, tolerance)
            if step % 2:
                self.align(networks, optimizers)

    def align(self, networks, optimizers):
        """Errors do not add up: the second goes on from where the first is."""
        with torch.no_grad():
            for wanted, got in zip(networks[0].parameters(), networks[1].parameters()):
                got.copy_(wanted)
        saved = copy.deepcopy(optimizers[0].state_dict())
        for group, own in zip(saved["param_groups"], optimizers[1].param_groups):
            group.update({name: own[name] for name in group if name != "params"})
        optimizers[1].load_state_dict(saved)

    def test_foreach_follows_the_for_loop(self):
        for kind, options in configs():
            with self.subTest(kind=kind, **options):
                self.follow(kind, options, {"foreach": True}, torch.float64)

    @needs_current
    def test_fused_follows_the_for_loop(self):
        for dtype in DTYPES:
            low = dtype in (torch.float16, torch.bfloat16)
            for kind, options in configs(dtype):
                with self.subTest(kind=kind, dtype=dtype, **options):
                    self.follow(kind, options, {"fused": True}, dtype, (5e-3, 5e-3) if low else None)

    @needs_current
    def test_every_dtype_in_one_optimizer(self):
        self.every(self.check_every_dtype_in_one_optimizer, torch.float16)

    def check_every_dtype_in_one_optimizer(self, kind, options):
        torch.manual_seed(5)
        starts = [torch.randn(4, 3).to(dtype) for dtype in DTYPES]
        sides = [[torch.nn.Parameter(start.clone()) for start in starts] for _ in range(2)]
        plain = {name: value for name, value in options.items() if name not in ("foreach", "fused")}
        optimizers = [torchs(kind, sides[0], foreach=False, **plain), self.make(kind, sides[1], **options)]
        for _ in range(7 if options.get("foreach") else 1):
            for side, optimizer in zip(sides, optimizers):
                for start, weight in zip(starts, side):
                    weight.grad = start.clone()
                optimizer.step()
            for got, wanted in zip(sides[1], sides[0]):
                relative, absolute = TOLERANCES[wanted.dtype]
                assert_close(got, wanted, (5 * relative, 5 * absolute))

    @needs_current
    def test_steps_have_the_default_dtype_if_it_is_double(self):
        default = torch.get_default_dtype()
        for dtype, wanted in ((torch.float64, torch.float64), (torch.float16, torch.float32)):
            torch.set_default_dtype(dtype)
            try:
                weight = parameter(1.0, 2.0)
                optimizer = self.make("Adam", [weight], foreach=True)
                weight.grad = torch.ones_like(weight)
                optimizer.step()
                self.assertEqual(optimizer.state_dict()["state"][0]["step"].dtype, wanted)
            finally:
                torch.set_default_dtype(default)

    # -------------------------------------------------------------------------------- scaling

    @needs_current
    def test_found_inf_skips_the_step(self):
        for kind in KINDS:
            for scale in (None, torch.tensor([2.0])):
                for amsgrad in (False, True):
                    with self.subTest(kind=kind, scale=scale, amsgrad=amsgrad):
                        weight = parameter(5.0)
                        optimizer = self.make(kind, [weight], fused=True, amsgrad=amsgrad)
                        weight.grad = torch.tensor([5.0])
                        optimizer.grad_scale, optimizer.found_inf = scale, torch.tensor(1.0)
                        optimizer.step()
                        self.assertEqual((weight.item(), weight.grad.item()), (5, 5))
                        for state in optimizer.state_dict()["state"].values():
                            self.assertEqual(float(state["step"]), 0)

    @needs_current
    def test_a_grad_scaler(self):
        for separate in (False, True):
            self.every(lambda kind, options: self.check_a_grad_scaler(kind, options, separate),
                       paths=({"fused": True},))

    def check_a_grad_scaler(self, kind, options, separate):
        plain = {name: value for name, value in options.items() if name != "fused"}
        networks = [Network(torch.float32) for _ in range(2)]
        optimizers = [torchs(kind, list(networks[0].parameters()), foreach=False, **plain),
                      self.make(kind, list(networks[1].parameters()), **options)]
        scalers = [torch.amp.GradScaler("cpu", init_scale=128.0) for _ in range(2)]
        for step in range(5):
            losses = []
            for network, optimizer, scaler in zip(networks, optimizers, scalers):
                optimizer.zero_grad()
                losses.append(network.loss())
                scaler.scale(losses[-1]).backward()
                if step == 3:
                    network.first.bias.grad[0] = float("inf")
                if separate:
                    scaler.unscale_(optimizer)
                scaler.step(optimizer)
                scaler.update()
            assert_close(losses[1], losses[0])
            self.assertEqual(scalers[1].get_scale(), scalers[0].get_scale())
            if step != 3:  # where PyTorch leaves them, unscaled or not
                assert_close([weight.grad for weight in networks[1].parameters()],
                             [weight.grad for weight in networks[0].parameters()])
            assert_close(list(networks[1].parameters()), list(networks[0].parameters()), (2e-5, 2e-5))

    # -------------------------------------------------------------------------------- groups

    def test_a_group_decays_by_its_own_weight_decay(self):
        weight = torch.nn.Parameter(torch.ones(2, 3))
        bias = torch.nn.Parameter(torch.ones(2))
        optimizer = self.make("AdamW", [{"params": [weight], "weight_decay": 0.5}, {"params": [bias]}],
                              lr=0.1, weight_decay=0.0)
        weight.grad, bias.grad = torch.zeros(2, 3), torch.zeros(2)
        optimizer.step()
        assert_close(weight.detach(), torch.full((2, 3), 0.95))
        assert_close(bias.detach(), torch.ones(2))

    def test_a_group_whose_rate_is_next_to_nothing_stays(self):
        for kind in KINDS:
            moving, still = parameter(1.0, 2.0), parameter(1.0, 2.0)
            optimizer = self.make(kind, [{"params": [moving]}, {"params": [still], "lr": 1e-28}], lr=0.1)
            for _ in range(3):
                moving.grad, still.grad = torch.ones(2), torch.ones(2)
                optimizer.step()
            self.assertEqual(still.tolist(), [1, 2])
            self.assertNotEqual(moving.tolist(), [1, 2])

    def test_a_group_that_comes_later(self):
        first, second = parameter(1.0), parameter(1.0, 1.0)
        mirrors = parameter(1.0), parameter(1.0, 1.0)
        pair = [self.make("AdamW", [first], lr=0.1), torchs("AdamW", [mirrors[0]], lr=0.1)]
        for step in range(4):
            if step == 2:
                pair[0].add_param_group({"params": [second], "lr": 0.5, "mine": "kept"})
                pair[1].add_param_group({"params": [mirrors[1]], "lr": 0.5, "mine": "kept"})
            for weight in (first, second, *mirrors):
                weight.grad = torch.full_like(weight, 0.25 * (step + 1))
            for optimizer in pair:
                optimizer.step()
        assert_close([first, second], list(mirrors))
        saved, wanted = (optimizer.state_dict() for optimizer in pair)
        self.assertEqual(saved["param_groups"], wanted["param_groups"])
        self.assertEqual(float(saved["state"][1]["step"]), 2)
        with self.assertRaisesRegex(ValueError, "some parameters appear in more than one parameter group"):
            pair[0].add_param_group({"params": [second]})

    def test_options_edited_while_it_trains(self):
        weight, mirror = parameter(1.0, -2.0), parameter(1.0, -2.0)
        pair = [self.make("Adam", [weight]), torchs("Adam", [mirror])]
        edits = ({"lr": 0.5}, {"betas": (0.5, 0.6)}, {"weight_decay": 0.1}, {"maximize": True}, {"eps": 0.1})
        for edit in edits:
            for optimizer in pair:
                optimizer.param_groups[0].update(edit)
            weight.grad, mirror.grad = torch.tensor([0.5, 3.0]), torch.tensor([0.5, 3.0])
            for optimizer in pair:
                optimizer.step()
            assert_close(weight, mirror)

    # ------------------------------------------------------------------------------ gradients

    def test_a_step_without_gradients_does_nothing(self):
        for kind in KINDS:
            weight = parameter(1.0, 2.0)
            optimizer = self.make(kind, [weight])
            self.assertIsNone(optimizer.step())
            self.assertEqual(optimizer.step(lambda: 7), 7)
            self.assertEqual(weight.tolist(), [1, 2])
            self.assertEqual(dict(optimizer.state_dict()["state"]), {})

    def test_a_step_with_gradients_of_zero_moves_nothing(self):
        for path in self.paths:
            for kind in KINDS:
                with self.subTest(kind=kind, **path):
                    weight = parameter(1.0, 2.0)
                    options = {"lr": 1e-5} if kind == "AdamW" else {}
                    optimizer = self.make(kind, [weight], **options, **path)
                    weight.grad = torch.zeros(2)
                    optimizer.step()
                    assert_close(weight.detach(), torch.tensor([1.0, 2.0]))
                    self.assertEqual(float(optimizer.state_dict()["state"][0]["step"]), 1)

    def test_zero_grad(self):
        weight = parameter(1.0)
        optimizer = self.make("Adam", [weight])
        weight.grad = torch.ones(1)
        kept = weight.grad
        optimizer.zero_grad(set_to_none=False)
        self.assertIs(weight.grad, kept)
        self.assertEqual(weight.grad.tolist(), [0])
        optimizer.zero_grad(set_to_none=True)
        self.assertIsNone(weight.grad)

    def test_no_state_is_empty_after_a_step(self):
        self.every(self.check_no_state_is_empty_after_a_step)

    def check_no_state_is_empty_after_a_step(self, kind, options):
        network = Network(torch.float32)
        optimizer = self.make(kind, list(network.parameters()), **options)
        network.loss().backward()
        optimizer.step()
        saved = optimizer.state_dict()["state"]
        self.assertEqual(len(saved), 5)
        for state in saved.values():
            self.assertTrue(all(value.numel() for value in state.values()))
            self.assertEqual("max_exp_avg_sq" in state, options.get("amsgrad", False))


class OptimOfTorch(Cases, Torch, unittest.TestCase):
    """PyTorch's own."""


class OptimOfRemote(Cases, Remote, unittest.TestCase):
    """The daemon's."""

    def test_a_parameter_twice_in_a_group_is_warned_of(self):
        """And refused: a daemon steps each once."""
        one = parameter(1.0)
        with self.assertWarnsRegex(UserWarning, "a parameter group with duplicate parameters"):
            self.refused(ValueError, "a parameter is twice in a group", "Adam", [{"params": [one, one]}])


if __name__ == "__main__":
    unittest.main()
