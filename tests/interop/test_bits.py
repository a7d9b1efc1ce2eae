"""The daemon's parameters and state are PyTorch's, to the last bit, in every dtype and on every instruction set.

NaN equals NaN, and exact.py says what of PyTorch's own is set right; nothing else is forgiven.
"""

import unittest

import support  # pylint: disable=unused-import
from harness import Daemon, machine_has
from trials import DTYPES, STEPS, Data, Special, Trial, Twin, cases

SIZES = (1, 7, 4096, 100_003)
VARIANTS = [v for v in ("base", "avx2", "avx512") if v == "base" or machine_has(v)]
SHOWN = 40


def trials_of(all_cases, data, sizes, prefix="g"):
    return [Trial(f"{prefix}{i}", case, data, sizes) for i, case in enumerate(all_cases)]


@unittest.skipUnless(support.IS_CURRENT, "PyTorch of before 2.7 rounds otherwise")
class Bits(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemons = {v: Daemon("--cpu-variant", v, "--threads", "2").start() for v in VARIANTS}

    @classmethod
    def tearDownClass(cls):
        for daemon in cls.daemons.values():
            daemon.stop()

    def compare(self, datas, trials, parts):
        """`datas`: the numbers of each dtype; `parts`: for each variant the trials that its daemon is to do."""
        name = self._testMethodName.removeprefix("test_").replace("_", "-") + "-" + "-".join(datas)
        twins = {v: Twin(self.daemons[v], name[:60], part) for v, part in parts.items()}
        for step in range(STEPS):
            for trial in trials:
                trial.step(datas[trial.dtype].gradients[step])
            for twin in twins.values():
                twin.push({dtype: data.gradients[step] for dtype, data in datas.items()})
            found = [f"{variant}: {difference}" for variant, twin in twins.items()
                     for difference in twin.differences(step + 1)]
            self.assertFalse(found, f"{len(found)} arrays\n" + "\n".join(found[:SHOWN]))
        for twin in twins.values():
            twin.delete()

    def every_case(self, dtype):
        """All on the widest variant, and every fifth, which meets every option, on the others."""
        data = Data(dtype, SIZES)
        trials = trials_of(cases(dtype), data, SIZES)
        parts = {variant: trials[i::5] for i, variant in enumerate(VARIANTS)}
        parts[VARIANTS[-1]] = trials
        self.compare({dtype: data}, trials, parts)

    def test_float32(self):
        self.every_case("float32")

    def test_float64(self):
        self.every_case("float64")

    def test_float16(self):
        self.every_case("float16")

    def test_bfloat16(self):
        self.every_case("bfloat16")

    def test_edges(self):
        """Signed zeros, subnormal numbers, the largest, infinity, NaN: each after each."""
        for dtype in DTYPES:
            with self.subTest(dtype):
                data = Special(dtype)
                trials = trials_of(cases(dtype), data, [data.count])
                self.compare({dtype: data}, trials, {variant: trials for variant in VARIANTS})

    def test_all_dtypes_in_one_model(self):
        sizes = (1, 7, 300)
        datas = {dtype: Data(dtype, sizes) for dtype in DTYPES}
        trials = [trial for dtype, data in datas.items()
                  for trial in trials_of(cases(dtype)[::7], data, sizes, dtype)]
        self.compare(datas, trials, {variant: trials for variant in VARIANTS})

    def every_dtype(self, paths, **more):
        """Of cases with more options."""
        sizes = (1, 7, 300)
        for dtype in DTYPES:
            with self.subTest(dtype):
                data = Data(dtype, sizes)
                trials = trials_of(cases(dtype, paths, **more), data, sizes)
                self.compare({dtype: data}, trials, {variant: trials for variant in VARIANTS})

    def test_differentiable(self):
        """The for-loop that autograd can follow has roundings of its own."""
        self.every_dtype(("for-loop",), differentiable=True)

    def test_capturable(self):
        """So have those that a graph can hold."""
        self.every_dtype(("for-loop", "foreach"), capturable=True)


if __name__ == "__main__":
    unittest.main()
