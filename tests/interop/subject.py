"""Whose optimizer the cases ask: PyTorch's own, or the daemon's through RemoteAdam."""

import itertools
import unittest

import support
import torch
from harness import Daemon, seconds
from optim_cases import PATHS, Network, configs

needs_current = unittest.skipUnless(support.IS_CURRENT, "PyTorch has it since 2.7 or before")


def parameter(*values, dtype=torch.float32):
    return torch.nn.Parameter(torch.tensor(values, dtype=dtype))


def torchs(kind, parameters, **options):
    """PyTorch's optimizer, with which the other is compared."""
    return getattr(torch.optim, kind)(parameters, **options)


def train(networks, optimizers, forget=False, freeze=False):
    """One step of each. `forget`: nothing has a gradient; `freeze`: the second layer has none."""
    for network, optimizer in zip(networks, optimizers):
        optimizer.zero_grad()
        if not forget:
            network.loss().backward()
        if freeze:
            for weight in network.second.parameters():
                weight.grad = None
        optimizer.step()


class Subject:
    """make() makes the optimizer that is asked."""

    paths = PATHS if support.IS_CURRENT else PATHS[:2]

    def make(self, kind, parameters, **options):
        raise NotImplementedError

    def every(self, check, dtype=torch.float32, paths=None):
        """check(class's name, options with the way through PyTorch), each as a subtest."""
        for path in self.paths if paths is None else paths:
            for kind, options in configs(dtype):
                with self.subTest(kind=kind, **options, **path):
                    check(kind, {**options, **path})

    def trained(self, kind, named=False, **options):
        """(network, optimizer) after three steps"""
        network = Network(torch.float32)
        weights = list(network.named_parameters() if named else network.parameters())
        optimizer = self.make(kind, weights, **options)
        for _ in range(3):
            train([network], [optimizer])
        return network, optimizer


class Torch(Subject):
    def make(self, kind, parameters, **options):
        return torchs(kind, parameters, **options)


class Remote(Subject):
    """A daemon for the class, a model for each optimizer."""

    numbers = itertools.count(1)

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon().start()

    @classmethod
    def tearDownClass(cls):
        cls.daemon.stop()

    def setUp(self):
        self.made = {}

    def tearDown(self):
        for name, optimizer in self.made.items():
            optimizer.close()
            self.daemon.request("DELETE", f"/v1/models/{name}", force="true").expect(200)

    def make(self, kind, parameters, **options):
        import adamd.torch  # pylint: disable=import-outside-toplevel
        name = f"m{next(self.numbers)}"
        made = getattr(adamd.torch, "Remote" + kind)(
            parameters, endpoint=f"http://127.0.0.1:{self.daemon.port}", model=name,
            timeout=seconds(20), **options)
        self.made[name] = made
        return made
