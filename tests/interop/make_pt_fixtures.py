"""Writes small files of torch.save, for tests that run without PyTorch.

    $(tests/interop/torch_env.sh) tests/interop/make_pt_fixtures.py

They go to tests/fuzz/corpus/pt, where every build replays them, and what they hold to
tests/integration/pt_fixtures.json. Run it again where a new PyTorch writes files in another way.
"""

import json
import pathlib

import torch
from torch import nn

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = ROOT / "fuzz" / "corpus" / "pt"
EXPECTED = ROOT / "integration" / "pt_fixtures.json"
SHAPES = {"w": [2, 3], "b": [2], "s": []}


def parameters(dtype=torch.float32, shapes=None):
    made, at = {}, 1
    for name, shape in (shapes or SHAPES).items():
        count = torch.Size(shape).numel()
        values = torch.arange(at, at + count, dtype=torch.float64) / 4
        made[name] = nn.Parameter(values.to(dtype).reshape(shape))
        at += count
    return made


def train(optimizer, made, steps=3, skip=()):
    for step in range(steps):
        for at, (name, parameter) in enumerate(made.items()):
            scale = (0.5 + 0.25 * step) * (-1) ** at
            parameter.grad = None if name in skip else torch.full_like(parameter, scale)
        optimizer.step()


def plain(value):
    """As JSON: a tensor by its dtype, shape and numbers; complex ones as pairs."""
    if isinstance(value, torch.Tensor):
        numbers = value.detach().resolve_conj().contiguous()
        numbers = torch.view_as_real(numbers) if numbers.is_complex() else numbers
        return {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape),
                "values": numbers.double().flatten().tolist()}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def optimizers():
    made = parameters()
    yield "adam", trained(torch.optim.Adam(made.values()), made)

    made = parameters()
    groups = [{"params": [made["b"]], "lr": 0.5, "amsgrad": True, "mine": "kept"},
              {"params": [made["w"], made["s"]], "weight_decay": 0.1, "maximize": True}]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)  # adds initial_lr
    yield "adamw-groups", trained(optimizer, made)

    made = parameters(torch.bfloat16)
    yield "adam-bfloat16", trained(torch.optim.Adam(made.values(), amsgrad=True), made)

    made = parameters(torch.float16)
    yield "adam-float16", trained(torch.optim.Adam(made.values(), eps=0.1), made)

    made = parameters(torch.float64)
    yield "adam-float64", trained(torch.optim.Adam(made.values(), fused=True), made)

    made = parameters(torch.complex64)
    yield "adam-complex", trained(torch.optim.Adam(made.values(), amsgrad=True), made)

    made = parameters()
    yield "adam-named", trained(torch.optim.Adam(made.items(), betas=(0.5, 0.9)), made)

    made = parameters()
    optimizer = torch.optim.Adam(made.values(), lr=torch.tensor(0.125))
    yield "adam-tensor-lr", trained(optimizer, made)

    made = parameters()
    yield "adam-partial", trained(torch.optim.Adam(made.values()), made, skip=("b",))

    made = parameters()
    old = trained(torch.optim.AdamW(made.values()), made)
    for group in old["param_groups"]:
        for flag in ("foreach", "differentiable", "fused", "maximize", "capturable",
                     "decoupled_weight_decay"):
            del group[flag]
    for state in old["state"].values():
        state["step"] = int(state["step"])
    yield "adamw-old", old

    made = parameters()
    made["w"] = nn.Parameter(made["w"].detach().t().contiguous().t())
    yield "adam-transposed", trained(torch.optim.Adam(made.values()), made)


def trained(optimizer, made, **how):
    train(optimizer, made, **how)
    return optimizer.state_dict()


def models():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    yield "model", network.state_dict()
    yield "model-parameters", dict(parameters())

    made = parameters()
    optimizer = torch.optim.Adam(made.values())
    state = trained(optimizer, made)
    yield "checkpoint", {"epoch": 7, "loss": 0.25, "optimizer": state,
                         "model": {name: p.detach() for name, p in made.items()}}

    line = torch.arange(6.0)
    yield "views", {"expanded": torch.tensor([1.0, 2.0]).expand(3, 2), "head": line[:2],
                    "tail": line[2:], "tied": line[2:], "transposed": line.reshape(2, 3).t(),
                    "empty": torch.empty(0, 3), "size": torch.Size([2, 3])}
    yield "dtypes", {name: torch.ones(2, dtype=getattr(torch, name)) for name in (
        "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "int8", "int16", "int32", "int64",
        "bool", "uint8", "complex128")}


def main():
    FILES.mkdir(parents=True, exist_ok=True)
    expected = {}
    for name, value in [*optimizers(), *models()]:
        path = FILES / f"torch-{name}.pt"
        torch.save(value, path)
        print(f"{path.name}: {path.stat().st_size} bytes")
        expected[name] = plain(value)
    expected["torch"] = torch.__version__.split("+", 1)[0]
    EXPECTED.write_text(json.dumps(expected, indent=None, separators=(",", ":")).replace(
        '},"', '},\n"') + "\n")


if __name__ == "__main__":
    main()
