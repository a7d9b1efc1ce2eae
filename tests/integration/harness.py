"""Starts the real daemon and talks to it, for tests. Python's standard library only.

    with Daemon("--cpu-variant", "base") as daemon:
        model = daemon.create_model("m", {"w": [4]}, policy={"trigger": "TRIGGER_BARRIER"})
        model.initialize()
        worker = model.register("w0")
        reply = worker.push([1, 2, 3, 4])
        assert reply.json()["outcome"] == "PUSH_OUTCOME_APPLIED"

Environment: ADAMD_BIN, the daemon (else that of the first built preset); ADAMD_TEST_SCALE, by which
every limit of time is multiplied (sanitizers are slow); ADAMD_TEST_KEEP, to keep the logs.
"""

import atexit
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.parse

import tensors

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCALE = float(os.environ.get("ADAMD_TEST_SCALE", "1"))
OUTCOMES = ("APPLIED", "STAGED", "SKIPPED_NONFINITE", "STALE")
_COMPLAINTS = (
    "ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "WARNING: ThreadSanitizer",
    "runtime error:", "assertion failed", "stack smashing",
)
_running = set()


def seconds(value):
    """A limit of time, scaled for slow builds."""
    return value * SCALE


def find_binary(name="adamd"):
    if name == "adamd" and "ADAMD_BIN" in os.environ:
        return os.path.abspath(os.environ["ADAMD_BIN"])
    if "ADAMD_BIN" in os.environ:
        return str(pathlib.Path(os.environ["ADAMD_BIN"]).absolute().with_name(name))
    for preset in ("release", "dev", "cpu", "asan", "tsan"):
        path = ROOT / "build" / preset / "bin" / name
        if path.exists():
            return str(path)
    raise FileNotFoundError(f"{name} is not built: set ADAMD_BIN, or build a preset")


def is_sanitized():
    """Whether the daemon is a sanitizer's build: its shadow is many times the memory that is used."""
    return re.search(rb"lib[at]san\.so", pathlib.Path(find_binary()).read_bytes()) is not None


def eventually(check, limit=5.0, pause=0.01):
    """The first true value of check(), which is asked again and again for `limit` seconds. That the
    daemon does not take a connection is no value yet."""
    end = time.monotonic() + seconds(limit)
    while True:
        try:
            value = check()
        except (OSError, http.client.HTTPException):
            value = None
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds(limit):g} s: {check.__doc__ or check}")
        time.sleep(pause)


def machine_has(variant):
    """Whether the processor has what `--cpu-variant` needs, as /proc/cpuinfo tells."""
    wanted = {"avx2": {"avx2", "fma"}, "avx512": {"avx512f", "avx512vl", "avx512dq"}}[variant]
    with open("/proc/cpuinfo", encoding="ascii") as info:
        for line in info:
            if line.startswith("flags"):
                return wanted <= set(line.split(":")[1].split())
    return False


def environment():
    """That of the tests without what is the tests' own: the daemon reads every ADAMD_…"""
    return {k: v for k, v in os.environ.items() if not k.startswith("ADAMD_")}


class Background:
    """A call in a thread of its own. result() waits, and raises what the call raised."""

    def __init__(self, call, *args, **kwargs):
        self._value = self._error = None
        self._thread = threading.Thread(target=self._run, args=(call, args, kwargs), daemon=True)
        self._thread.start()

    def _run(self, call, args, kwargs):
        try:
            self._value = call(*args, **kwargs)
        except BaseException as error:  # pylint: disable=broad-except
            self._error = error

    def done(self):
        return not self._thread.is_alive()

    def result(self, limit=20.0):
        self._thread.join(seconds(limit))
        if self._thread.is_alive():
            raise AssertionError(f"no result within {seconds(limit):g} s")
        if self._error:
            raise self._error
        return self._value


# --------------------------------------------------------------------------------------- answers


