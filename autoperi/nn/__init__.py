"""Networks: radial bases, the equivariant backbone and its heads."""
