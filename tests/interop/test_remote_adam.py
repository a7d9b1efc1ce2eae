"""RemoteAdam and RemoteAdamW beside torch.optim.Adam and AdamW: constructors, groups, steps, schedulers,
GradScaler, closures."""

import unittest

import remote  # first: it sets the paths
import torch
from remote import INPUTS, TORCH, RemoteCase, backward, network, twin

import adamd.client
import adamd.torch
from adamd.torch import RemoteAdam, RemoteAdamW

KINDS = ((torch.optim.Adam, RemoteAdam), (torch.optim.AdamW, RemoteAdamW))


def parameter(*shape):
    return torch.nn.Parameter(torch.randn(shape))


class Constructor(RemoteCase):
    # What PyTorch refuses is refused by it, with its own words. `make` gives the arguments.
    refused = [
        lambda p: (([p],), {"lr": -1}),
        lambda p: (([p],), {"lr": float("nan")}),
        lambda p: (([p],), {"eps": -1e-3}),
        lambda p: (([p],), {"betas": (1.0, 0.9)}),
        lambda p: (([p],), {"betas": (0.9, -0.1)}),
        lambda p: (([p],), {"weight_decay": -1}),
        lambda p: ((p,), {}),
        lambda p: (([],), {}),
        lambda p: (([{"params": [p]}, {"params": [p]}],), {}),
        lambda p: (([{"lr": 1.0}],), {}),
        lambda p: (([{"params": {p}}],), {}),
        lambda p: (([p, 3],), {}),
        lambda p: (([p * 2],), {}),
        lambda p: (([p],), {"speed": 3}),
    ]
    refused_later = [
        lambda p: (([p],), {"betas": (1, 0.9)}),
        lambda p: (([p],), {"lr": torch.tensor([1.0, 2.0])}),
        lambda p: (([p],), {"lr": torch.tensor(1.0), "foreach": True}),
        lambda p: (([p],), {"betas": (torch.tensor(0.9), 0.9)}),
        lambda p: (([p],), {"betas": (torch.tensor(0.9), torch.tensor(0.9)), "foreach": True}),
        lambda p: (([p],), {"fused": True, "foreach": True}),
        lambda p: (([p],), {"fused": True, "differentiable": True}),
        lambda p: (([("a", p), parameter(1)],), {}),
        lambda p: (([{"params": [("a", p)]}, {"params": [parameter(1)]}],), {}),
    ]

    def test_what_pytorch_refuses(self):
        rows = self.refused + (self.refused_later if TORCH >= (2, 7) else [])
        for i, make in enumerate(rows):
            for theirs, ours in KINDS:
                args, options = make(parameter(2))
                with self.subTest(row=i, kind=ours.__name__):
                    with self.assertRaises(Exception) as expected:
                        theirs(*args, **options)
                    with self.assertRaises(type(expected.exception)) as got:
                        self.remote(ours, *args, **options)
                    self.assertEqual(str(got.exception).replace("Remote", ""),
                                     str(expected.exception))
        self.daemon.get(f"/v1/models/{self.name}").expect(404)

    def test_fused_with_what_it_cannot_be(self):
        for options, text in (
                ({"differentiable": True}, "`fused` does not support `differentiable`"),
                ({"foreach": True}, "`fused` and `foreach` cannot be `True` together.")):
            with self.assertRaises(RuntimeError) as got:
                self.remote(RemoteAdam, [parameter(2)], fused=True, **options)
            self.assertEqual(str(got.exception), text)

    def test_groups_are_checked_where_pytorch_forgets_it(self):
        for key, value, text in (("lr", -1.0, "Invalid learning rate: -1.0"),
                                 ("eps", -2.0, "Invalid epsilon value: -2.0"),
                                 ("betas", (0.5, 1.0), "Invalid beta parameter at index 1: 1.0"),
                                 ("weight_decay", -0.5, "Invalid weight_decay value: -0.5")):
            with self.subTest(key), self.assertRaises(ValueError) as got:
                self.remote(RemoteAdam, [{"params": [parameter(2)], key: value}])
            self.assertEqual(str(got.exception), text)

    def test_a_model_has_a_name(self):
        with self.assertRaisesRegex(ValueError, "ADAMD_MODEL"):
            RemoteAdam([parameter(2)], endpoint=self.endpoint)
        with self.assertRaisesRegex(ValueError, "endpoint"):
            RemoteAdam([parameter(2)], model="m", endpoint="nowhere")

    def test_a_parameter_twice_in_a_group(self):
        import warnings
        shared = parameter(2)
        with warnings.catch_warnings(), self.assertRaisesRegex(ValueError, "twice in a group"):
            warnings.simplefilter("ignore")
            self.remote(RemoteAdam, [shared, shared])

    def test_the_model_is_made_with_parameters_and_options(self):
        module = torch.nn.Linear(3, 2)
        self.remote(RemoteAdamW, [{"params": [module.weight], "lr": 0.5},
                                  {"params": [module.bias]}], lr=0.25, amsgrad=True)
        said = self.model()
        self.assertEqual(said["state"], "STATE_ACTIVE")
        self.assertEqual([t["shape"] for t in said["tensors"]], [["2", "3"], ["2"]])
        options = [group["options"] for group in said["paramGroups"]]
        self.assertEqual([o["lr"] for o in options], [0.5, 0.25])
        self.assertTrue(all(o["amsgrad"] and o["decoupledWeightDecay"] for o in options))
        self.assertEqual(said["stepPolicy"]["trigger"], "TRIGGER_EACH_PUSH")

    def test_the_policy(self):
        self.remote(RemoteAdam, [parameter(2)],
                    policy=adamd.client.Policy(trigger="barrier", quorum=1, deadline=0.5, lease=9))
        policy = self.model()["stepPolicy"]
        self.assertEqual((policy["trigger"], policy["quorum"], policy["deadline"], policy["lease"]),
                         ("TRIGGER_BARRIER", 1, "0.500s", "9s"))

    def test_who_comes_later_takes_the_parameters_that_are_there(self):
        first, second = network(), network()
        one = self.remote(RemoteAdam, first.parameters(), worker="a")
        backward(first)
        one.step()
        other = self.remote(RemoteAdam, second.parameters(), worker="b")
        for p, q in zip(first.parameters(), second.parameters()):
            self.assertTrue(torch.equal(p, q))
        self.assertEqual(other.version, 1)
        backward(second)
        other.step()
        self.assertEqual(self.version(), 2)

    def test_another_layout_is_refused_with_a_list(self):
        self.remote(RemoteAdam, [parameter(2, 3), parameter(4)])
        with self.assertRaises(ValueError) as got:
            self.remote(RemoteAdam, [{"params": [parameter(3, 2)]},
                                     {"params": [parameter(4), parameter(1)]}], worker="b")
        text = str(got.exception)
        for part in ("0 is float32 [3, 2] here, float32 [2, 3] there",
                     "1 is in group 1 here, in group 0 there", "2 is missing there",
                     "2 groups here, 1 there"):
            self.assertIn(part, text)

    def test_a_model_whose_maker_died_is_taken_over(self):
        module = torch.nn.Linear(2, 1)
        self.daemon.create_model(self.name, {"0": [1, 2], "1": [1]})
        patience, adamd.torch._TAKE_OVER_SECONDS = adamd.torch._TAKE_OVER_SECONDS, 0.05
        try:
            before = module.weight.detach().clone()
            self.remote(RemoteAdam, module.parameters())
        finally:
            adamd.torch._TAKE_OVER_SECONDS = patience
        self.assertEqual(self.model()["state"], "STATE_ACTIVE")
        self.assertTrue(torch.equal(module.weight, before))

    @unittest.skipIf(TORCH < (2, 6), "named parameters came with 2.6")
    def test_named_parameters_keep_their_names(self):
        module = torch.nn.Linear(2, 1)
        optimizer = self.remote(RemoteAdam, module.named_parameters())
        self.assertEqual([t["key"] for t in self.model()["tensors"]], ["weight", "bias"])
        self.assertEqual(optimizer.state_dict()["param_groups"][0]["param_names"],
                         ["weight", "bias"])

    def test_it_is_printed_as_the_original(self):
        module = torch.nn.Linear(2, 1)
        original = repr(torch.optim.AdamW(module.parameters(), lr=0.5))
        self.assertEqual(repr(self.remote(RemoteAdamW, module.parameters(), lr=0.5)),
                         original.replace("AdamW", "RemoteAdamW", 1))

    def test_it_cannot_be_copied(self):
        import copy
        import pickle
        optimizer = self.remote(RemoteAdam, [parameter(2)])
        for action in (copy.deepcopy, pickle.dumps):
            with self.assertRaisesRegex(TypeError, "state_dict"):
                action(optimizer)


