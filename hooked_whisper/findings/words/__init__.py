"""Parts of the experiments on words."""
