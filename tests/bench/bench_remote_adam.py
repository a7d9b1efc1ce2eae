#!/usr/bin/env python3
"""RemoteAdam.step() beside the same push + step + pull from C, over loopback, round by round.

    PYTHON tests/bench/bench_remote_adam.py [--build build/release] [--count 10000000] [--tensors 1] [--rounds 31]

PYTHON is one that has torch. The peer is bare_push_pull: libadamd-client called from C, with one flat gradient,
in the same daemon. What is left is what Python and PyTorch cost. The bar is a ratio of 1.1 at 10 M.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "client" / "python"), str(ROOT / "tests" / "integration")]

WARM_UP = 3


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build" / "release")
    parser.add_argument("--count", type=int, default=10_000_000)
    parser.add_argument("--tensors", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=31)
    return parser.parse_args()


def start_bare(arguments, endpoint):
    return subprocess.Popen(
        [arguments.build / "bin" / "bare_push_pull", endpoint, "bare", str(arguments.count)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def bare_once(process):
    """Milliseconds."""
    process.stdin.write("\n")
    process.stdin.flush()
    return int(process.stdout.readline()) / 1e6


def step_once(optimizer):
    begun = time.perf_counter_ns()
    optimizer.step()
    return (time.perf_counter_ns() - begun) / 1e6


def measure(arguments, daemon):
    import torch
    from adamd.torch import RemoteAdam

    endpoint = f"http://127.0.0.1:{daemon.port}"
    parameters = [torch.nn.Parameter(piece.clone()) for piece in
                  torch.zeros(arguments.count).tensor_split(arguments.tensors)]
    for parameter in parameters:
        parameter.grad = torch.rand(parameter.shape) - 0.5
    optimizer = RemoteAdam(parameters, model="remote", endpoint=endpoint)
    bare = start_bare(arguments, endpoint)
    times = [], []
    for i in range(WARM_UP + arguments.rounds):
        pair = bare_once(bare), step_once(optimizer)
        if i >= WARM_UP:
            for kept, value in zip(times, pair):
                kept.append(value)
    optimizer.close()
    bare.stdin.close()
    bare.wait()
    return torch.__version__, [statistics.median(kept) for kept in times]


def main():
    arguments = parse()
    os.environ["ADAMD_BIN"] = str(arguments.build / "bin" / "adamd")
    os.environ.setdefault("ADAMD_CLIENT_LIBRARY",
                          str(arguments.build / "lib" / "libadamd-client.so.1"))
    from harness import Daemon

    with Daemon() as daemon:
        version, (bare, remote) = measure(arguments, daemon)
    load = os.getloadavg()[0]
    print(f"# torch {version}; {os.cpu_count()} processors, load {load:.1f}; {arguments.count} "
          f"float32 in {arguments.tensors} tensors; {arguments.rounds} rounds; medians in ms")
    print("from C   RemoteAdam.step()   ratio")
    print(f"{bare:6.2f}   {remote:17.2f}   {remote / bare:5.2f}")


if __name__ == "__main__":
    main()
