"""What runs the methods: one module per kind of array."""
