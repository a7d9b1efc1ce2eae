"""Where parameters and gradients lie, and the tables of addresses that the library is given. What a step does
for each parameter is here; with thousands of them these loops are what Python costs."""

import torch

from adamd import library
from adamd.client import Tensor

_STRIDED = torch.strided


def is_direct(tensor):
    """Whether its memory is the row-major elements, here."""
    return (tensor.is_cpu and tensor.layout is _STRIDED and tensor.is_contiguous()
            and not tensor.is_neg() and not tensor.is_conj())


def plain(tensor):
    """The same values as row-major elements in this machine's memory; itself if it is that already."""
    if is_direct(tensor):
        return tensor
    return tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()


def bytes_of(tensor):
    return tensor.numel() * tensor.element_size()


def increment_versions(tensors):
    """Tells autograd that these were written, as PyTorch's own step does by writing them."""
    function = getattr(torch.autograd.graph, "increment_version", None)
    for tensor in tensors:
        if function is not None:
            function(tensor)
        else:  # before 2.1: nothing is written, and views share the count
            tensor.detach().view(-1)[:0].zero_()


class Slot:
    """A parameter, and where it goes."""

    __slots__ = ("param", "key", "is_named", "index", "place", "pointer", "staging", "version")

    def __init__(self, param, name, position):
        self.param, self.is_named = param, name is not None
        self.key = name if self.is_named else str(position)
        self.index = None  # in the daemon's table
        self.place = None  # of the library's: the address that it pulls to
        self.pointer = None  # the parameter's, when `place` was filled
        self.staging = None  # what is pulled into, if the parameter's own memory will not do
        self.version = None  # autograd's, when the daemon's value was written last

    def describe(self):
        return Tensor(self.key, tuple(self.param.shape), str(self.param.dtype).split(".")[1],
                      self.is_named)

    def point(self):
        """Fills `place`."""
        self.staging = None if is_direct(self.param) else torch.empty(
            self.param.shape, dtype=self.param.dtype)
        self.pointer = self.param.data_ptr()
        target = self.param if self.staging is None else self.staging
        self.place.data, self.place.byte_size = target.data_ptr(), bytes_of(target)


class Table:
    """All parameters, in the order of the daemon's table."""

    def __init__(self, slots):
        self.slots = sorted(slots, key=lambda slot: slot.index)
        self.gradients = (library.Gradient * len(slots))()
        self._entries = list(self.gradients)
        self._owners = [None] * len(slots)  # by entry: the slot that it was filled for last
        self._buffers = (library.Buffer * len(slots))()
        for slot, place in zip(self.slots, self._buffers):
            slot.place, slot.pointer = place, None

    def collect(self):
        """Fills the table of gradients. (gradient, what lies as it is sent) of those that there are: they
        have to stay until it was sent."""
        kept = []
        for slot in self.slots:
            grad = slot.param.grad
            if grad is None:
                continue
            if grad.is_sparse:
                raise RuntimeError("Adam does not support sparse gradients, please consider SparseAdam "
                                   "instead")
            sent = grad if is_direct(grad) else plain(grad)
            count = len(kept)
            entry = self._entries[count]
            if self._owners[count] is not slot:
                self._owners[count], entry.tensor = slot, slot.index
                entry.byte_size = bytes_of(sent)
            entry.data = sent.data_ptr()
            kept.append((grad, sent))
        return kept

    def collect_again(self, kept, i):
        """After a gradient was changed in place."""
        grad, sent = kept[i]
        if sent is not grad:
            kept[i] = grad, plain(grad)
            self._entries[i].data = kept[i][1].data_ptr()

    def buffers(self):
        """The table of where parameters go."""
        for slot in self.slots:
            if slot.pointer != slot.param.data_ptr() or (
                    slot.staging is None and not slot.param.is_contiguous()):
                slot.point()
        return self._buffers

    def take_pulled(self):
        """After a pull into buffers()."""
        increment_versions([slot.param for slot in self.slots if slot.staging is None])
        for slot in self.slots:
            if slot.staging is not None:
                slot.param.copy_(slot.staging)
        self.remember()

    def remember(self):
        """Parameters are as the daemon has them."""
        for slot in self.slots:
            slot.version = slot.param._version

    def is_changed(self):
        """Whether somebody else wrote to a parameter since, as far as autograd knows."""
        for slot in self.slots:
            if slot.param._version != slot.version:
                return True
        return False