class Reply:
    """Status, headers (lower-case names) and body of an answer."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def _debug(self):
        """ErrorInfo of Connect's error body, or the members of RFC 9457's."""
        try:
            body = self.json()
        except ValueError:
            return {}
        for detail in body.get("details", ()):
            return detail.get("debug", {})
        return body

    @property
    def reason(self):
        """The stable reason of an error body; None for another body."""
        return self._debug().get("reason")

    @property
    def metadata(self):
        return {m["key"]: m["value"] for m in self._debug().get("metadata", ())}

    @property
    def fields(self):
        """The names of the offending fields."""
        return [v["field"] for v in self._debug().get("fieldViolations", ())]

    @property
    def outcome(self):
        return self.json()["outcome"].removeprefix("PUSH_OUTCOME_")

    def expect(self, status, reason=None):
        if self.status != status or (reason is not None and self.reason != reason):
            wanted = f"{status} {reason or ''}"
            raise AssertionError(f"wanted {wanted}, got {self}")
        return self

    def __repr__(self):
        return f"{self.status} {self.reason or ''} {self.body[:400]!r}"


class Connection:
    """One HTTP connection, kept alive. Not for several threads at once."""

    def __init__(self, port, timeout=20.0):
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds(timeout))

    def request(self, method, path, body=None, headers=None, **query):
        headers = dict(headers or {})
        query = {k: v for k, v in query.items() if v is not None}
        if query:
            path += ("&" if "?" in path else "?") + urllib.parse.urlencode(query)
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        if method in ("POST", "PUT", "PATCH") and body is None:
            headers.setdefault("Content-Length", "0")
        try:
            self._http.request(method, path, body=body, headers=headers)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before the body was sent: the answer is there to be read
        answer = self._http.getresponse()
        reply = Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        if reply.headers.get("connection") == "close":
            self._http.close()
        return reply

    def close(self):
        self._http.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# ---------------------------------------------------------------------------------------- daemon


class Daemon:
    """The daemon's process, its directory and its log."""

    def __init__(self, *flags, binary=None, env=None):
        self.binary = binary or find_binary()
        self.flags, self.env = flags, env or {}
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="adamd-test-"))
        self.log_path = self.directory / "log"
        self.process = self.port = None
        self._local = threading.local()

    def start(self):
        port_file = self.directory / "port"
        port_file.unlink(missing_ok=True)
        command = [self.binary, "--listen", "127.0.0.1:0", "--port-file", str(port_file)]
        # What is set for another daemon is not meant for this one.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("ADAMD_")}
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*command, *self.flags], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self.directory, env={**environment(), **self.env},
            )
        _running.add(self)
        self.port = int(self._wait(lambda: port_file.exists() and port_file.read_text().strip()))
        self._wait(lambda: self.get("/readyz").status == 200)
        return self

    def _wait(self, check):
        end = time.monotonic() + seconds(10)
        while True:
            if self.process.poll() is not None:
                raise AssertionError(f"the daemon ended: {self.process.returncode}\n{self.log()}")
            try:
                value = check()
            except OSError:
                value = None
            if value:
                return value
            if time.monotonic() > end:
                raise AssertionError(f"the daemon is not ready\n{self.log()}")
            time.sleep(0.005)

    @property
    def pid(self):
        return self.process.pid

    def log(self):
        return self.log_path.read_text(errors="replace")

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait(self, limit=35.0):
        """The exit status; asserts that no sanitizer and no assertion complained."""
        status = self.process.wait(seconds(limit))
        log = self.log()
        for complaint in _COMPLAINTS:
            assert complaint not in log, log[-20000:]
        return status

    def stop(self):
        """Asks it to end, and asserts that it ends cleanly."""
        try:
            if self.process.poll() is None:
                self.terminate()
            status = self.wait()
            assert status == 0, f"exit status {status}\n{self.log()[-20000:]}"
        finally:
            self.discard()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def discard(self):
        """Whatever state it is in: no process and no files stay."""
        _running.discard(self)
        if self.process and self.process.poll() is None:
            self.kill()
        if "ADAMD_TEST_KEEP" not in os.environ:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, *_):
        if kind is None:
            self.stop()
        else:
            self.discard()

    # What the system knows of the process.

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self):
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def memory(self, name="VmRSS"):
        """Bytes, by a line of /proc/PID/status: VmRSS now, VmHWM the most it ever was."""
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
        raise KeyError(name)

    # Talking to it.

    def connection(self, timeout=20.0):
        return Connection(self.port, timeout)

    def request(self, method, path, body=None, headers=None, timeout=20.0, **query):
        """On a connection of its own."""
        with self.connection(timeout) as connection:
            return connection.request(method, path, body, headers, **query)

    def get(self, path, **kwargs):
        return self.request("GET", path, **kwargs)

    def post(self, path, body=None, **kwargs):
        return self.request("POST", path, body, **kwargs)

    def socket(self, timeout=20.0):
        """For bytes that no HTTP library would send."""
        connected = socket.create_connection(("127.0.0.1", self.port), seconds(timeout))
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected

    def exchange(self, data, timeout=5.0):
        """Sends bytes, and returns all that comes until the peer closes or `timeout` is over."""
        with self.socket(timeout) as connected:
            connected.sendall(data)
            answer = b""
            try:
                while piece := connected.recv(65536):
                    answer += piece
            except (TimeoutError, ConnectionResetError):
                pass
            return answer

    def create_model(self, name, shapes, policy=None, groups=None, start=None, dtypes=None,
                     **options):
        """`shapes`: {key: [dimensions]}; `options`: the defaults by PyTorch's names; `start`:
        {key: values} to put as parameters, which makes the model active; `dtypes`: {key:
        "FLOAT16"}, float32 where it says nothing."""
        body = {"tensors": [{"key": k, "shape": [str(n) for n in s]} for k, s in shapes.items()]}
        for tensor in body["tensors"]:
            if tensor["key"] in (dtypes or {}):
                tensor["dataType"] = "DATA_TYPE_" + dtypes[tensor["key"]]
        if policy:
            body["stepPolicy"] = policy
        if groups:
            body["paramGroups"] = groups
        if options:
            body["defaults"] = options
        self.post("/v1/models", body, model_id=name).expect(200)
        model = Model(self, name, shapes)
        if start:
            model.put_parameters(start)
        return model