class Steps(RemoteCase):
    configurations = ({}, {"lr": 0.01}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "maximize": True},
                      {"weight_decay": 0.1, "amsgrad": True}, {"betas": (0.4, 0.5)},
                      {"foreach": True}, {"fused": True})

    def test_seven_steps_as_pytorch_takes_them(self):
        """With no gradient at all in the third, and without those of a layer in the fourth and fifth."""
        for theirs, ours in KINDS:
            for options in self.configurations:
                if TORCH < (2, 4) and options.get("fused"):
                    continue
                with self.subTest(kind=ours.__name__, **options):
                    self.name = remote.new_name()
                    self.compare(theirs, ours, options)

    def compare(self, theirs, ours, options):
        module = network()
        modules = (module, twin(module))
        optimizers = (theirs(modules[0].parameters(), **options),
                      self.remote(ours, modules[1].parameters(), **options))
        for i in range(7):
            for each, optimizer in zip(modules, optimizers):
                backward(each)
                for p in each.parameters() if i == 2 else each[2].parameters() if i in (3, 4) else ():
                    p.grad = None
                self.assertIsNone(optimizer.step())
            self.assert_close(modules[1].parameters(), modules[0].parameters())
            for p, q in zip(*(m.parameters() for m in modules)):
                with torch.no_grad():
                    q.data.copy_(p)  # rounding does not add up; unseen by autograd's version
        self.compare_state(*(optimizer.state_dict()["state"] for optimizer in optimizers))

    def compare_state(self, theirs, ours):
        self.assertEqual(list(ours), sorted(theirs))
        for index, state in ours.items():
            self.assertEqual(list(state), list(theirs[index]))
            self.assertEqual(state["step"], theirs[index]["step"])
            for name in list(state)[1:]:
                self.assert_close([state[name]], [theirs[index][name]], f"{index} {name}")

    def test_no_gradient_and_a_zero_one(self):
        still, moved = parameter(3), parameter(3)
        before = still.detach().clone()
        optimizer = self.remote(RemoteAdamW, [still, moved], lr=0.1, weight_decay=0.5)
        with torch.no_grad():
            moved.data.fill_(1.0)
        optimizer.put_parameters()
        moved.grad = torch.zeros(3)
        optimizer.step()
        self.assertTrue(torch.equal(still, before))
        self.assert_close([moved], [torch.full((3,), 0.95)])
        self.assertEqual(list(optimizer.state_dict()["state"]), [1])

    def test_without_any_gradient_nothing_happens(self):
        optimizer = self.remote(RemoteAdam, [parameter(3)])
        self.assertIsNone(optimizer.step())
        self.assertEqual(optimizer.step(lambda: 7), 7)
        self.assertEqual(self.version(), 0)

    def test_memory_is_pytorchs_own_where_it_can_be(self):
        weight = parameter(3, 2)
        optimizer = self.remote(RemoteAdam, [weight])
        weight.grad = torch.randn(3, 2)
        address = weight.data_ptr()
        optimizer.step()
        self.assertEqual(optimizer._table.gradients[0].data, weight.grad.data_ptr())
        self.assertEqual(optimizer._table.buffers()[0].data, address)
        self.assertEqual(weight.data_ptr(), address)

    def test_memory_of_any_order(self):
        shapes = {
            "transposed": torch.nn.Parameter(torch.randn(2, 3).t()),
            "strided": torch.nn.Parameter(torch.randn(4, 6)[:, ::2]),
            "channels": torch.nn.Parameter(
                torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)),
            "expanded": parameter(3, 4), "empty": parameter(0, 3), "scalar": parameter(),
        }
        theirs = [torch.nn.Parameter(p.detach().clone()) for p in shapes.values()]
        strides = [p.stride() for p in shapes.values()]
        ours = self.remote(RemoteAdam, shapes.values(), lr=0.1)
        original = torch.optim.Adam(theirs, lr=0.1)
        for _ in range(2):
            for name, p, q in zip(shapes, shapes.values(), theirs):
                grad = torch.randn(1, 4).expand(3, 4) if name == "expanded" else torch.randn_like(p)
                p.grad, q.grad = grad, grad.clone()
            ours.step()
            original.step()
        self.assert_close(shapes.values(), theirs)
        self.assertEqual([p.stride() for p in shapes.values()], strides)

    def test_autograd_sees_that_parameters_were_written(self):
        weight = parameter(3)
        optimizer = self.remote(RemoteAdam, [weight])
        loss = (weight * weight).sum()
        loss.backward(retain_graph=True)
        optimizer.step()
        with self.assertRaisesRegex(RuntimeError, "modified by an inplace operation"):
            loss.backward()

    def test_parameters_that_were_edited_here_are_sent(self):
        modules = [network() for _ in range(2)]
        modules[1].load_state_dict(modules[0].state_dict())
        optimizers = (torch.optim.Adam(modules[0].parameters(), lr=0.1),
                      self.remote(RemoteAdam, modules[1].parameters(), lr=0.1))
        fresh = network().state_dict()
        for i in range(4):
            for module, optimizer in zip(modules, optimizers):
                if i == 2:
                    module.load_state_dict(fresh)
                backward(module)
                optimizer.step()
        self.assert_close(modules[1].parameters(), modules[0].parameters())
        self.assertEqual(optimizers[1].state_dict()["state"][0]["step"], 4.0)

    def test_sparse_gradients_are_refused_as_by_pytorch(self):
        table = torch.nn.Embedding(5, 2, sparse=True)
        table(torch.tensor([1, 2])).sum().backward()
        optimizer = self.remote(RemoteAdamW, table.parameters())
        with self.assertRaisesRegex(
                RuntimeError,
                "^Adam does not support sparse gradients, please consider SparseAdam instead$"):
            optimizer.step()

    def test_nonfinite_values_flow_as_in_pytorch(self):
        weight = parameter(2)
        optimizer = self.remote(RemoteAdam, [weight])
        weight.grad = torch.tensor([float("nan"), 1.0])
        optimizer.step()
        self.assertTrue(weight[0].isnan() and weight[1].isfinite())

    def test_zero_grad(self):
        weight = parameter(2)
        optimizer = self.remote(RemoteAdam, [weight])
        weight.grad = torch.ones(2)
        optimizer.zero_grad(set_to_none=False)
        self.assertTrue(torch.equal(weight.grad, torch.zeros(2)))
        optimizer.zero_grad(set_to_none=True)
        self.assertIsNone(weight.grad)


