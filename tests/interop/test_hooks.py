"""The hooks of torch.optim.Optimizer as PyTorch's own tests ask for them, of its classes and of RemoteAdam."""

import copy
import importlib
import unittest

import support  # pylint: disable=unused-import
import torch
from subject import Remote, Torch, needs_current, parameter


class Cases:
    def hooked(self):
        weight = parameter(1.0)
        optimizer = self.make("Adam", [weight], lr=0.1)
        weight.grad = torch.ones(1)
        return optimizer

    def test_step_hooks(self):
        for event in ("pre", "post"):
            if not hasattr(torch.optim.Adam, f"register_step_{event}_hook"):
                continue
            optimizer, calls = self.hooked(), []
            register = getattr(optimizer, f"register_step_{event}_hook")
            handle = register(lambda opt, args, kwargs: calls.append(opt))
            optimizer.step()
            optimizer.step()
            self.assertEqual([call is optimizer for call in calls], [True, True])
            handle.remove()
            handle.remove()
            optimizer.step()
            self.assertEqual(len(calls), 2)

    @needs_current
    def test_what_a_step_pre_hook_returns(self):
        optimizer = self.hooked()
        seen = []
        handle = optimizer.register_step_pre_hook(lambda opt, args, kwargs: 5)
        with self.assertRaisesRegex(RuntimeError, "must return None or a tuple of .new_args, new_kwargs."):
            optimizer.step()
        handle.remove()
        optimizer.register_step_pre_hook(lambda opt, args, kwargs: ((opt, lambda: "replaced"), {}))
        optimizer.register_step_post_hook(lambda opt, args, kwargs: seen.append(args))
        self.assertEqual(optimizer.step(), "replaced")
        self.assertEqual(seen[0][1](), "replaced")

    @needs_current
    def test_a_hook_that_raises_stops_the_rest(self):
        optimizer, calls = self.hooked(), []

        def stumble(opt, args, kwargs):
            raise ArithmeticError("stumbled")
        handle = optimizer.register_step_pre_hook(stumble)
        optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
        optimizer.register_step_post_hook(lambda *_: calls.append("post"))
        with self.assertRaisesRegex(ArithmeticError, "stumbled"):
            optimizer.step()
        self.assertEqual(calls, [])
        self.assertEqual(dict(optimizer.state_dict()["state"]), {})
        handle.remove()
        optimizer.step()
        self.assertEqual(calls, ["pre", "post"])

    @needs_current
    def test_the_order_of_all_step_hooks(self):
        calls, handles = [], []
        hooks = importlib.import_module("torch.optim.optimizer")
        pair = [self.hooked(), self.hooked()]

        def note(name):
            return lambda opt, args, kwargs: calls.append(name)
        try:
            for optimizer in pair:
                handles.append(optimizer.register_step_post_hook(note("own post")))
                handles.append(optimizer.register_step_pre_hook(note("own pre")))
            handles.append(hooks.register_optimizer_step_post_hook(note("global post")))
            handles.append(hooks.register_optimizer_step_pre_hook(note("global pre")))
            for optimizer in pair:
                optimizer.step()
            self.assertEqual(calls, ["global pre", "own pre", "own post", "global post"] * 2)
        finally:
            for handle in handles:
                handle.remove()
        for optimizer in pair:
            optimizer.step()
        self.assertEqual(len(calls), 8)

    @needs_current
    def test_state_dict_hooks(self):
        optimizer = self.hooked()
        optimizer.step()
        calls = []
        optimizer.register_state_dict_pre_hook(lambda opt: calls.append("second"))
        optimizer.register_state_dict_pre_hook(lambda opt: calls.append("first"), prepend=True)
        post = optimizer.register_state_dict_post_hook(lambda opt, saved: {"mine": len(saved)})
        other = optimizer.register_state_dict_post_hook(lambda opt, saved: saved.update(more=1))
        self.assertEqual(optimizer.state_dict(), {"mine": 2, "more": 1})
        self.assertEqual(calls, ["first", "second"])
        post.remove()
        self.assertEqual(sorted(optimizer.state_dict()), ["more", "param_groups", "state"])
        other.remove()
        self.assertEqual(sorted(optimizer.state_dict()), ["param_groups", "state"])

    @needs_current
    def test_load_state_dict_hooks(self):
        optimizer = self.hooked()
        optimizer.step()
        saved = copy.deepcopy(optimizer.state_dict())

        def rate(value):
            def edit(opt, given):
                given["param_groups"][0]["lr"] = value
            return edit

        def replace(opt, given):
            return {**given, "param_groups": [{**given["param_groups"][0], "lr": 0.75}]}
        posts = []
        first = optimizer.register_load_state_dict_pre_hook(rate(0.5))
        second = optimizer.register_load_state_dict_pre_hook(rate(0.25), prepend=True)
        after = optimizer.register_load_state_dict_post_hook(lambda opt: posts.append(opt))
        optimizer.load_state_dict(copy.deepcopy(saved))
        self.assertEqual(optimizer.param_groups[0]["lr"], 0.5)
        third = optimizer.register_load_state_dict_pre_hook(replace)
        optimizer.load_state_dict(copy.deepcopy(saved))
        self.assertEqual(optimizer.param_groups[0]["lr"], 0.75)
        self.assertEqual([post is optimizer for post in posts], [True, True])
        for handle in (first, second, third, after):
            handle.remove()
        optimizer.load_state_dict(saved)
        self.assertEqual((optimizer.param_groups[0]["lr"], len(posts)), (0.1, 2))


class HooksOfTorch(Cases, Torch, unittest.TestCase):
    """PyTorch's own."""


class HooksOfRemote(Cases, Remote, unittest.TestCase):
    """The daemon's."""


if __name__ == "__main__":
    unittest.main()
