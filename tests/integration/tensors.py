"""Tensors as the tests need them: float32 arrays, safetensors files, checksums.

Written without the daemon's code and without any library, so that the two can disagree.
"""

import array
import json
import struct
import sys

FLOAT32 = "F32"
INT64 = "I64"
_CODES = {FLOAT32: "f", INT64: "q"}


def floats(values):
    """float32 values, each rounded once."""
    return array.array("f", values)


def to_bytes(values):
    """Little-endian bytes of an array."""
    if sys.byteorder == "big":
        values = array.array(values.typecode, values)
        values.byteswap()
    return values.tobytes()


def from_bytes(code, data):
    values = array.array(code)
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def write_safetensors(tensors, metadata=None):
    """`tensors`: {key: (shape, array)}; arrays of "f" or "q"."""
    header, body, at = {}, [], 0
    if metadata:
        header["__metadata__"] = metadata
    for key, (shape, values) in tensors.items():
        dtype = {code: name for name, code in _CODES.items()}[values.typecode]
        data = to_bytes(values)
        header[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        body.append(data)
        at += len(data)
    return frame_safetensors(json.dumps(header), b"".join(body))


def frame_safetensors(header_text, body):
    """For files that a proper writer would not write, too."""
    head = header_text.encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + body


def read_safetensors(data):
    """({key: (shape, array)}, metadata). Asserts what the format asks for."""
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    assert size % 8 == 0, "the data of a safetensors file start at a multiple of 8"
    metadata = header.pop("__metadata__", {})
    assert all(isinstance(value, str) for value in metadata.values())
    body = memoryview(data)[8 + size :]
    tensors, covered = {}, 0
    for key, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        assert begin == covered and end >= begin, f"{key}: data neither overlap nor have holes"
        covered = end
        tensors[key] = (entry["shape"], from_bytes(_CODES[entry["dtype"]], bytes(body[begin:end])))
    assert covered == len(body), "the data end with the file"
    return tensors, metadata


def _crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


assert crc32c(b"123456789") == 0xE3069283