class Types(RemoteCase):
    """Every type of a parameter, by PyTorch's tolerances; the bits are another suite's."""

    def compare(self, dtypes, **options):
        values = [torch.randn(8, 16).to(dtype) for dtype in dtypes]
        ours = [torch.nn.Parameter(value.clone()) for value in values]
        theirs = [torch.nn.Parameter(value.clone()) for value in values]
        optimizers = (self.remote(RemoteAdam, ours, lr=0.1, **options),
                      torch.optim.Adam(theirs, lr=0.1, **options))
        for _ in range(3):
            for p, q in zip(ours, theirs):
                p.grad = torch.randn_like(p)
                q.grad = p.grad.clone()
            for optimizer in optimizers:
                optimizer.step()
        for p, q in zip(ours, theirs):
            torch.testing.assert_close(p, q)
        states = [optimizer.state_dict() for optimizer in optimizers]
        for index, state in states[0]["state"].items():
            for name, value in state.items():
                torch.testing.assert_close(value, states[1]["state"][index][name])
        for loaded in reversed(states):  # and back, both ways
            optimizers[0].load_state_dict(loaded)
            again = optimizers[0].state_dict()
            for index, state in again["state"].items():
                for name, value in state.items():
                    self.assertTrue(torch.equal(value, loaded["state"][index][name]), name)

    def test_each(self):
        half = (torch.float16, torch.bfloat16) if TORCH >= (2, 4) else ()
        for dtype in (torch.float64, torch.complex64, torch.complex128, *half):
            for flag in (None, "foreach", "fused"):
                if dtype.is_complex and (flag == "fused" or TORCH < (2, 0)) and flag:
                    continue
                if flag == "fused" and TORCH < (2, 4):
                    continue
                self.name = remote.new_name()
                with self.subTest(dtype=dtype, flag=flag):
                    amsgrad = flag is None and (TORCH >= (2, 0) or not dtype.is_complex)
                    self.compare([dtype], amsgrad=amsgrad, weight_decay=0.1,
                                 eps=0.1 if dtype == torch.float16 else 1e-8,
                                 **({flag: True} if flag else {}))

    def test_many_in_one_model(self):
        self.compare([torch.float64, torch.float32, torch.complex128, torch.complex64,
                      *((torch.bfloat16, torch.float32) if TORCH >= (2, 4) else ())])

    def test_gradients_that_are_views(self):
        """Conjugated and negated views have the values in no memory."""
        value = torch.randn(4, dtype=torch.complex64)
        ours, theirs = torch.nn.Parameter(value.clone()), torch.nn.Parameter(value.clone())
        optimizers = (self.remote(RemoteAdam, [ours]), torch.optim.Adam([theirs]))
        ours.grad = torch.randn(4, dtype=torch.complex64).conj()
        self.assertTrue(ours.grad.is_conj())
        theirs.grad = ours.grad.resolve_conj()
        for optimizer in optimizers:
            optimizer.step()
        torch.testing.assert_close(ours, theirs)


