"""Parts of the experiment on words cut out of the encoder output (F4)."""
