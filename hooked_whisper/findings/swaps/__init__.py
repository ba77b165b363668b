"""Word swaps: clean and corrupted runs for word-swap patching."""