class Groups(RemoteCase):
    def test_edits_are_sent_before_the_step(self):
        weights = [parameter(3), parameter(3)]
        twins = [torch.nn.Parameter(w.detach().clone()) for w in weights]
        ours = self.remote(RemoteAdam, [{"params": [weights[0]]}, {"params": [weights[1]], "lr": 0.5}])
        theirs = torch.optim.Adam([{"params": [twins[0]]}, {"params": [twins[1]], "lr": 0.5}])
        edits = ({}, {"lr": 0.25}, {"betas": (0.5, 0.75)}, {"weight_decay": 0.5}, {"eps": 0.125},
                 {"maximize": True})
        for edit in edits:
            for optimizer in (ours, theirs):
                optimizer.param_groups[1].update(edit)
                for p in weights + twins:
                    p.grad = torch.arange(3.0)
                optimizer.step()
            self.assert_close(weights, twins, str(edit))
        options = self.model()["paramGroups"][1]["options"]
        self.assertEqual((options["lr"], options["betas"], options["maximize"]),
                         (0.25, [0.5, 0.75], True))
        self.assertEqual(self.model()["paramGroups"][0]["options"]["lr"], 0.001)

    def test_an_edit_that_is_refused_steps_nothing_and_can_be_mended(self):
        weight = parameter(3)
        optimizer = self.remote(RemoteAdam, [weight])
        weight.grad = torch.ones(3)
        optimizer.param_groups[0]["lr"] = -1.0
        with self.assertRaises(ValueError) as got:
            optimizer.step()
        self.assertEqual(str(got.exception), "Invalid learning rate: -1.0")
        self.assertEqual(self.version(), 0)
        optimizer.param_groups[0]["lr"] = 0.5
        optimizer.step()
        self.assertEqual(self.version(), 1)

    def test_keys_of_the_users_own_are_kept(self):
        optimizer = self.remote(RemoteAdam, [{"params": [parameter(3)], "name": "head", "scale": 2}])
        group = optimizer.state_dict()["param_groups"][0]
        self.assertEqual((group["name"], group["scale"]), ("head", 2))
        optimizer.param_groups[0].update(scale=[3], hidden=object())
        optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
        optimizer.step()
        said = {e["key"]: e["json"] for e in self.model()["paramGroups"][0]["extra"]}
        self.assertEqual(said, {"name": '"head"', "scale": "[3]"})

    def test_nothing_is_sent_when_nothing_changed(self):
        weight = parameter(3)
        optimizer = self.remote(RemoteAdam, [weight])
        optimizer._client.set_options = lambda *_: self.fail("options were sent")
        for _ in range(2):
            weight.grad = torch.ones(3)
            optimizer.step()

    def test_schedulers(self):
        schedulers = torch.optim.lr_scheduler
        rows = (
            lambda o: schedulers.StepLR(o, 2, 0.5),
            lambda o: schedulers.ExponentialLR(o, 0.9),
            lambda o: schedulers.CosineAnnealingLR(o, 5),
            lambda o: schedulers.LambdaLR(o, lambda epoch: 1 / (epoch + 1)),
            lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=8),
            lambda o: schedulers.CyclicLR(o, 0.01, 0.1, step_size_up=2, cycle_momentum=False),
        )
        for i, make in enumerate(rows):
            self.name = remote.new_name()
            module = network()
            modules = (module, twin(module))
            optimizers = (torch.optim.Adam(modules[0].parameters(), lr=0.1),
                          self.remote(RemoteAdam, modules[1].parameters(), lr=0.1))
            attached = [make(optimizer) for optimizer in optimizers]
            for _ in range(6):
                for each, optimizer, scheduler in zip(modules, optimizers, attached):
                    backward(each)
                    optimizer.step()
                    scheduler.step()
            with self.subTest(row=i):
                self.assert_close(modules[1].parameters(), modules[0].parameters())

    def test_a_scheduler_that_looks_at_the_loss(self):
        weight = parameter(3)
        optimizer = self.remote(RemoteAdam, [weight], lr=1.0)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
        for _ in range(3):
            weight.grad = torch.ones(3)
            optimizer.step()
            scheduler.step(1.0)
        self.assertEqual(self.model()["paramGroups"][0]["options"]["lr"], 0.5)

    def test_a_tensor_for_a_learning_rate(self):
        weight = parameter(3)
        other = torch.nn.Parameter(weight.detach().clone())
        optimizer = self.remote(RemoteAdam, [weight], lr=0.1)
        optimizer.param_groups[0]["lr"] = torch.tensor(0.25)
        original = torch.optim.Adam([other], lr=0.25)
        weight.grad = other.grad = torch.ones(3)
        optimizer.step()
        original.step()
        self.assert_close([weight], [other])
        optimizer.param_groups[0]["foreach"] = True
        with self.assertRaisesRegex(RuntimeError, "lr as a Tensor is not supported"):
            optimizer.step()


