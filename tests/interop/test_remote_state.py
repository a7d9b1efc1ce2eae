"""RemoteAdam's state_dict and load_state_dict beside PyTorch's, both ways, and the hooks of an optimizer, one
rule a test."""

import copy
import io
import unittest

import remote  # first: it sets the paths
import torch
from remote import TORCH, RemoteCase, backward, network, twin

from adamd.torch import RemoteAdam, RemoteAdamW

KINDS = ((torch.optim.Adam, RemoteAdam), (torch.optim.AdamW, RemoteAdamW))


def parameter(*shape):
    return torch.nn.Parameter(torch.randn(shape))


class StateDict(RemoteCase):
    def pair(self, theirs, ours, **options):
        """A module and its twin, with an optimizer each, three steps on."""
        module = network()
        modules = (module, twin(module))
        optimizers = (theirs(modules[0].parameters(), **options),
                      self.remote(ours, modules[1].parameters(), **options))
        self.go_on(modules, optimizers, 3)
        return modules, optimizers

    def go_on(self, modules, optimizers, steps):
        for _ in range(steps):
            for module, optimizer in zip(modules, optimizers):
                backward(module)
                optimizer.step()
        self.assert_close(modules[1].parameters(), modules[0].parameters())

    def test_the_structure_is_pytorchs(self):
        for theirs, ours in KINDS:
            for options in ({}, {"amsgrad": True, "weight_decay": 0.1}):
                with self.subTest(kind=ours.__name__, **options):
                    self.name = remote.new_name()
                    _, optimizers = self.pair(theirs, ours, **options)
                    one, other = (optimizer.state_dict() for optimizer in optimizers)
                    self.assertEqual(list(other), list(one))
                    self.assertEqual(other["param_groups"], one["param_groups"])
                    self.assertEqual([list(g) for g in other["param_groups"]],
                                     [list(g) for g in one["param_groups"]])
                    for index, state in one["state"].items():
                        self.assertEqual(list(other["state"][index]), list(state))
                        for name, value in state.items():
                            got = other["state"][index][name]
                            self.assertEqual((got.dtype, got.shape), (value.dtype, value.shape))
                            self.assert_close([got], [value])

    def test_pytorch_loads_ours_and_goes_on(self):
        for theirs, ours in KINDS:
            self.name = remote.new_name()
            modules, optimizers = self.pair(theirs, ours, amsgrad=True, lr=0.1)
            file = io.BytesIO()
            torch.save(optimizers[1].state_dict(), file)
            file.seek(0)
            loaded = torch.load(file, **({"weights_only": True} if TORCH >= (2, 0) else {}))
            fresh = theirs(modules[0].parameters())
            fresh.load_state_dict(loaded)
            self.assertEqual(fresh.param_groups[0]["lr"], 0.1)
            self.go_on(modules, (fresh, optimizers[1]), 3)

    def test_ours_loads_pytorchs_and_goes_on(self):
        for theirs, ours in KINDS:
            self.name = remote.new_name()
            modules, optimizers = self.pair(theirs, ours, amsgrad=True, lr=0.1)
            self.name = remote.new_name()
            fresh = self.remote(ours, modules[1].parameters())
            saved = copy.deepcopy(optimizers[0].state_dict())
            fresh.load_state_dict(optimizers[0].state_dict())
            self.assertEqual(fresh.param_groups[0]["lr"], 0.1)
            self.assertEqual(self.model()["paramGroups"][0]["options"]["lr"], 0.1)
            self.go_on(modules, (optimizers[0], fresh), 3)
            self.assertEqual(fresh.state_dict()["state"][0]["step"], 6.0)
            self.assertEqual(saved["state"][0]["step"], 3.0)  # what was given is as it was

    def test_the_daemons_own_file_of_torch_is_the_same(self):
        """Through the library's format "pt", out and in."""
        modules, optimizers = self.pair(torch.optim.Adam, RemoteAdam, amsgrad=True, lr=0.1)
        with optimizers[1]._client.read_state("pt") as state:
            file = bytes(state.buffer)
        loaded = torch.load(io.BytesIO(file), **({"weights_only": True} if TORCH >= (2, 0) else {}))
        state = optimizers[1].state_dict()
        self.assertEqual(list(loaded["state"]), list(state["state"]))
        for index, entry in state["state"].items():
            for name, value in entry.items():
                self.assertTrue(torch.equal(value, loaded["state"][index][name]), name)
        fresh = torch.optim.Adam(modules[0].parameters())
        fresh.load_state_dict(loaded)
        self.go_on(modules, (fresh, optimizers[1]), 2)

    def test_it_is_a_copy(self):
        modules, optimizers = self.pair(torch.optim.Adam, RemoteAdam)
        before = optimizers[1].state_dict()
        kept = copy.deepcopy(before)
        self.go_on(modules, optimizers, 2)
        self.assertTrue(torch.equal(before["state"][0]["exp_avg"], kept["state"][0]["exp_avg"]))
        self.assertEqual(before["state"][0]["step"], 3.0)

    def test_a_checkpoint_of_both_is_where_it_was(self):
        """What a script saves and loads: the module first, then the optimizer."""
        module = network()
        optimizer = self.remote(RemoteAdamW, module.parameters(), lr=0.1)
        for _ in range(3):
            backward(module)
            optimizer.step()
        saved = copy.deepcopy((module.state_dict(), optimizer.state_dict()))
        ends = []
        for _ in range(2):
            for _ in range(3):
                backward(module)
                optimizer.step()
            ends.append(copy.deepcopy(module.state_dict()))
            module.load_state_dict(saved[0])
            optimizer.load_state_dict(saved[1])
        for key, value in ends[0].items():
            self.assertTrue(torch.equal(value, ends[1][key]), key)

    def test_parameters_that_were_never_stepped_have_no_state(self):
        one, other = parameter(2), parameter(3)
        optimizer = self.remote(RemoteAdam, [one, other])
        self.assertEqual(optimizer.state_dict()["state"], {})
        other.grad = torch.ones(3)
        optimizer.step()
        state = optimizer.state_dict()
        self.assertEqual(list(state["state"]), [1])
        optimizer.load_state_dict(state)
        one.grad = torch.ones(2)
        optimizer.step()
        steps = {i: s["step"].item() for i, s in optimizer.state_dict()["state"].items()}
        self.assertEqual(steps, {0: 1.0, 1: 2.0})

    def test_files_of_older_versions(self):
        for missing in ("foreach", "differentiable", "fused", "maximize", "capturable", "amsgrad"):
            modules, optimizers = self.pair(torch.optim.Adam, RemoteAdam)
            state = copy.deepcopy(optimizers[0].state_dict())
            del state["param_groups"][0][missing]
            for entry in state["state"].values():
                entry["step"] = 3  # a number, as it was once
            optimizers[1].load_state_dict(state)
            with self.subTest(missing):
                self.go_on(modules, optimizers, 2)
            self.name = remote.new_name()

    def test_ids_are_matched_by_position(self):
        modules, optimizers = self.pair(torch.optim.Adam, RemoteAdam)
        state = copy.deepcopy(optimizers[0].state_dict())
        state["state"] = {i + 40: s for i, s in state["state"].items()}
        state["param_groups"][0]["params"] = [i + 40 for i in state["param_groups"][0]["params"]]
        optimizers[1].load_state_dict(state)
        self.go_on(modules, optimizers, 2)

    def test_state_takes_the_type_of_its_parameter(self):
        modules, optimizers = self.pair(torch.optim.Adam, RemoteAdam)
        state = copy.deepcopy(optimizers[0].state_dict())
        for entry in state["state"].values():
            entry["exp_avg"] = entry["exp_avg"].double()
        optimizers[1].load_state_dict(state)
        self.go_on(modules, optimizers, 2)

    def test_options_come_from_the_file_and_own_keys_too(self):
        weight = parameter(2)
        other = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))], lr=0.5, betas=(0.5, 0.25),
                                 weight_decay=0.125, maximize=True)
        other.param_groups[0]["mine"] = 7
        optimizer = self.remote(RemoteAdam, [weight])
        optimizer.load_state_dict(other.state_dict())
        group = optimizer.param_groups[0]
        self.assertEqual((group["lr"], group["betas"], group["maximize"], group["mine"]),
                         (0.5, (0.5, 0.25), True, 7))
        self.assertEqual(self.model()["paramGroups"][0]["options"]["betas"], [0.5, 0.25])

    def test_what_does_not_fit_is_refused_and_nothing_changes(self):
        weight, bias = parameter(2, 2), parameter(2)
        optimizer = self.remote(RemoteAdam, [weight, bias])
        for p in (weight, bias):
            p.grad = torch.ones_like(p)
        optimizer.step()
        version, state = self.version(), optimizer.state_dict()
        for spoil, kind, text in (
                (lambda s: s["param_groups"].append(s["param_groups"][0]), ValueError,
                 "loaded state dict has a different number of parameter groups"),
                (lambda s: s["param_groups"][0]["params"].pop(), ValueError,
                 "loaded state dict contains a parameter group that doesn't match the size of "
                 "optimizer's group"),
                (lambda s: s.pop("param_groups"), KeyError, "'param_groups'"),
                (lambda s: s["param_groups"][0].update(lr=-1.0), ValueError,
                 "Invalid learning rate: -1.0"),
                (lambda s: s["param_groups"][0].update(amsgrad=True), KeyError, "'max_exp_avg_sq'"),
                (lambda s: s["state"][0].update(exp_avg=torch.ones(3)), ValueError,
                 "loaded state dict does not fit: exp_avg of 0 is [3], not [2, 2]")):
            spoiled = copy.deepcopy(state)
            spoil(spoiled)
            with self.subTest(text), self.assertRaises(kind) as got:
                optimizer.load_state_dict(spoiled)
            self.assertIn(text, str(got.exception))
            self.assertEqual(optimizer.param_groups[0]["lr"], 0.001)
            self.assertFalse(optimizer.param_groups[0]["amsgrad"])
            self.assertIs(optimizer.param_groups[0]["params"][0], weight)
        self.assertEqual(self.version(), version)
        optimizer.step()
        self.assertEqual(self.version(), version + 1)

    def test_loading_leaves_gradients_and_defaults_alone(self):
        modules, optimizers = self.pair(torch.optim.Adam, RemoteAdam, lr=0.1)
        optimizer, gradient = optimizers[1], modules[1].extra.grad
        state = optimizer.state_dict()
        state["param_groups"][0]["lr"] = 0.5
        optimizer.load_state_dict(state)
        self.assertIs(modules[1].extra.grad, gradient)
        self.assertEqual(optimizer.defaults["lr"], 0.1)


