"""PyTorch's step without what depends on an element's place or on a library that rounds carelessly.

Two of PyTorch's operations are answered here; everything else in its step is exact to the bit as it is.

- The PyPI build takes the square root of float32 and float64 tensors from a library whose results are now and
  then one unit off in the last place. numpy's is the processor's, and right.
- The weight decay of float16 and bfloat16, g + wd * p, has one rounding in the elements that fill a vector,
  and two in those left over. The operands are filled up, so that none is left over.
"""

import numpy
import torch
from torch.nn.functional import pad
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten
_VECTOR = 32  # elements, on the widest processor
_WIDE = (torch.float32, torch.float64)


def _root(tensor):
    if tensor.dtype not in _WIDE:
        return torch.sqrt(tensor)  # computed in float32 and rounded once more: right in every case
    return torch.from_numpy(numpy.asarray(numpy.sqrt(tensor.detach().numpy())))


def _root_in_place(tensors):
    for tensor in tensors:
        tensor.copy_(_root(tensor))


def _add(tensor, other, alpha):
    if tensor.dtype in _WIDE or tensor.shape != other.shape:
        return torch.add(tensor, other, alpha=alpha)
    room = -tensor.numel() % _VECTOR
    filled = torch.add(*(pad(operand.detach().flatten(), (0, room)) for operand in (tensor, other)),
                       alpha=alpha)
    return filled[:tensor.numel()].reshape(tensor.shape)


def _add_in_place(tensors, others, alpha):
    for tensor, other in zip(tensors, others):
        tensor.copy_(_add(tensor, other, alpha))


class Exact(TorchDispatchMode):
    """Around optimizer.step()."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is _ATEN.sqrt.default:
            return _root(args[0])
        if func is _ATEN._foreach_sqrt.default:
            return [_root(tensor) for tensor in args[0]]
        if func is _ATEN._foreach_sqrt_.default:
            return _root_in_place(args[0])
        if func is _ATEN.add.Tensor and "alpha" in kwargs:
            return _add(*args, kwargs["alpha"])
        if func is _ATEN._foreach_add.List and "alpha" in kwargs:
            return [_add(*pair, kwargs["alpha"]) for pair in zip(*args)]
        if func is _ATEN._foreach_add_.List and "alpha" in kwargs:
            return _add_in_place(*args, kwargs["alpha"])
        return func(*args, **kwargs)
