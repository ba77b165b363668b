"""Experiments on words of real speech (F11, F15, W2), and parts shared with those on the synthetic corpus."""
