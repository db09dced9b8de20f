"""DP-SGD: the gradient of each example, clipped, summed and noised."""
