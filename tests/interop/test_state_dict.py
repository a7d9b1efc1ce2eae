"""state_dict and load_state_dict as PyTorch's own tests ask for them, of PyTorch's classes and of RemoteAdam."""

import copy
import io
import unittest

import support  # pylint: disable=unused-import
import torch
from optim_cases import KINDS, Network, assert_close
from subject import Remote, Torch, needs_current, train

OLDER_FLAGS = ("foreach", "differentiable", "fused", "maximize", "capturable")


class Cases:
    def test_it_can_be_printed(self):
        text = repr(self.trained("Adam", amsgrad=True)[1])
        self.assertRegex(text, r"^\w*Adam \(\nParameter Group 0\n    amsgrad: True\n    betas: ")
        self.assertTrue(text.endswith("\n)"))

    def check_goes_on_alike(self, kind, options, names=(False, False)):
        network, optimizer = self.trained(kind, names[0], **options)
        other = copy.deepcopy(network)
        weights = list(other.named_parameters() if names[1] else other.parameters())
        clone = self.make(kind, weights, **options)
        clone.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for _ in range(4):
            train([network, other], [optimizer, clone])
            for one, two in zip(network.parameters(), other.parameters()):
                self.assertTrue(torch.equal(one, two))
        saved, again = (self.nameless(o.state_dict()) for o in (optimizer, clone))
        assert_close(again, saved)
        return clone

    @staticmethod
    def nameless(saved):
        groups = [{name: value for name, value in group.items() if name != "param_names"}
                  for group in saved["param_groups"]]
        return {**saved, "param_groups": groups}

    def test_a_copy_goes_on_alike(self):
        self.every(self.check_goes_on_alike)

    @needs_current
    def test_names_survive_if_either_side_has_them(self):
        for names in ((False, False), (False, True), (True, False), (True, True)):
            with self.subTest(names=names):
                clone = self.check_goes_on_alike("AdamW", {"weight_decay": 0.1}, names)
                group = clone.state_dict()["param_groups"][0]
                self.assertEqual("param_names" in group, any(names))
                if any(names):
                    self.assertEqual(group["param_names"][0], "extra")

    def test_what_older_versions_saved(self):
        self.every(self.check_what_older_versions_saved, paths=({},))

    def check_what_older_versions_saved(self, kind, options):
        network, optimizer = self.trained(kind, **options)
        saved = copy.deepcopy(optimizer.state_dict())
        for group in saved["param_groups"]:
            for flag in OLDER_FLAGS:
                group.pop(flag, None)
        optimizer.load_state_dict(saved)
        train([network], [optimizer])
        self.assertEqual(float(optimizer.state_dict()["state"][0]["step"]), 4)

    def test_a_step_that_is_a_number(self):
        for kind in KINDS:
            network, optimizer = self.trained(kind)
            saved = copy.deepcopy(optimizer.state_dict())
            for state in saved["state"].values():
                state["step"] = float(state["step"])
            optimizer.load_state_dict(saved)
            train([network], [optimizer])
            self.assertEqual(float(optimizer.state_dict()["state"][0]["step"]), 4)

    @needs_current
    def test_saved_files_are_equal_however_they_are_loaded(self):
        self.every(self.check_saved_files_are_equal_however_they_are_loaded)

    def check_saved_files_are_equal_however_they_are_loaded(self, kind, options):
        saved = self.trained(kind, **options)[1].state_dict()
        file = io.BytesIO()
        torch.save(saved, file)
        for weights_only in (False, True):
            file.seek(0)
            assert_close(torch.load(file, weights_only=weights_only), saved, (0, 0))

    def test_loads_that_do_not_fit(self):
        _, optimizer = self.trained("Adam")
        saved = optimizer.state_dict()
        before = copy.deepcopy(saved)
        groups = saved["param_groups"]
        for error, text, bad in (
                (ValueError, "loaded state dict has a different number of parameter groups",
                 {**saved, "param_groups": groups * 2}),
                (ValueError, "loaded state dict contains a parameter group that doesn't match the size of "
                 "optimizer's group", {**saved, "param_groups": [{**groups[0], "params": [0]}]}),
                (KeyError, "param_groups", {"state": saved["state"]})):
            with self.subTest(text):
                with self.assertRaises(error) as caught:
                    optimizer.load_state_dict(bad)
                self.assertIn(text, str(caught.exception))
                assert_close(optimizer.state_dict(), before, (0, 0))

    def test_public_attributes_are_copied(self):
        optimizer = self.trained("Adam")[1]
        public = {name for name in vars(optimizer) if not name.startswith("_")}
        self.assertEqual({name for name in vars(copy.deepcopy(optimizer)) if not name.startswith("_")}, public)


class StateDictOfTorch(Cases, Torch, unittest.TestCase):
    """PyTorch's own."""


class StateDictOfRemote(Cases, Remote, unittest.TestCase):
    """The daemon's."""

    def test_public_attributes_are_copied(self):
        """Nothing is: it is a worker that has registered."""
        with self.assertRaisesRegex(TypeError, "cannot be copied or pickled: use its state_dict"):
            copy.deepcopy(self.trained("Adam")[1])


if __name__ == "__main__":
    unittest.main()
