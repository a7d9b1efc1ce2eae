"""Envelopes and just enough protobuf to read and write the heads of pushes and pulls."""

import struct

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def envelope(message):
    return b"\0" + struct.pack(">I", len(message)) + message


def open_envelope(data):
    """(message, what follows)."""
    flags, size = struct.unpack_from(">BI", data)
    assert flags == 0, flags
    return data[5 : 5 + size], data[5 + size :]


def varint(number):
    result = bytearray()
    while number > 127:
        result.append(number & 127 | 128)
        number >>= 7
    result.append(number)
    return bytes(result)


def encode(fields):
    """`fields`: [(number, value)]; ints become varints, floats doubles, str and bytes as such;
    ("fixed32", n) is one of those."""
    result = b""
    for number, value in fields:
        if isinstance(value, tuple):
            result += varint(number << 3 | FIXED32) + struct.pack("<I", value[1])
        elif isinstance(value, int):
            result += varint(number << 3 | VARINT) + varint(value)
        elif isinstance(value, float):
            result += varint(number << 3 | FIXED64) + struct.pack("<d", value)
        else:
            data = value.encode() if isinstance(value, str) else value
            result += varint(number << 3 | BYTES) + varint(len(data)) + data
    return result


def _read_varint(data, at):
    shift = result = 0
    while True:
        byte = data[at]
        at += 1
        result |= (byte & 127) << shift
        if byte < 128:
            return result, at
        shift += 7


def decode(data):
    """{field number: last value}."""
    fields, at = {}, 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            fields[number], at = _read_varint(data, at)
        elif kind == FIXED64:
            (fields[number],) = struct.unpack_from("<d", data, at)
            at += 8
        elif kind == FIXED32:
            (fields[number],) = struct.unpack_from("<I", data, at)
            at += 4
        else:
            size, at = _read_varint(data, at)
            fields[number] = data[at : at + size]
            at += size
    return fields


# adamd.v1.PushHeader, PushGradientsResponse and PullHeader, by field number.
PUSH_HEADER = {
    "worker": 1, "generation": 2, "epoch": 3, "sequence": 4, "base_version": 5, "weight": 6,
    "data_type": 7, "layout_digest": 8, "tensors": 9, "byte_size": 10, "crc32c": 11,
}
PUSH_RESPONSE = {"outcome": 1, "sequence": 2, "generation": 3, "version": 4, "duplicate": 9}
PULL_HEADER = {"generation": 1, "version": 2, "etag": 3, "not_modified": 4, "byte_size": 5}


def push_header(**values):
    return encode([(PUSH_HEADER[name], value) for name, value in values.items()])


def named(message, names):
    """A decoded message by field names; what is not there is 0."""
    fields = decode(message)
    return {name: fields.get(number, 0) for name, number in names.items()}
