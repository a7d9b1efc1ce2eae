"""A model's state as the daemon writes and reads it: a safetensors file with the tensors of a
parameter under its key and `.exp_avg`, `.exp_avg_sq`, `.max_exp_avg_sq`, `.step`, and the groups as JSON
in its metadata. Only what RemoteAdam needs of it, and of files that the daemon wrote or will check."""

import json
import math
import struct

import torch

_NAMES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64",
    torch.complex64: "C64", torch.complex128: "C128", torch.int64: "I64",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


def read(buffer):
    """{name: tensor}: copies, so that the buffer may go."""
    (size,) = struct.unpack_from("<Q", buffer)
    header = json.loads(bytes(buffer[8 : 8 + size]))
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
        if begin == end:
            tensors[name] = torch.empty(shape, dtype=dtype)
            continue
        flat = torch.frombuffer(buffer, dtype=torch.uint8, count=end - begin, offset=8 + size + begin)
        tensors[name] = flat.clone().view(dtype).reshape(shape)
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
    header = {"__metadata__": {"format": "pt", "adamd.format": "1",
                               "adamd.param_groups": json.dumps(groups)}}
    pieces, at = [], 0
    for name, tensor in tensors.items():
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
