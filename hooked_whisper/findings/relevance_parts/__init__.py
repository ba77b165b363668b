"""Parts of the experiment on encoder locality (F1)."""