class Growing(RemoteCase):
    """add_param_group() while the model trains."""

    def test_as_in_pytorch(self):
        for kind, original in ((RemoteAdam, torch.optim.Adam), (RemoteAdamW, torch.optim.AdamW)):
            self.name = remote.new_name()
            values = [torch.randn(3), torch.randn(2, 2), torch.randn(())]
            sides = []
            for each in (kind, original):
                params = [torch.nn.Parameter(value.clone()) for value in values]
                optimizer = (self.remote if each is kind else lambda k, *a, **o: k(*a, **o))(
                    each, params[:1], lr=0.1)
                sides.append((params, optimizer))
            for i in range(5):
                for params, optimizer in sides:
                    if i == 2:
                        optimizer.add_param_group({"params": params[1:], "lr": 0.5, "mine": 7})
                    for p in params[: 3 if i >= 2 else 1]:
                        p.grad = torch.ones_like(p) * (i + 1)
                    optimizer.step()
                self.assert_close(sides[0][0], sides[1][0])
            ours, theirs = (optimizer.state_dict() for _, optimizer in sides)
            self.assertEqual(ours["param_groups"], theirs["param_groups"])
            self.assertEqual({i: s["step"] for i, s in ours["state"].items()}, {0: 5, 1: 3, 2: 3})
            sides[1][1].load_state_dict(ours)
            sides[0][1].load_state_dict(theirs)
            groups = self.model()["paramGroups"]
            self.assertEqual([group["options"]["lr"] for group in groups], [0.1, 0.5])

    def test_what_is_refused_leaves_all_as_it_was(self):
        weight = parameter(3)
        optimizer = self.remote(RemoteAdam, [weight])
        for group, text in (({"params": [weight]}, "some parameters appear in more than one"),
                            ({"params": [parameter(2)], "lr": -1.0}, "Invalid learning rate: -1.0"),
                            ({"params": [torch.randn(2, requires_grad=True) * 2]}, "non-leaf")):
            with self.assertRaisesRegex(ValueError, text):
                optimizer.add_param_group(group)
            self.assertEqual(len(optimizer.param_groups), 1)
        self.assertEqual(len(self.model()["tensors"]), 1)
        weight.grad = torch.ones(3)
        optimizer.step()
        optimizer.add_param_group({"params": [parameter(2)]})
        self.assertEqual(len(self.model()["tensors"]), 2)

    @unittest.skipIf(TORCH < (2, 6), "named parameters came with 2.6")
    def test_names_are_the_keys(self):
        optimizer = self.remote(RemoteAdam, [("a", parameter(2))])
        with self.assertRaisesRegex(ValueError, "with/without names"):
            optimizer.add_param_group({"params": [parameter(2)]})
        optimizer.add_param_group({"params": [("b", parameter(2))]})
        self.assertEqual([t["key"] for t in self.model()["tensors"]], ["a", "b"])

    def test_several_workers_add_it_once(self):
        modules = [[parameter(2)], [parameter(2)]]
        optimizers = [self.remote(RemoteAdam, module, worker=worker)
                      for module, worker in zip(modules, "ab")]
        for module, optimizer in zip(modules, optimizers):
            module.append(parameter(3))
            optimizer.add_param_group({"params": module[1:]})
        self.assertTrue(torch.equal(modules[0][1], modules[1][1]))
        self.assertEqual(len(self.model()["paramGroups"]), 2)
        for module, optimizer in zip(modules, optimizers):
            for p in module:
                p.grad = torch.ones_like(p)
            optimizer.step()
        self.assertEqual(self.version(), 2)


