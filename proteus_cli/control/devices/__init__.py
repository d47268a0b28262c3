"""How devices are: broken, slower than profiled, shared with others, and what people are told of them."""
