"""Parts of F2, the narrowed attention windows: masks, and word errors by window."""
