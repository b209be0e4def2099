"""How a Problem is computed: one module per algorithm, written against a backend."""
