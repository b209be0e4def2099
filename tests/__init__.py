"""A package, so that tests/cuda is not imported as `cuda`, which is the name of NVIDIA's."""
