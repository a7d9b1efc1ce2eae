"""Files of torch.save, between PyTorch and the daemon: what PyTorch wrote is loaded, what the daemon wrote
PyTorch takes as its own, and nothing is lost on the way there and back."""

import io
import pathlib
import struct
import tempfile
import unittest
import zipfile

import support  # pylint: disable=unused-import
import torch
from harness import DaemonTest
from support import IS_CURRENT

SHAPES = {"w": [4, 8], "b": [16], "s": []}
KINDS = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}
CASES = [("Adam", {}), ("Adam", {"weight_decay": 0.1, "amsgrad": True}),
         ("AdamW", {"lr": 0.01, "maximize": True}), ("AdamW", {"amsgrad": True, "betas": (0.5, 0.9)})]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128]


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def loaded(data, **how):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "file.pt"
        path.write_bytes(data)
        how = {"weights_only": True, **how} if IS_CURRENT else {}
        return torch.load(path, **how)


def parameters(dtype=torch.float32):
    torch.manual_seed(1)
    return {name: torch.nn.Parameter(torch.randn(shape, dtype=torch.float64).to(dtype))
            for name, shape in SHAPES.items()}


def train(optimizer, made, steps=3, seed=2):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for parameter in made.values():
            real = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.grad = real.to(parameter.dtype)
        optimizer.step()


