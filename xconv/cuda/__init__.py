"""CUDA kernels and what launches them; nothing here imports CuPy before it is needed."""
