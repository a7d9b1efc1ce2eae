"""What the tests of adamd.torch share: paths, one daemon for a module's tests, models and a comparison.

Run by a python that has torch. The daemon is found as in the integration tests, and with it the library, unless
ADAMD_CLIENT_LIBRARY names one or the daemon is a sanitizer's: its library would want the sanitizer to come first.
"""

import copy
import itertools
import os
import pathlib
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "client" / "python"
sys.path[:0] = [str(PACKAGE), str(ROOT / "tests" / "integration")]

try:
    import torch
except ImportError as error:
    raise unittest.SkipTest(f"there is no torch: {error}") from error

from harness import Daemon, find_binary  # noqa: E402  pylint: disable=wrong-import-position

_beside = pathlib.Path(find_binary()).resolve().parents[1]
if "ADAMD_CLIENT_LIBRARY" not in os.environ and _beside.name not in ("asan", "tsan"):
    os.environ["ADAMD_CLIENT_LIBRARY"] = str(_beside / "lib" / "libadamd-client.so.1")

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
_numbers = itertools.count(1)


def new_name():
    return f"model-{next(_numbers)}"


class RemoteCase(unittest.TestCase):
    """Tests with a daemon for all of them, and a model for each."""

    flags = ()

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(*cls.flags).start()
        cls.addClassCleanup(cls.daemon.stop)
        cls.endpoint = f"http://127.0.0.1:{cls.daemon.port}"

    def setUp(self):
        torch.manual_seed(1)
        self.name = new_name()

    def remote(self, kind, params, *args, **options):
        """An optimizer of the test's model."""
        options = {"endpoint": self.endpoint, "model": self.name, **options}
        optimizer = kind(params, *args, **options)
        self.addCleanup(optimizer.close)
        return optimizer

    def rest(self, path=""):
        return self.daemon.get(f"/v1/models/{self.name}{path}").expect(200)

    def model(self):
        return self.rest().json()

    def version(self):
        return int(self.model().get("version", 0))

    def assert_close(self, one, other, message=None):
        """By PyTorch's tolerances for float32."""
        for a, b in zip(one, other):
            torch.testing.assert_close(a, b, rtol=1.3e-6, atol=1e-5, equal_nan=True, msg=message)


def network():
    """The small one of PyTorch's own tests, and a scalar beside it."""
    layers = torch.nn.Sequential(
        torch.nn.Linear(2, 3), torch.nn.Sigmoid(), torch.nn.Linear(3, 1), torch.nn.Sigmoid())
    layers.register_parameter("extra", torch.nn.Parameter(torch.tensor(0.5)))
    return layers


def twin(module):
    return copy.deepcopy(module)


INPUTS = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])


def backward(module):
    module.zero_grad(set_to_none=True)
    loss = (module(INPUTS) * module.extra).sum() if hasattr(module, "extra") else module(INPUTS).sum()
    loss.backward()
    return loss


def environment():
    """For a process of another script: it finds the package and the library that these tests use."""
    path = os.pathsep.join(filter(None, [str(PACKAGE), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
