#!/usr/bin/env python3
"""Walks a descriptor set and tells where the schema breaks its own rules.

usage: schema.py SET.binpb            the schema: no complaint is allowed
       schema.py SET.binpb --bad FILE  a schema made to be bad: each line of FILE must be a complaint

The rules (proto/adamd/v1/adamd.proto, first comment): proto3 without optional, maps, groups, Any or
messages that contain themselves; depth at most 4 in requests and 5 in replies; bytes only in
TensorChunk.data, the highest number of its message; enum zeros unspecified; names as buf's STANDARD
has them. The descriptor set is read with a dozen lines of wire format, so that no protobuf library
is needed here.
"""

import re
import sys

DEPTH_REQUEST, DEPTH_REPLY = 4, 5
TYPE_GROUP, TYPE_MESSAGE, TYPE_BYTES, TYPE_ENUM = 10, 11, 12, 14
LABEL_REQUIRED = 2
PASCAL = re.compile(r"[A-Z][A-Za-z0-9]*$")
SNAKE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*$")


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def fields(data):
    """The fields of an encoded message: {number: [values]}."""
    found = {}
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        wire = tag & 7
        if wire == 0:
            value, at = varint(data, at)
        elif wire == 2:
            size, at = varint(data, at)
            value, at = data[at : at + size], at + size
        else:
            size = {1: 8, 5: 4}[wire]
            value, at = data[at : at + size], at + size
        found.setdefault(tag >> 3, []).append(value)
    return found


def text(message, number):
    return message.get(number, [b""])[0].decode()


def number(message, index):
    return message.get(index, [0])[0]


class Schema:
    def __init__(self, data):
        self.messages, self.enums, self.methods, self.complaints = {}, {}, [], []
        for encoded in fields(data).get(1, []):
            self.read_file(fields(encoded))

    def complain(self, where, what):
        self.complaints.append(f"{where}: {what}")

    def read_file(self, file):
        name, package = text(file, 1), text(file, 2)
        if text(file, 12) != "proto3":
            self.complain(name, "not proto3")
        own = package.startswith("adamd.")
        if own and not name.startswith(package.replace(".", "/") + "/"):
            self.complain(name, "not in the folder of its package")
        if own and not re.search(r"\.v[0-9]+$", package):
            self.complain(name, "the package has no version")
        for encoded in file.get(4, []):
            self.read_message(package, fields(encoded), own)
        for encoded in file.get(5, []):
            self.read_enum(package, fields(encoded), own)
        for encoded in file.get(6, []):
            self.read_service(package, fields(encoded))
        if own and file.get(6) and (file.get(4) or file.get(5)):
            self.complain(name, "messages and services in one file, which protobuf-c compiles")

    def read_message(self, scope, message, own):
        name = f"{scope}.{text(message, 1)}"
        self.messages[name] = {
            "fields": [fields(field) for field in message.get(2, [])],
            "oneofs": [text(fields(oneof), 1) for oneof in message.get(8, [])],
            "map": number(fields(message.get(7, [b""])[0]), 7) != 0,
            "own": own,
        }
        for encoded in message.get(3, []):
            self.read_message(name, fields(encoded), own)
        for encoded in message.get(4, []):
            self.read_enum(name, fields(encoded), own)

    def read_enum(self, scope, enum, own):
        values = [fields(value) for value in enum.get(2, [])]
        self.enums[f"{scope}.{text(enum, 1)}"] = {
            "values": [(text(value, 1), number(value, 2)) for value in values],
            "own": own,
        }

    def read_service(self, package, service):
        name = f"{package}.{text(service, 1)}"
        if not name.endswith("Service"):
            self.complain(name, "the name of a service ends in Service")
        for encoded in service.get(2, []):
            method = fields(encoded)
            if not PASCAL.match(text(method, 1)):
                self.complain(f"{name}.{text(method, 1)}", "not PascalCase")
            self.methods.append((text(method, 2)[1:], text(method, 3)[1:]))

    def check_fields(self, name, message):
        highest = max((number(field, 3) for field in message["fields"]), default=0)
        for field in message["fields"]:
            where = f"{name}.{text(field, 1)}"
            if not SNAKE.match(text(field, 1)):
                self.complain(where, "not lower_snake_case")
            if number(field, 17):
                self.complain(where, "optional, which protobuf-c 1.4 refuses")
            if number(field, 4) == LABEL_REQUIRED:
                self.complain(where, "required")
            if number(field, 5) == TYPE_GROUP:
                self.complain(where, "a group")
            if text(field, 6) == ".google.protobuf.Any":
                self.complain(where, "Any")
            if number(field, 5) == TYPE_BYTES:
                if not where.endswith(".TensorChunk.data"):
                    self.complain(where, "bytes outside TensorChunk.data")
                elif number(field, 3) != highest:
                    self.complain(where, "not the highest number of its message")

    def check_message(self, name, message):
        if message["map"]:
            self.complain(name, "a map")
            return
        if not PASCAL.match(name.rsplit(".", 1)[1]):
            self.complain(name, "not PascalCase")
        self.check_fields(name, message)
        members = [f for f in message["fields"] if 9 in f and not number(f, 17)]
        for index, oneof in enumerate(message["oneofs"]):
            inside = [text(f, 1) for f in members if number(f, 9) == index]
            if len(inside) == 1 and oneof != f"{inside[0]}_oneof":
                self.complain(f"{name}.{oneof}", f"presence of {inside[0]}, not named after it")

    def check_enum(self, name, enum):
        prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", name.rsplit(".", 1)[1]).upper() + "_"
        if enum["values"][0] != (prefix + "UNSPECIFIED", 0):
            self.complain(name, f"the first value is not {prefix}UNSPECIFIED = 0")
        for value, _ in enum["values"]:
            if not value.startswith(prefix):
                self.complain(f"{name}.{value}", f"does not begin with {prefix}")

    def depth(self, name, above=()):
        """Levels of messages under this one, itself included; 0 if it contains itself."""
        if name in above:
            self.complain(name, "contains itself")
            return 0
        below = [
            self.depth(text(field, 6)[1:], above + (name,))
            for field in self.messages[name]["fields"]
            if number(field, 5) == TYPE_MESSAGE
        ]
        return 1 + max(below, default=0)

    def check(self):
        for name, message in self.messages.items():
            if message["own"]:
                self.check_message(name, message)
                self.depth(name)
        for name, enum in self.enums.items():
            if enum["own"]:
                self.check_enum(name, enum)
        for request, reply in self.methods:
            for name, most in ((request, DEPTH_REQUEST), (reply, DEPTH_REPLY)):
                levels = self.depth(name)
                if levels > most:
                    self.complain(name, f"{levels} levels deep, at most {most}")
        return sorted(set(self.complaints))


def main(arguments):
    with open(arguments[0], "rb") as file:
        schema = Schema(file.read())
    complaints = schema.check()
    if len(arguments) == 3 and arguments[1] == "--bad":
        with open(arguments[2], encoding="utf-8") as file:
            wanted = {line.strip() for line in file if line.strip()}
        for line in sorted(wanted ^ set(complaints)):
            print("missing:" if line in wanted else "unexpected:", line)
        return 0 if wanted == set(complaints) else 1
    for line in complaints:
        print(line)
    print(f"{len(schema.messages)} messages, {len(schema.enums)} enums, {len(schema.methods)} methods")
    return 1 if complaints or not schema.methods else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
