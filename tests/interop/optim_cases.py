"""What the cases of test_optim share: configurations, tolerances, small problems to optimize."""

import itertools

import torch

KINDS = ("Adam", "AdamW")
CONFIGS = ({}, {"lr": 0.01}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "maximize": True},
           {"weight_decay": 0.1, "amsgrad": True})
PATHS = ({}, {"foreach": True}, {"fused": True})
# Of the default comparison: relative, absolute.
TOLERANCES = {
    torch.float16: (1e-3, 1e-5), torch.bfloat16: (1.6e-2, 1e-5),
    torch.float32: (1.3e-6, 1e-5), torch.float64: (1e-7, 1e-7),
    torch.complex64: (1.3e-6, 1e-5), torch.complex128: (1e-7, 1e-7),
}


def configs(dtype=torch.float32):
    """(class's name, options)"""
    small = {"eps": 0.1} if dtype == torch.float16 else {}
    return [(kind, {**options, **small}) for kind, options in itertools.product(KINDS, CONFIGS)]


def assert_close(got, wanted, tolerance=None):
    """Of tensors and of all that holds some; NaN equals NaN."""
    if isinstance(wanted, dict):
        assert got.keys() == wanted.keys(), f"{list(got)} is not {list(wanted)}"
        for key, value in wanted.items():
            assert_close(got[key], value, tolerance)
    elif isinstance(wanted, (list, tuple)):
        assert len(got) == len(wanted)
        for pair in zip(got, wanted):
            assert_close(*pair, tolerance)
    elif isinstance(wanted, torch.Tensor):
        relative, absolute = tolerance or TOLERANCES.get(wanted.dtype, (0, 0))
        torch.testing.assert_close(got, wanted, rtol=relative, atol=absolute, equal_nan=True,
                                   check_device=False)
    else:
        assert got == wanted, f"{got!r} is not {wanted!r}"


class Network(torch.nn.Module):
    """Two layers, and a parameter without dimensions."""

    def __init__(self, dtype):
        super().__init__()
        torch.manual_seed(1)
        self.first = torch.nn.Linear(2, 3)
        self.second = torch.nn.Linear(3, 1)
        self.extra = torch.nn.Parameter(torch.tensor(0.7))
        self.to(dtype)
        self.inputs = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], dtype=dtype).reshape(3, 2)

    def loss(self):
        hidden = torch.sigmoid(self.first(self.inputs))
        return (torch.sigmoid(self.second(hidden)) + self.extra).sum()


class Line:
    """The square of W x + b, which is to go down."""

    def __init__(self, contiguous=True):
        torch.manual_seed(2)
        values = torch.randn(10, 5)
        # Without `contiguous` the weight is every second number of something larger.
        whole = values if contiguous else torch.stack((values, values), dim=-1)
        self.weight = torch.nn.Parameter(whole if contiguous else whole[..., 0])
        self.bias = torch.nn.Parameter(torch.randn(10))
        self.input = torch.randn(5)
        assert self.weight.is_contiguous() == contiguous

    @property
    def parameters(self):
        return [self.weight, self.bias]

    def loss(self):
        return (self.weight.mv(self.input) + self.bias).pow(2).sum()

    def closure(self, optimizer):
        def evaluate():
            optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            return loss
        return evaluate


def schedulers():
    """For each row the makers of the schedulers that work together."""
    rates = torch.optim.lr_scheduler
    plateau = rates.ReduceLROnPlateau
    return (
        (),
        (lambda o: rates.StepLR(o, step_size=10, gamma=0.9),),
        (plateau,),
        (lambda o: rates.StepLR(o, step_size=10, gamma=0.9), lambda o: plateau(o, threshold=0.5)),
        (lambda o: rates.ExponentialLR(o, gamma=0.99), lambda o: rates.LinearLR(o, total_iters=5)),
        (lambda o: rates.CosineAnnealingLR(o, T_max=20),),
    )


def advance(made, loss):
    for scheduler in made:
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            scheduler.step(loss)
        else:
            scheduler.step()


def rosenbrock(x, y):
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2