class Scaler(RemoteCase):
    def test_a_fused_step_divides_and_writes_back(self):
        weight = parameter(3)
        other = torch.nn.Parameter(weight.detach().clone())
        optimizer = self.remote(RemoteAdam, [weight], fused=True)
        original = torch.optim.Adam([other])
        weight.grad, other.grad = torch.full((3,), 512.0), torch.full((3,), 4.0)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(128.0), torch.tensor(0.0)
        optimizer.step()
        original.step()
        self.assertTrue(torch.equal(weight.grad, other.grad))
        self.assert_close([weight], [other])

    def test_what_was_found_skips_the_step(self):
        for found in (1.0, 2.0):
            self.name = remote.new_name()
            weight = parameter(3)
            before = weight.detach().clone()
            optimizer = self.remote(RemoteAdam, [weight], fused=True)
            weight.grad = torch.full((3,), 512.0)
            optimizer.grad_scale, optimizer.found_inf = torch.tensor(128.0), torch.tensor(found)
            optimizer.step()
            self.assertTrue(torch.equal(weight, before))
            self.assertTrue(torch.equal(weight.grad, torch.full((3,), 512.0)))
            self.assertEqual(self.version(), 0)

    def test_only_fused_takes_them(self):
        weight = parameter(3)
        optimizer = self.remote(RemoteAdam, [weight])
        weight.grad = torch.ones(3)
        optimizer.found_inf = torch.tensor(0.0)
        with self.assertRaisesRegex(AssertionError, "Expected grad_scale and found_inf to be None"):
            optimizer.step()

    @unittest.skipIf(TORCH < (2, 4), "GradScaler came to the CPU with 2.3, fused with 2.4")
    def test_gradscaler(self):
        for fused in (True, False):
            for unscaled in (True, False):
                with self.subTest(fused=fused, unscaled=unscaled):
                    self.name = remote.new_name()
                    self.compare_scaler(fused, unscaled)

    def compare_scaler(self, fused, unscaled):
        module = network()
        modules = (module, twin(module))
        optimizers = (torch.optim.Adam(modules[0].parameters(), lr=0.1, fused=fused),
                      self.remote(RemoteAdam, modules[1].parameters(), lr=0.1, fused=fused))
        scalers = [torch.amp.GradScaler("cpu", init_scale=128.0, growth_interval=2) for _ in "ab"]
        for i in range(5):
            for each, optimizer, scaler in zip(modules, optimizers, scalers):
                optimizer.zero_grad()
                loss = each(INPUTS).sum() * each.extra
                scaler.scale(loss).backward()
                if i == 2:
                    each.extra.grad.fill_(float("inf"))
                if unscaled:
                    scaler.unscale_(optimizer)
                scaler.step(optimizer)
                scaler.update()
            self.assert_close(modules[1].parameters(), modules[0].parameters())
        self.assertEqual(scalers[0].get_scale(), scalers[1].get_scale())
        self.assertEqual(self.version(), 4)
        with self.assertRaisesRegex(RuntimeError, "Closure use is not currently supported"):
            scalers[1].step(optimizers[1], closure=lambda: 1)


