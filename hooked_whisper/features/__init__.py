"""What activations are read in: bases of features."""

from hooked_whisper.features.bases import BothSigns, Centroids, LinearBasis, axes, kmeans, pca, random_orthonormal

__all__ = ["BothSigns", "Centroids", "LinearBasis", "axes", "kmeans", "pca", "random_orthonormal"]
