#!/usr/bin/env python3
"""curl pushes a gradient of 1 GiB: the rate beside a bare read loop, memory, and the loop's stall.

    tests/bench/bench_upload.py [--build build/release] [--bytes 1073741824] [--rounds 5]

The peer is bare_sink: a plain read loop into one buffer, fed by the same curl command with the same
file, in the same run. The model is MANUAL and each push replaces the last, so that nothing but the
way of the bytes is timed. Then three such pushes at once, while /livez is asked all the time.
"""

import argparse
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))

from harness import Daemon, eventually  # noqa: E402

MIB = 1 << 20
TYPE = "Content-Type: application/octet-stream"


def start_curl(path, url):
    form = "%{http_code} %{time_total} %{time_starttransfer}"
    return subprocess.Popen(
        ["curl", "-sS", "-o", os.devnull, "-w", form, "-X", "POST", "-H", TYPE, "-T", path, url],
        stdout=subprocess.PIPE, text=True)


def finish_curl(process):
    """Seconds."""
    code, total, _ = process.communicate()[0].split()
    assert code == "200", code
    return float(total)


class Pinger(threading.Thread):
    """How long /livez takes, again and again."""

    def __init__(self, daemon):
        super().__init__(daemon=True)
        self.connection, self.times, self.over = daemon.connection(), [], threading.Event()

    def run(self):
        while not self.over.wait(0.002):
            begun = time.monotonic()
            self.connection.request("GET", "/livez").expect(200)
            self.times.append((time.monotonic() - begun) * 1e3)

    def stop(self):
        self.over.set()
        self.join()
        self.connection.close()
        return sorted(self.times)


def print_machine():
    with open("/proc/cpuinfo", encoding="ascii") as info:
        model = next((l.split(":")[1].strip() for l in info if l.startswith("model name")), "?")
    print(f"# {model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}")


def target(daemon, worker):
    worker.sequence += 1
    return f"http://127.0.0.1:{daemon.port}{worker.target(worker.sequence, replace='true')}"


def compare(daemon, sink_port, worker, path, arguments):
    """Rates in turns."""
    bare, ours = [], []
    for _ in range(arguments.rounds + 1):
        bare.append(finish_curl(start_curl(path, f"http://127.0.0.1:{sink_port}/")))
        ours.append(finish_curl(start_curl(path, target(daemon, worker))))
    bare, ours = (statistics.median(times[1:]) for times in (bare, ours))
    gigabytes = arguments.bytes / 1e9
    print(f"one push: adamd {gigabytes / ours:.2f} GB/s, bare read loop {gigabytes / bare:.2f} GB/s, "
          f"ratio {bare / ours:.2f} (at least 0.80)")


def longest_stall(daemon):
    """Milliseconds between two polls of the daemon's loop, since this was asked last: by the clock,
    which includes the time for which the machine ran something else, and in work of its own. They
    are told in the log, on SIGUSR2."""
    told = daemon.log().count("stall_us=")
    daemon.process.send_signal(signal.SIGUSR2)
    eventually(lambda: daemon.log().count("stall_us=") > told)
    return [int(re.findall(name + r"=(\d+)", daemon.log())[-1]) / 1e3
            for name in ("stall_us", "stall_work_us")]


def three_at_once(daemon, workers, path):
    """How long the loop stood still, as the daemon and as a bystander saw it."""
    pinger = Pinger(daemon)
    longest_stall(daemon)
    pinger.start()
    begun = time.monotonic()
    for process in [start_curl(path, target(daemon, w)) for w in workers]:
        finish_curl(process)
    took = time.monotonic() - begun
    times, (stall, work) = pinger.stop(), longest_stall(daemon)
    print(f"three pushes at once: {took:.2f} s; longest stall of the loop {stall:.1f} ms, "
          f"of which it worked at most {work:.1f} ms (below 20)")
    print(f"/livez meanwhile: {len(times)} answers, median {times[len(times) // 2]:.1f} ms, 99 % "
          f"{times[int(len(times) * .99)]:.1f} ms, longest {times[-1]:.1f} ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--bytes", type=int, default=1 << 30)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    programs = pathlib.Path(arguments.build).resolve() / "bin"
    sink = subprocess.Popen([programs / "bare_sink", str(arguments.bytes)],
                            stdout=subprocess.PIPE, text=True)
    print_machine()
    try:
        with tempfile.TemporaryDirectory(prefix="adamd-bench-") as directory, \
                Daemon(binary=str(programs / "adamd")) as daemon:
            path = os.path.join(directory, "gradient")
            with open(path, "wb") as file:
                file.truncate(arguments.bytes)
            model = daemon.create_model("m", {"w": [arguments.bytes // 4]},
                                        {"trigger": "TRIGGER_MANUAL"})
            model.initialize()
            workers = [model.register(f"w{i}") for i in range(3)]
            compare(daemon, int(sink.stdout.readline()), workers[0], path, arguments)
            report_memory(daemon, model)
            three_at_once(daemon, workers, path)
            report_memory(daemon, model)
    finally:
        sink.kill()
        sink.wait()


def report_memory(daemon, model):
    arena = int(model.get()["residentBytes"])
    peak = daemon.memory("VmHWM")
    print(f"memory: peak {peak / MIB:.0f} MiB, arenas {arena / MIB:.0f} MiB, "
          f"the rest {(peak - arena) / MIB:.1f} MiB")


if __name__ == "__main__":
    main()
