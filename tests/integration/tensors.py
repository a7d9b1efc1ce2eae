"""Tensors as the tests need them: arrays, reals of every dtype, safetensors files, checksums.

Written without the daemon's code and without any library, so that the two can disagree.
"""

import array
import json
import struct
import sys

FLOAT32 = "F32"
INT64 = "I64"
_CODES = {FLOAT32: "f", INT64: "q", "F64": "d", "C64": "f"}


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


def encode(dtype, values):
    """The bytes of numbers of any of the format's types, each rounded once. Pairs for C64."""
    if dtype in _CODES:
        return to_bytes(array.array(_CODES[dtype], values))
    if dtype == "F16":
        return b"".join(_encode_half(value) for value in values)
    assert dtype == "BF16"
    return b"".join(_encode_bfloat16(value) for value in values)


def decode(dtype, data):
    """The numbers in these bytes: an array, exact."""
    if dtype in _CODES:
        return from_bytes(_CODES[dtype], data)
    if dtype == "F16":
        return array.array("f", (v for (v,) in struct.iter_unpack("<e", data)))
    assert dtype == "BF16"
    return array.array("f", (struct.unpack("<f", b"\0\0" + data[i : i + 2])[0]
                             for i in range(0, len(data), 2)))


def _encode_half(value):
    try:
        return struct.pack("<e", struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return struct.pack("<e", float("inf") if value > 0 else float("-inf"))


def _encode_bfloat16(value):
    if value != value:
        return b"\xc0\x7f"
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    return struct.pack("<I", bits + 0x7FFF + (bits >> 16 & 1))[2:]


def write_safetensors(tensors, metadata=None):
    """`tensors`: {key: (shape, array)}, arrays of "f", "d" or "q"; or {key: (shape, dtype, bytes)}."""
    header, body, at = {}, [], 0
    if metadata:
        header["__metadata__"] = metadata
    for key, (shape, *values) in tensors.items():
        if len(values) == 2:
            dtype, data = values
        else:
            dtype = {"f": FLOAT32, "d": "F64", "q": INT64}[values[0].typecode]
            data = to_bytes(values[0])
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
    """({key: (shape, array)}, metadata). Asserts what the format asks for. Arrays of "f" also for
    what is narrower."""
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
        tensors[key] = (entry["shape"], decode(entry["dtype"], bytes(body[begin:end])))
    assert covered == len(body), "the data end with the file"
    return tensors, metadata


def read_dtypes(data):
    """{key: the name of its type} of a safetensors file."""
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    return {key: entry["dtype"] for key, entry in header.items() if key != "__metadata__"}


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
