"""adamctl against the real daemon: what it prints, where, and with which exit code."""

import json
import pathlib
import subprocess
import tempfile
import unittest

import tensors
from harness import Background, Daemon, environment, eventually, find_binary, seconds

OK, FAILED, USAGE, NOT_FOUND, CONFLICT, UNAVAILABLE = range(6)


class Adamctl(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.program = find_binary("adamctl")

    def setUp(self):
        self.directory = tempfile.TemporaryDirectory(prefix="adamctl-test-")
        self.addCleanup(self.directory.cleanup)
        self.daemon = Daemon().start()
        self.addCleanup(self.daemon.discard)
        self.parameters = self.file("parameters", {"w": ([2, 3], [1, 2, 3, 4, 5, 6]), "b": ([], [0.5])})
        self.gradient = self.file("gradient", {"w": ([2, 3], [0.1] * 6), "b": ([], [0.5])})

    def file(self, name, values):
        path = pathlib.Path(self.directory.name, name + ".safetensors")
        path.write_bytes(tensors.write_safetensors(
            {key: (shape, tensors.floats(v)) for key, (shape, v) in values.items()}))
        return str(path)

    def run_ctl(self, *words, code=OK, env=None, endpoint=None):
        endpoint = endpoint or f"http://127.0.0.1:{self.daemon.port}"
        done = subprocess.run(
            [self.program, *words], capture_output=True, stdin=subprocess.DEVNULL,
            timeout=seconds(30), check=False,
            env={**environment(), "ADAMD_ENDPOINT": endpoint, **(env or {})})
        self.assertEqual(done.returncode, code, f"{words}: {done.stdout} {done.stderr}")
        self.assertNotIn(b"\033", done.stdout + done.stderr)  # colour is for terminals
        if code != OK:
            self.assertIn(b"error: ", done.stderr)
        return done

    def out(self, *words, **kwargs):
        return self.run_ctl(*words, **kwargs).stdout.decode()

    def error(self, *words, code, **kwargs):
        return self.run_ctl(*words, code=code, **kwargs).stderr.decode()

    def create(self, *flags):
        self.run_ctl("model", "create", "demo", "--from", self.parameters, "--init", *flags)

    def model(self):
        return json.loads(self.out("model", "get", "-o", "json"))

    def test_hooks(self):
        self.create()
        self.assertIn("no hooks", self.run_ctl("hook", "list").stderr.decode())
        said = self.run_ctl("hook", "add", "clip_grad_norm", "max_norm=1.5", "norm_type=inf")
        number = said.stderr.decode().split(" as hook ")[1].split()[0]
        self.run_ctl("hook", "add", "lr_schedule", "schedule=cosine", "t_max=10", "-m", "demo")
        listed = self.out("hook", "list")
        self.assertRegex(listed, rf"{number} +step-pre +clip_grad_norm +maxNorm=1.5 normType=Infinity")
        self.assertIn("schedule=cosine tMax=10", listed)
        hooks = json.loads(self.out("hook", "list", "-o", "json"))["hooks"]
        self.assertEqual([h["action"] for h in hooks], ["clip_grad_norm", "lr_schedule"])
        self.assertIn("removed", self.run_ctl("hook", "remove", number).stderr.decode())
        self.assertIn("gone already", self.run_ctl("hook", "remove", number).stderr.decode())
        self.error("hook", "add", code=USAGE)
        self.error("hook", "add", "ema", "0.5", code=USAGE)
        self.error("hook", "add", "ema", "--event", "later", code=USAGE)
        self.assertIn("decay must be", self.error("hook", "add", "ema", "decay=2", code=FAILED))

    def test_status_and_health(self):
        self.assertEqual(self.out("health"), "ok\n")
        self.assertIn("serving", self.out("status"))
        self.create()
        status = json.loads(self.out("status", "-o", "json"))
        self.assertEqual(status["models"]["models"][0]["name"], "models/demo")
        self.assertIn("demo   active", self.out("status"))

    def test_a_daemon_that_is_not_there(self):
        message = self.error("status", code=UNAVAILABLE, endpoint="http://127.0.0.1:1")
        self.assertIn("(CONNECTION)", message)
        self.assertIn("hint: ", message)
        self.error("health", code=UNAVAILABLE, endpoint="http://127.0.0.1:1")

    def test_mistakes_in_the_command_line(self):
        for words in (
            (), ("nothing",), ("model",), ("model", "nothing"), ("status", "--lr", "1"),
            ("status", "--nothing"), ("status", "--timeout"), ("status", "--timeout", "x"),
            ("status", "-o", "xml"), ("model", "create"), ("model", "create", "Demo"),
            ("model", "create", "demo"), ("model", "update"), ("push",), ("raw", "GET"),
            ("raw", "GET", "/v1\r\nA: b"), ("status", "--endpoint", "127.0.0.1:7440"),
            ("model", "update", "--betas", "0.9"), ("model", "update", "--quorum", "-1"),
            ("model", "update", "--policy", "sometimes"), ("model", "update", "--amsgrad=maybe"),
        ):
            with self.subTest(words=words):
                self.error(*words, code=USAGE)

    def test_help_names_every_command(self):
        text = self.out("help")
        for name in ("model create", "state load", "zero-grad", "steps", "raw"):
            self.assertIn(name, text)
        self.assertIn("--weight-decay", self.out("help", "model", "update"))
        self.assertTrue(self.out("version").startswith("adamctl "))

    def test_a_model_from_a_file(self):
        self.create("--lr", "0.01", "--betas", "(0.8, 0.99)", "--weight_decay", "0.1", "--amsgrad",
                    "--policy", "barrier", "--quorum", "2", "--deadline", "500ms")
        model = self.model()
        self.assertEqual(model["state"], "STATE_ACTIVE")
        self.assertEqual([t["key"] for t in model["tensors"]], ["w", "b"])
        options = model["paramGroups"][0]["options"]
        self.assertEqual((options["lr"], options["betas"], options["weightDecay"]),
                         (0.01, [0.8, 0.99], 0.1))
        self.assertTrue(options["amsgrad"])
        self.assertEqual(model["stepPolicy"]["trigger"], "TRIGGER_BARRIER")
        self.assertEqual(model["stepPolicy"]["deadline"], "0.500s")
        self.assertIn("2 x 3", self.out("model", "get"))
        self.assertIn("(EXISTS)", self.error("model", "create", "demo", "--from", self.parameters,
                                             code=CONFLICT))

    def test_groups(self):
        self.create()
        self.assertIn("GROUP", self.out("group", "list"))
        said = self.out("group", "update", "0", "--lr", "0.25", "--fused", "--extra", "initial_lr=0.5")
        self.assertIn("initial_lr=0.5", said)
        self.assertIn("fused", said)
        group = json.loads(self.out("group", "list", "-o", "json"))["paramGroups"][0]
        self.assertEqual((group["options"]["lr"], group["options"]["fused"]), (0.25, True))
        self.assertEqual(group["extra"], [{"key": "initial_lr", "json": "0.5"}])
        path = pathlib.Path(self.directory.name, "new.safetensors")
        path.write_bytes(tensors.write_safetensors(
            {"n": ([2], tensors.floats([1, 2]))},
            {"adamd.param_groups": json.dumps([{"params": ["n"], "lr": 0.125}])}))
        self.assertIn("0.125", self.out("group", "add", path))
        self.assertEqual([t["key"] for t in self.model()["tensors"]], ["w", "b", "n"])
        self.error("group", "update", "5", "--lr", "1", code=NOT_FOUND)
        self.error("group", "update", "x", "--lr", "1", code=USAGE)
        self.error("group", "update", "0", code=USAGE)
        self.error("group", "update", "0", "--extra", "initial_lr", code=USAGE)
        self.error("group", "add", code=USAGE)

    def test_a_model_from_json(self):
        path = pathlib.Path(self.directory.name, "model.json")
        path.write_text(json.dumps({"tensors": [{"key": "w", "shape": ["2"]}]}))
        self.run_ctl("model", "create", "j", "--json", str(path), "--zeros", "--lr", "1")
        self.assertEqual(self.model()["state"], "STATE_ACTIVE")
        path.write_text("[")
        self.error("model", "create", "k", "--json", str(path), code=FAILED)

    def test_files_that_are_none(self):
        path = pathlib.Path(self.directory.name, "x")
        for content in (b"", b"short", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0[]", b"\x04\0\0\0\0\0\0\0{xx}"):
            path.write_bytes(content)
            self.error("model", "create", "demo", "--from", str(path), code=FAILED)
        self.error("model", "create", "demo", "--from", "/nowhere/x", code=FAILED)
        self.error("push", str(path), code=FAILED)

    def test_the_daemon_words_are_passed_on(self):
        message = self.error("model", "create", "demo", "--from", self.parameters, "--lr", "-1",
                             code=FAILED)
        self.assertIn("Invalid learning rate: -1", message)
        self.assertIn("(BAD_FIELD)", message)
        self.error("model", "get", "nothing", code=NOT_FOUND)
        self.error("model", "get", code=NOT_FOUND)

    def test_the_only_model_is_meant(self):
        self.create()
        self.run_ctl("model", "get")
        self.run_ctl("model", "create", "second", "--from", self.parameters)
        self.assertIn("--model", self.error("worker", "list", code=USAGE))
        self.run_ctl("worker", "list", "--model", "second")

    def test_update(self):
        self.create()
        self.run_ctl("model", "update", "--lr", "0.5", "--no-amsgrad", "--policy", "each-push",
                     "--max-staleness", "0", "--display-name", "A demo")
        model = self.model()
        self.assertEqual(model["paramGroups"][0]["options"]["lr"], 0.5)
        self.assertEqual(model["stepPolicy"]["maxStaleness"], "0")
        self.assertEqual(model["displayName"], "A demo")

    def test_push_pull_and_steps(self):
        self.create("--lr", "0.1")
        self.assertIn("applied  version 1",
                      self.out("push", self.gradient, "--metric", "loss=1.5", "--worker", "w7"))
        steps = self.out("steps", "-o", "json").splitlines()
        self.assertEqual(json.loads(steps[0])["metrics"], [{"key": "loss", "value": 1.5}])
        self.assertIn("loss=1.5", self.out("steps"))
        path = pathlib.Path(self.directory.name, "pulled")
        self.run_ctl("pull", "-o", str(path))
        read, _ = tensors.read_safetensors(path.read_bytes())
        self.assertAlmostEqual(read["w"][1][0], 0.9, 5)
        self.assertEqual(self.run_ctl("pull").stdout, path.read_bytes())
        # The registration for this push does not stay.
        self.assertEqual(self.model().get("liveWorkers", 0), 0)
        self.error("push", self.file("strange", {"x": ([1], [1])}), code=FAILED)
        self.error("pull", "--min-version", "9", "--wait", "200ms", "--timeout", "1s",
                   code=UNAVAILABLE)
        self.assertIn("w7", self.out("worker", "list"))

    def test_manual_steps(self):
        self.create("--policy", "manual")
        self.assertIn("staged", self.out("push", self.gradient))
        self.assertIn("version 1", self.out("step", "--expected-version", "0", "--lr", "0.5"))
        self.assertIn("(ETAG_MISMATCH)", self.error("step", "--expected-version", "7", code=CONFLICT))
        self.run_ctl("zero-grad")
        self.assertIn("no step", self.out("step"))

    def test_state_goes_out_and_in(self):
        self.create()
        self.out("push", self.gradient)
        path = pathlib.Path(self.directory.name, "state")
        self.run_ctl("state", "save", str(path))
        before = path.read_bytes()
        self.out("push", self.gradient)
        self.assertIn("--yes", self.error("state", "load", str(path), "--force", code=USAGE))
        self.error("state", "load", str(path), code=CONFLICT)
        self.run_ctl("state", "load", str(path), "--force", "--yes")
        self.assertEqual(self.model()["version"], "1")
        self.run_ctl("model", "create", "copy", "--from", str(path))
        copy = json.loads(self.out("model", "get", "copy", "-o", "json"))
        self.assertEqual(sorted(t["key"] for t in copy["tensors"]), ["b", "w"])
        self.assertEqual(path.read_bytes(), before)

    def test_the_last_step_is_differentiated(self):
        self.create("--differentiable")
        cotangents, out = self.file("bars", {"b": ([], [1])}), self.directory.name + "/out"
        self.error("differentiate", cotangents, code=NOT_FOUND)
        self.out("push", self.gradient)
        self.run_ctl("differentiate", cotangents, "-o", out, "--expected-version", "1")
        read, _ = tensors.read_safetensors(pathlib.Path(out).read_bytes())
        self.assertEqual((list(read["b"][1]), set(read) >= {"w.grad", "b.exp_avg"}), ([1], True))
        self.assertEqual(self.run_ctl("differentiate", cotangents).stdout,
                         pathlib.Path(out).read_bytes())
        self.error("differentiate", cotangents, "--expected-version", "7", code=CONFLICT)
        self.error("differentiate", code=USAGE)
        self.error("differentiate", self.file("strange", {"x": ([1], [1])}), code=FAILED)

    def test_pause_and_delete(self):
        self.create()
        self.assertIn("paused", self.out("model", "pause"))
        self.assertIn("(PAUSED)", self.error("push", self.gradient, "--timeout", "1s",
                                             code=UNAVAILABLE))
        self.assertIn("active", self.out("model", "resume"))
        self.assertIn("--yes", self.error("model", "delete", "demo", code=USAGE))
        self.run_ctl("model", "delete", "demo", "--yes")
        self.error("model", "delete", "demo", "--yes", code=NOT_FOUND)

    def test_steps_are_followed(self):
        self.create()
        with subprocess.Popen(
            [self.program, "steps", "--follow", "-o", "json"], stdout=subprocess.PIPE,
            env={**environment(), "ADAMD_ENDPOINT": f"http://127.0.0.1:{self.daemon.port}"},
        ) as process:
            self.addCleanup(process.kill)
            for version in ("1", "2"):
                self.run_ctl("push", self.gradient)
                line = Background(process.stdout.readline).result()
                self.assertEqual(json.loads(line)["version"], version)
            process.kill()

    def test_raw(self):
        self.create()
        self.assertEqual(json.loads(self.out("raw", "GET", "/v1/models/demo"))["name"], "models/demo")
        self.run_ctl("raw", "PATCH", "/v1/models/demo?update_mask=display_name", "--data",
                     '{"displayName": "x"}')
        self.error("raw", "GET", "/v1/nothing", code=NOT_FOUND)

    def test_a_unix_socket(self):
        path = pathlib.Path(self.directory.name, "socket")
        with Daemon("--listen", f"unix:{path}") as other:
            eventually(path.exists)
            self.assertEqual(self.out("health", endpoint=f"unix:{path}"), "ok\n")
            self.assertIn(f"unix:{path}", self.out("status", "--endpoint", f"unix:{path}"))
            self.assertEqual(other.get("/readyz").status, 200)

    def test_a_full_disk_is_told(self):
        self.create()
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [self.program, "status"], stdout=full, stderr=subprocess.PIPE, check=False,
                env={**environment(), "ADAMD_ENDPOINT": f"http://127.0.0.1:{self.daemon.port}"})
        self.assertEqual(done.returncode, FAILED)


if __name__ == "__main__":
    unittest.main()
