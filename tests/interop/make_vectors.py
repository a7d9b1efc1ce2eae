#!/usr/bin/env python3
"""Writes vectors.safetensors: what current PyTorch makes of every case, for machines that do not have it.

    $(tests/interop/torch_env.sh) tests/interop/make_vectors.py

For each dtype D: D.start and D.gradients, of which every tensor takes the first elements of a row;
D.parameter, D.exp_avg, D.exp_avg_sq and D.max_exp_avg_sq after the last step, one tensor of one case after the
other, where the case has them. `cases` of the metadata tells the sizes and the options of each, in order, and
`missing` which [step, tensor] has no gradient. tests/integration/test_vectors.py compares the daemon with it.
"""

import json
import pathlib

import support
import torch

from trials import ARRAYS, DTYPES, STEPS, Data, Trial, cases, group_options, write_file

SIZES = (16, 7)
PATH = pathlib.Path(__file__).resolve().with_name("vectors.safetensors")
# What every group says, and what is the default everywhere, is left out.
UNSAID = {"capturable": False, "differentiable": False, "amsgrad": False, "maximize": False,
          "foreach": False, "decoupled_weight_decay": False, "weight_decay": 0, "eps": 1e-8}


def options_of(trial):
    options = group_options(trial.optimizer)
    return {name: value for name, value in options.items() if UNSAID.get(name, ...) != value}


def run(dtype):
    """({name: tensor}, what the metadata say of the cases)"""
    data = Data(dtype, SIZES)
    trials = [Trial(f"g{i}", case, data, SIZES) for i, case in enumerate(cases(dtype))]
    for step in range(STEPS):
        for trial in trials:
            trial.step(data.gradients[step])
    absent = torch.zeros(data.most, dtype=DTYPES[dtype][0])
    tensors = {
        f"{dtype}.start": torch.stack(data.start),
        f"{dtype}.gradients": torch.stack([
            torch.stack([absent if gradient is None else gradient for gradient in step])
            for step in data.gradients]),
    }
    for array in ARRAYS:
        found = [trial.array(i, array) for trial in trials for i in range(len(SIZES))]
        integers = torch.cat([torch.from_numpy(a) for a in found if a is not None])
        tensors[f"{dtype}.{array or 'parameter'}"] = integers.view(DTYPES[dtype][0])
    return tensors, [{"sizes": trial.sizes, "options": options_of(trial)} for trial in trials]


def main():
    assert support.IS_CURRENT, f"PyTorch {torch.__version__} rounds otherwise"
    tensors, said = {}, {}
    for dtype in DTYPES:
        made, said[dtype] = run(dtype)
        tensors.update(made)
    metadata = {"torch": torch.__version__, "missing": json.dumps(sorted(Data.MISSING)),
                "cases": json.dumps(said, separators=(",", ":"))}
    PATH.write_bytes(write_file(tensors, metadata))
    print(f"{PATH.name}: {sum(map(len, said.values()))} cases, {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
