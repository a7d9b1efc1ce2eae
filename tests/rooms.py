#!/usr/bin/env python3
"""The rooms hold: what a room may not use does not compile there.

    tests/rooms.py BUILD        a configured and built directory, for example build/dev

The compile commands of a room's sources are taken from the build, and each room's header is tried with
them. Libraries lie where every compiler looks, so for these the includes are read.
"""

import json
import pathlib
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]

HEADERS = {
    "proto": "adamd/v1/adamd.pb-c.h",
    "core": "adamd/model.h",
    "server": "exchange.h",
    "client": "adamd/client.h",
}
# The rooms that a folder's sources see. What is not listed must not compile.
SEES = {
    "core": {"core"},
    "server": {"proto", "core", "server"},
    "client/lib": {"proto", "client"},
    "client/adamctl": {"proto", "client"},
    "client/examples": {"client"},
}
LIBRARIES = {
    "uv.h": {"server"},
    "microhttpd.h": {"server"},
    "cjson/cJSON.h": {"server", "client/lib", "client/adamctl"},
    "protobuf-c/protobuf-c.h": {"server", "client/lib", "client/adamctl"},
    "pthread.h": {"core", "server"},
    "sys/socket.h": {"server", "client/lib", "client/adamctl"},
}


def room_of(path):
    """The longest listed folder that `path` lies in."""
    text = path.relative_to(ROOT).as_posix()
    rooms = [room for room in SEES if text.startswith(room + "/")]
    return max(rooms, key=len, default=None)


def flags_of(command):
    """Compiler and what decides which headers are found."""
    words = shlex.split(command["command"])
    flags = [words[0]]
    for i, word in enumerate(words):
        if word.startswith(("-I", "-D", "-std")):
            flags.append(word)
        elif word == "-isystem":
            flags += [word, words[i + 1]]
    return tuple(flags)


def can_include(flags, header):
    result = subprocess.run(
        [*flags, "-E", "-x", "c", "-o", "/dev/null", "-"], input=f'#include "{header}"\n',
        capture_output=True, text=True, cwd=ROOT, check=False)
    return result.returncode == 0


def check_compiler(build):
    """No source of a room may find a header that the room does not see; some source finds the others."""
    flags = {room: set() for room in SEES}
    for command in json.loads((build / "compile_commands.json").read_text()):
        path = pathlib.Path(command["file"])
        if ROOT in path.parents and build.resolve() not in path.resolve().parents:
            flags.get(room_of(path), set()).add(flags_of(command))
    wrong = []
    for room, seen in SEES.items():
        if not flags[room]:
            wrong.append(f"{room}: nothing is compiled there")
        for other, header in HEADERS.items():
            found = any(can_include(each, header) for each in flags[room])
            if found != (other in seen):
                verb = "can include" if found else "cannot include"
                wrong.append(f"{room} {verb} {header} of {other}")
    return wrong


def check_libraries():
    wrong = []
    for room in SEES:
        for path in sorted((ROOT / room).rglob("*.[ch]")):
            for name in re.findall(r'^#include [<"](.+?)[>"]', path.read_text(), re.M):
                owner = room_of(path)
                if owner == room and owner not in LIBRARIES.get(name, {owner}):
                    wrong.append(f"{path.relative_to(ROOT)} includes {name}")
    return wrong


def main():
    wrong = check_compiler(pathlib.Path(sys.argv[1])) + check_libraries()
    for line in wrong:
        print(line)
    print(f"{len(SEES)} rooms, {len(wrong)} wrong includes")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
