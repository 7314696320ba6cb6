"""Scripts that rebuild what the package ships and reproduce its figures."""
