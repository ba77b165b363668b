"""What every package uses: files, storage, ranks, argument checks, lazy imports."""
