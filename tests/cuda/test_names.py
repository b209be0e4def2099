"""This folder must not stand in the way of NVIDIA's package `cuda`, which CuPy imports."""

import importlib.util


def test_the_name_cuda_is_nvidias() -> None:
    assert __name__.startswith("tests.")
    found = importlib.util.find_spec("cuda")
    assert found is None or not (found.origin or "").startswith(__file__.rpartition("/")[0])
