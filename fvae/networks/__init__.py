"""Networks: they know no probability. Each takes a tensor (B, C, ...) and returns a tensor."""