@unittest.skipIf(TORCH < (2, 2), "hooks of optimizers came with 2.0 to 2.2")
class Hooks(RemoteCase):
    def setUp(self):
        super().setUp()
        self.weight = parameter(2)
        self.weight.grad = torch.ones(2)
        self.optimizer = self.remote(RemoteAdam, [self.weight], lr=0.5)
        self.trace = []

    def note(self, letter, answer=None):
        def hook(*_):
            self.trace.append(letter)
            return answer
        return hook

    def test_around_a_step(self):
        from torch.optim.optimizer import (register_optimizer_step_post_hook,
                                           register_optimizer_step_pre_hook)
        handles = [
            self.optimizer.register_step_post_hook(self.note("d")),
            register_optimizer_step_post_hook(self.note("f")),
            register_optimizer_step_pre_hook(self.note("a")),
            self.optimizer.register_step_pre_hook(self.note("b")),
            self.optimizer.register_step_pre_hook(self.note("c")),
            self.optimizer.register_step_post_hook(self.note("e")),
        ]
        self.optimizer.step()
        self.assertEqual("".join(self.trace), "abcdef")
        for handle in handles:
            handle.remove()
            handle.remove()
        self.optimizer.step()
        self.assertEqual("".join(self.trace), "abcdef")

    def test_a_pre_hook_runs_before_the_closure_and_the_gradients_are_read_after_it(self):
        def closure():
            self.trace.append("closure")
            self.weight.grad = torch.zeros(2)
            return 1.0

        self.optimizer.register_step_pre_hook(self.note("pre"))
        before = self.weight.detach().clone()
        self.optimizer.step(closure)
        self.assertEqual(self.trace, ["pre", "closure"])
        self.assertTrue(torch.equal(self.weight, before))

    def test_a_pre_hook_replaces_the_arguments(self):
        given = []
        self.optimizer.register_step_pre_hook(
            lambda optimizer, args, kwargs: ((optimizer, lambda: 7), {}))
        self.optimizer.register_step_post_hook(
            lambda optimizer, args, kwargs: given.append((args, kwargs)))
        self.assertEqual(self.optimizer.step(), 7)
        self.assertIs(given[0][0][0], self.optimizer)
        self.assertEqual((len(given[0][0]), given[0][1]), (2, {}))

    def test_a_pre_hook_that_returns_nonsense(self):
        self.optimizer.register_step_pre_hook(self.note("a", 5))
        with self.assertRaisesRegex(RuntimeError,
                                    "must return None or a tuple of .* but got 5"):
            self.optimizer.step()
        self.assertEqual(self.version(), 0)

    def test_a_hook_that_raises_stops_the_rest(self):
        def refuse(*_):
            raise ZeroDivisionError

        self.optimizer.register_step_pre_hook(refuse)
        self.optimizer.register_step_pre_hook(self.note("a"))
        self.optimizer.register_step_post_hook(self.note("b"))
        with self.assertRaises(ZeroDivisionError):
            self.optimizer.step()
        self.assertEqual((self.trace, self.version()), ([], 0))

    def test_post_hooks_do_not_run_when_the_step_failed(self):
        self.optimizer.register_step_post_hook(self.note("a"))
        self.optimizer.param_groups[0]["lr"] = -1.0
        with self.assertRaises(ValueError):
            self.optimizer.step()
        self.assertEqual(self.trace, [])

    def test_a_pre_hook_changes_gradients(self):
        self.optimizer.register_step_pre_hook(
            lambda *_: torch.nn.utils.clip_grad_value_([self.weight], 0.25) and None)
        self.optimizer.step()
        self.assert_close([self.optimizer.state_dict()["state"][0]["exp_avg"]],
                          [torch.full((2,), 0.025)])

    def test_state_dict_hooks_and_prepend(self):
        self.optimizer.register_state_dict_pre_hook(self.note("b"))
        self.optimizer.register_state_dict_pre_hook(self.note("a"), prepend=True)
        self.optimizer.register_state_dict_post_hook(
            lambda _, state: self.trace.append(sorted(state)) or {"other": 1})
        self.optimizer.register_state_dict_post_hook(
            lambda _, state: self.trace.append(sorted(state)))
        handle = self.optimizer.register_state_dict_post_hook(self.note("first"), prepend=True)
        self.assertEqual(self.optimizer.state_dict(), {"other": 1})
        self.assertEqual(self.trace, ["a", "b", "first", ["param_groups", "state"], ["other"]])
        handle.remove()
        self.optimizer.state_dict()
        self.assertEqual(self.trace.count("first"), 1)

    def test_a_state_dict_pre_hook_sees_the_state_that_is_packed(self):
        self.optimizer.step()
        seen = []
        self.optimizer.register_state_dict_pre_hook(
            lambda optimizer: seen.append(optimizer.state[self.weight]["step"].item()))
        self.optimizer.state_dict()
        self.assertEqual(seen, [1.0])

    def test_load_state_dict_hooks_and_prepend(self):
        self.optimizer.step()
        state = self.optimizer.state_dict()

        def set_rate(rate):
            def hook(_, given):
                self.trace.append(rate)
                groups = copy.deepcopy(given["param_groups"])
                groups[0]["lr"] = rate
                return {**given, "param_groups": groups}
            return hook

        self.optimizer.register_load_state_dict_pre_hook(set_rate(0.125))
        self.optimizer.register_load_state_dict_pre_hook(set_rate(0.25), prepend=True)
        self.optimizer.register_load_state_dict_post_hook(
            lambda optimizer: self.trace.append(self.model()["paramGroups"][0]["options"]["lr"]))
        self.optimizer.load_state_dict(state)
        self.assertEqual(self.trace, [0.25, 0.125, 0.125])  # the daemon had it before the post-hook
        self.assertEqual(self.optimizer.param_groups[0]["lr"], 0.125)
        self.assertEqual(state["param_groups"][0]["lr"], 0.5)

    def test_a_load_hook_that_raises(self):
        def refuse(*_):
            raise ZeroDivisionError

        state, generation = self.optimizer.state_dict(), self.model()["generation"]
        self.optimizer.register_load_state_dict_pre_hook(refuse)
        self.optimizer.register_load_state_dict_post_hook(self.note("post"))
        with self.assertRaises(ZeroDivisionError):
            self.optimizer.load_state_dict(state)
        self.assertEqual((self.trace, self.model()["generation"]), ([], generation))


if __name__ == "__main__":
    unittest.main()