@atexit.register
def _end_all():
    for daemon in list(_running):
        daemon.discard()


class Model:
    def __init__(self, daemon, name, shapes):
        self.daemon, self.name, self.shapes = daemon, name, shapes
        self.path = f"/v1/models/{name}"

    def count(self, key):
        product = 1
        for dimension in self.shapes[key]:
            product *= dimension
        return product

    @property
    def parameter_count(self):
        return sum(self.count(key) for key in self.shapes)

    def get(self):
        return self.daemon.get(self.path).expect(200).json()

    @property
    def version(self):
        return int(self.get().get("version", 0))

    @property
    def generation(self):
        return int(self.get()["generation"])

    def counts(self):
        """push_counts as numbers; what is not said is zero."""
        names = ("applied", "staged", "duplicate", "stale", "skipped", "rejected", "aborted")
        said = self.get().get("pushCounts", {})
        return {name: int(said.get(name, 0)) for name in names}

    def patch(self, body, **query):
        return self.daemon.request("PATCH", self.path, body, **query)

    def initialize(self):
        self.daemon.post(self.path + ":initialize").expect(200)
        return self

    def put_parameters(self, values, force=True):
        data = tensors.write_safetensors(
            {key: (self.shapes[key], tensors.floats(v)) for key, v in values.items()})
        return self.put_state(data, force="true" if force else None).expect(200)

    def put_state(self, data, headers=None, **query):
        headers = {"Content-Type": "application/x-safetensors", **(headers or {})}
        return self.daemon.request("PUT", self.path + "/state", data, headers, **query)

    def get_state(self):
        return self.daemon.get(self.path + "/state", timeout=60).expect(200)

    def digest(self):
        return self.get_state().headers["adamd-state-digest"]

    def pull(self, headers=None, **query):
        return self.daemon.get(self.path + "/parameters", headers=headers, **query)

    def parameters(self):
        """{key: array} of the version of now."""
        read, _ = tensors.read_safetensors(self.pull().expect(200).body)
        return {key: values for key, (_, values) in read.items()}

    def step(self, body=None):
        return self.daemon.post(self.path + ":step", body)

    def zero_grad(self, body=None):
        return self.daemon.post(self.path + ":zeroGrad", body)

    def records(self, after=0, page_size=None):
        text = self.daemon.get(
            self.path + "/steps", after_version=after, page_size=page_size).expect(200).body
        return [json.loads(line) for line in text.splitlines()]

    def all_records(self):
        """Every record that is kept, page by page."""
        records, after = [], 0
        while page := self.records(after):
            records += page
            after = int(page[-1]["version"])
        return records

    def register(self, worker, **query):
        reply = self.daemon.request(
            "POST", self.path + "/workers", worker_id=worker, **query).expect(200).json()
        return Worker(self, worker, int(reply["epoch"]), int(reply["generation"]))

    def worker(self, name):
        return self.daemon.get(f"{self.path}/workers/{name}")