class Closures(RemoteCase):
    def test_the_loss_is_returned_and_reported(self):
        module = network()
        optimizer = self.remote(RemoteAdam, module.parameters())
        calls = []

        def closure():
            calls.append(torch.is_grad_enabled())
            return backward(module)

        loss = optimizer.step(closure)
        self.assertEqual(calls, [True])
        self.assertIsInstance(loss, torch.Tensor)
        (record,) = self.records()
        self.assertEqual(record["metrics"], [{"key": "loss", "value": loss.item()}])
        self.assertEqual(self.version(), 1)

    def records(self):
        import json
        return [json.loads(line) for line in self.rest("/steps").body.splitlines()]

    def test_a_closure_that_raises_steps_nothing(self):
        module = network()
        optimizer = self.remote(RemoteAdam, module.parameters())
        backward(module)
        with self.assertRaises(ZeroDivisionError):
            optimizer.step(lambda: 1 / 0)
        self.assertEqual(self.version(), 0)

    def test_a_loss_that_is_no_number_is_returned_all_the_same(self):
        module = network()
        optimizer = self.remote(RemoteAdam, module.parameters())

        def closure():
            backward(module)
            return {"loss": 1}

        self.assertEqual(optimizer.step(closure), {"loss": 1})
        self.assertEqual(self.version(), 1)


if __name__ == "__main__":
    unittest.main()