class Files(DaemonTest):
    def make(self, name, kind, options, dtype=torch.float32, groups=None):
        """A model of the daemon as this optimizer would have it."""
        adamw = {"weightDecay": options.get("weight_decay", 0.01), "decoupledWeightDecay": True}
        body = {"tensors": [{"key": key, "shape": [str(n) for n in shape],
                             "dataType": "DATA_TYPE_" + str(dtype).removeprefix("torch.").upper()}
                            for key, shape in SHAPES.items()],
                "defaults": adamw if kind == "AdamW" else {}}
        if groups:
            body["paramGroups"] = groups
        self.daemon.post("/v1/models", body, model_id=name).expect(200)
        return f"/v1/models/{name}/state"

    def put(self, path, value, **query):
        data = value if isinstance(value, bytes) else saved(value)
        return self.daemon.request("PUT", path, data, {"Content-Type": "application/x-pytorch"},
                                   **{"force": "true", **query})

    def get(self, path, **query):
        return self.daemon.get(path, format="pt", timeout=60, **query).expect(200).body

    def assert_same(self, one, two):
        if isinstance(one, torch.Tensor):
            self.assertEqual((one.dtype, one.shape), (two.dtype, two.shape))
            self.assertTrue(torch.equal(torch.nan_to_num(one.detach()), torch.nan_to_num(two.detach())))
        elif isinstance(one, dict):
            self.assertEqual(list(one), list(two))
            for key, value in one.items():
                self.assert_same(value, two[key])
        elif isinstance(one, (list, tuple)):
            self.assertEqual((type(one), len(one)), (type(two), len(two)))
            for left, right in zip(one, two):
                self.assert_same(left, right)
        else:
            self.assertEqual((type(one), one), (type(two), two))

    @staticmethod
    def nameless(state):
        groups = [{k: v for k, v in g.items() if k != "param_names"} for g in state["param_groups"]]
        return {"state": state["state"], "param_groups": groups}

    def check_round_trip(self, name, kind, options, dtype):
        made = parameters(dtype)
        optimizer = KINDS[kind](made.values(), **options)
        train(optimizer, made)
        model = {key: value.detach() for key, value in made.items()}
        path = self.make(name, kind, options, dtype)
        self.put(path, model).expect(200)
        self.put(path, optimizer.state_dict()).expect(200)
        again = loaded(self.get(path))
        self.assert_same(self.nameless(optimizer.state_dict()), self.nameless(again))
        self.assert_same(model, dict(loaded(self.get(path, content="model"))))
        # The copy goes on as the original does.
        other = parameters(dtype)
        weights = loaded(self.get(path, content="model"))
        with torch.no_grad():
            for key, value in other.items():
                value.copy_(weights[key])
        clone = KINDS[kind](other.values(), **options)
        clone.load_state_dict(again)
        for one, values in ((optimizer, made), (clone, other)):
            train(one, values, steps=2, seed=5)
        for key in SHAPES:
            self.assert_same(made[key].detach(), other[key].detach())

    @unittest.skipUnless(IS_CURRENT, "a current PyTorch")
    def test_every_option_and_dtype_comes_back(self):
        for i, (kind, options) in enumerate(CASES):
            for k, dtype in enumerate(DTYPES):
                if dtype == torch.float16:
                    options = {**options, "eps": 0.1}
                with self.subTest(kind=kind, dtype=dtype, **options):
                    self.check_round_trip(f"m{i}x{k}", kind, options, dtype)

    def trained(self, name, **options):
        made = parameters()
        optimizer = torch.optim.Adam(made.values(), **options)
        train(optimizer, made)
        path = self.make(name, "Adam", options)
        both = {"model": {k: v.detach() for k, v in made.items()}, "optimizer": optimizer.state_dict(),
                "epoch": 3}
        self.put(path, both).expect(200)
        return path, both, made, optimizer

    @unittest.skipUnless(IS_CURRENT, "a current PyTorch")
    def test_one_file_holds_everything(self):
        path, both, _, _ = self.trained("whole", amsgrad=True)
        data = self.get(path, content="all")
        again = loaded(data)
        self.assertEqual(list(again), ["model", "optimizer", "adamd"])
        self.assert_same(both["model"], dict(again["model"]))
        self.assert_same(self.nameless(both["optimizer"]), self.nameless(again["optimizer"]))
        digest = self.daemon.get(path).expect(200).headers["adamd-state-digest"]
        self.assertEqual(again["adamd"]["state_digest"], digest)
        self.put(self.make("copy", "Adam", {}), data).expect(200)
        self.assertEqual(self.daemon.get("/v1/models/copy/state").headers["adamd-state-digest"], digest)
        broken = dict(again)
        broken["model"]["w"] = broken["model"]["w"] + 1
        self.put(path, broken).expect(422, "LAYOUT_MISMATCH")

    def test_a_modules_state_dict_is_taken_and_given(self):
        network = torch.nn.Linear(8, 4)
        self.daemon.post("/v1/models", {"tensors": [
            {"key": "weight", "shape": ["4", "8"]}, {"key": "bias", "shape": ["4"]}]},
            model_id="linear").expect(200)
        path = "/v1/models/linear/state"
        self.put(path, network.state_dict()).expect(200)
        other = torch.nn.Linear(8, 4)
        other.load_state_dict(loaded(self.get(path, content="model")))
        self.assert_same(dict(network.state_dict()), dict(other.state_dict()))

    @unittest.skipUnless(IS_CURRENT, "a current PyTorch")
    def test_it_loads_mapped(self):
        path, both, _, _ = self.trained("mapped")
        again = loaded(self.get(path, content="all"), mmap=True)
        self.assert_same(both["model"], {k: v.clone() for k, v in again["model"].items()})

    @unittest.skipUnless(IS_CURRENT, "a current PyTorch")
    def test_the_archive_is_pytorchs_byte_for_byte(self):
        path, _, _, _ = self.trained("bytes", amsgrad=True)
        ours = self.get(path, content="all")
        theirs = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(ours)) as archive:
            records = [(n, archive.read(n)) for n in archive.namelist()]
            self.assertIsNone(archive.testzip())
        writer = torch._C.PyTorchFileWriter(theirs)  # pylint: disable=protected-access
        for name, data in records[:-2]:
            if not name.endswith(".data/serialization_id"):
                writer.write_record(name.split("/", 1)[1], data, len(data))
        writer.write_end_of_file()
        theirs = theirs.getvalue()
        self.assertEqual(len(ours), len(theirs))
        self.assertEqual([n for n, _ in records], zipfile.ZipFile(io.BytesIO(theirs)).namelist())
        # The file's own id is a hash of its makers' choice: 40 digits, and the checksum of them.
        self.assertEqual(self.without_id(ours), self.without_id(theirs))

    @staticmethod
    def without_id(data):
        data = bytearray(data)
        with zipfile.ZipFile(io.BytesIO(bytes(data))) as archive:
            info = archive.getinfo("archive/.data/serialization_id")
        at = info.header_offset
        start = at + 30 + sum(struct.unpack_from("<HH", data, at + 26))
        data[start:start + 40] = b"0" * 40
        data[start + 44:start + 48] = bytes(4)  # behind the descriptor's signature
        entry = data.rindex(b"archive/.data/serialization_id") - 46
        data[entry + 16:entry + 20] = bytes(4)
        return bytes(data)

    @unittest.skipUnless(IS_CURRENT, "a current PyTorch")
    def test_the_pickle_says_what_pytorch_would(self):
        """But for the memo, token by token."""
        import pickletools
        path, _, _, optimizer = self.trained("tokens")
        def tokens(data, name):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                pickle = archive.read(name)
            skipped = {"BINPUT", "LONG_BINPUT", "MARK", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
                       "SETITEM", "SETITEMS", "APPEND", "APPENDS", "BINGET", "LONG_BINGET"}
            return [(o.name, a) for o, a, _ in pickletools.genops(pickle) if o.name not in skipped]
        ours = tokens(self.get(path), "archive/data.pkl")
        theirs = tokens(saved(self.nameless(optimizer.state_dict())), "archive/data.pkl")
        # PyTorch's memo answers repeated texts and globals: what is said the first time is the same.
        def first(said):
            return list(dict.fromkeys(t for t in said if t[0] in ("GLOBAL", "BINUNICODE")))
        ours = [t for t in first(ours) if t[1] not in ("param_names", *SHAPES)]
        self.assertEqual(ours, first(theirs))

    def test_groups_keys_and_names_survive(self):
        made = parameters()
        groups = [{"params": [("b", made["b"])], "lr": 0.5, "mine": [1, (2.5, None), {"a": "ä"}]},
                  {"params": [("w", made["w"]), ("s", made["s"])], "weight_decay": 0.1}]
        if not IS_CURRENT:
            groups = [{**g, "params": [p for _, p in g["params"]]} for g in groups]
        optimizer = torch.optim.Adam(groups, lr=0.01)
        torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        train(optimizer, made)
        path = self.make("groups", "Adam", {}, groups=[{"params": ["b"]}, {"params": ["w", "s"]}])
        self.put(path, {k: v.detach() for k, v in made.items()}).expect(200)
        self.put(path, optimizer.state_dict()).expect(200)
        again = loaded(self.get(path))
        for ours, theirs in zip(again["param_groups"], optimizer.state_dict()["param_groups"]):
            self.assertEqual({k: ours[k] for k in theirs}, theirs)
            self.assertEqual(list(ours)[-1], "params")
        clone = torch.optim.Adam([{"params": [made["b"]]}, {"params": [made["w"], made["s"]]}])
        clone.load_state_dict(again)

    @unittest.skipUnless(IS_CURRENT, "a current PyTorch")
    def test_tensors_as_options(self):
        made = parameters()
        optimizer = torch.optim.Adam(made.values(), lr=torch.tensor(0.125))
        train(optimizer, made)
        path = self.make("tensor", "Adam", {})
        self.put(path, {k: v.detach() for k, v in made.items()}).expect(200)
        self.put(path, optimizer.state_dict()).expect(200)
        again = loaded(self.get(path))["param_groups"][0]["lr"]
        self.assert_same(again, torch.tensor(0.125))


if __name__ == "__main__":
    unittest.main()