class Worker:
    """A registered worker that counts its sequences. push() sends one request and returns its
    answer, whatever it is; only an answer that decides the push uses up the number."""

    def __init__(self, model, name, epoch, generation):
        self.model, self.name, self.epoch, self.generation = model, name, epoch, generation
        self.sequence = 0

    def query(self, sequence=None, **more):
        sequence = self.sequence + 1 if sequence is None else sequence
        return {"worker": self.name, "epoch": self.epoch, "sequence": sequence, **more}

    def target(self, sequence=None, **more):
        """Path and query of a push, for those who write the request themselves."""
        text = urllib.parse.urlencode(self.query(sequence, **more))
        return f"{self.model.path}/gradients?{text}"

    def push(self, values, sequence=None, connection=None, headers=None, timeout=20.0, **more):
        """`values`: numbers for all tensors in order, {key: numbers}, or bytes as they are."""
        asked = {"Content-Type": "application/octet-stream", **(headers or {})}
        if isinstance(values, dict):
            asked["Content-Type"] = "application/x-safetensors"
            values = tensors.write_safetensors(
                {k: (self.model.shapes[k], tensors.floats(v)) for k, v in values.items()})
        elif not isinstance(values, (bytes, bytearray, memoryview)):
            values = tensors.to_bytes(tensors.floats(values))
        query = self.query(sequence, **more)
        path = self.model.path + "/gradients"
        if connection:
            reply = connection.request("POST", path, values, asked, **query)
        else:
            reply = self.model.daemon.request("POST", path, values, asked, timeout, **query)
        decided = reply.status == 200 or reply.reason == "STALE"
        if decided and int(query["sequence"]) == self.sequence + 1:
            self.sequence += 1
        return reply

    def stage(self, values, wait_ms=20, **more):
        """Pushes into a round that cannot close yet, and does not wait: it is staged on return.
        What became of it is learnt by pushing the same again."""
        return self.push(values, headers={"Request-Timeout-Ms": str(wait_ms)}, **more).expect(
            504, "STILL_STAGED")

    def renew(self):
        path = f"{self.model.path}/workers/{self.name}:renew"
        return self.model.daemon.request("POST", path, epoch=self.epoch)

    def deregister(self):
        path = f"{self.model.path}/workers/{self.name}"
        return self.model.daemon.request("DELETE", path, epoch=self.epoch)

    def info(self):
        return self.model.worker(self.name).expect(200).json()


class DaemonTest(unittest.TestCase):
    """Tests that share one daemon; each makes models of its own."""

    flags = ()

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(*cls.flags).start()

    @classmethod
    def tearDownClass(cls):
        cls.daemon.stop()

    @property
    def name(self):
        """A model's name that no other test of the class has."""
        return self._testMethodName.removeprefix("test_")[:60].replace("_", "-").strip("-").strip("-")

    def assert_untouched(self, model, call):
        """call() leaves version and state as they were, bit for bit."""
        before = model.get_state()
        result = call()
        after = model.get_state()
        self.assertEqual(before.headers["etag"], after.headers["etag"])
        self.assertEqual(before.body, after.body)
        return result
