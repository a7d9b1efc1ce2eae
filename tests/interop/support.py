"""What every module here imports first: puts the integration suite's harness and the Python client within
reach, and PyTorch on one thread."""

import os
import pathlib
import sys

_ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path += [str(_ROOT / "tests" / "integration"), str(_ROOT / "client" / "python")]

import torch  # pylint: disable=wrong-import-position
from harness import find_binary  # pylint: disable=wrong-import-position

# The client library of the daemon's build.
_LIBRARY = pathlib.Path(find_binary()).parents[1] / "lib" / "libadamd-client.so.1"
os.environ.setdefault("ADAMD_CLIENT_LIBRARY", str(_LIBRARY))

# One thread: the fused kernel ends each thread's part with a tail that is rounded otherwise.
torch.set_num_threads(1)

# A current PyTorch, which has the arithmetic that adamd promises; Debian's 1.13 has not.
IS_CURRENT = tuple(int(n) for n in torch.__version__.split("+", 1)[0].split(".")[:2]) >= (2, 7)


def environment():
    """For scripts of client/python/examples."""
    return {**os.environ, "PYTHONPATH": str(_ROOT / "client" / "python")}
