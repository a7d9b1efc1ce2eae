"""A model's state as the daemon writes and reads it: a safetensors file with the tensors of a
parameter under its key and `.exp_avg`, `.exp_avg_sq`, `.max_exp_avg_sq`, `.step`, and the groups as JSON
in its metadata. Only what RemoteAdam needs of it, and of files that the daemon wrote or will check."""

import json
import math
import struct

import torch

_NAMES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64",
    torch.complex64: "C64", torch.int64: "I64",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_PAIRS = "adamd.complex128"  # keys of tensors that stand as pairs of F64: the format has no complex128
_SUFFIXES = ("", ".exp_avg", ".exp_avg_sq", ".max_exp_avg_sq")


def read(buffer):
    """{name: tensor}: copies, so that the buffer may go."""
    (size,) = struct.unpack_from("<Q", buffer)
    header = json.loads(bytes(buffer[8 : 8 + size]))
    pairs = header.pop("__metadata__", {}).get(_PAIRS)
    names = {key + suffix for key in pairs.split("\n") for suffix in _SUFFIXES} if pairs else ()
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
        tensor = torch.empty(shape, dtype=dtype)
        if begin < end:
            flat = torch.frombuffer(buffer, dtype=torch.uint8, count=end - begin,
                                    offset=8 + size + begin)
            tensor.view(-1).view(torch.uint8).copy_(flat)
        tensors[name] = torch.view_as_complex(tensor) if name in names else tensor
    return tensors


def _number(value, is_tensor):
    if math.isinf(value):
        value = "Infinity"
    return {"tensor": value} if is_tensor else value


def describe_group(group, keys, names):
    """A param group as the metadata have it. `names`: PyTorch's param_names, or None."""
    options = group.options
    described = {
        **options._asdict(), "lr": _number(options.lr, options.tensor_lr),
        "betas": [_number(beta, options.tensor_betas) for beta in options.betas],
        "eps": _number(options.eps, False), "weight_decay": _number(options.weight_decay, False),
        **{key: json.loads(text) for key, text in group.extras}, "params": keys,
    }
    del described["tensor_lr"], described["tensor_betas"]
    if names is not None:
        described["param_names"] = names
    return described


def write(tensors, groups):
    """The pieces of a file as (address, bytes) pairs, and what has to stay alive for them. `tensors`:
    {name: contiguous tensor in memory}; `groups`: what describe_group() gave."""
    metadata = {"format": "pt", "adamd.format": "1", "adamd.param_groups": json.dumps(groups)}
    pairs = [name for name, tensor in tensors.items() if tensor.dtype == torch.complex128
             and not name.endswith(_SUFFIXES[1:])]
    if pairs:
        metadata[_PAIRS] = "\n".join(pairs)
    header = {"__metadata__": metadata}
    pieces, at = [], 0
    for name, tensor in tensors.items():
        if tensor.dtype == torch.complex128:
            tensor = torch.view_as_real(tensor)
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [at, at + size]}
        at += size
        if size:
            pieces.append((tensor.data_ptr(), size))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    head = torch.frombuffer(bytearray(struct.pack("<Q", len(text)) + text), dtype=torch.uint8)
    return [(head.data_ptr(), head.numel()), *pieces], head
