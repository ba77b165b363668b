"""SAEs whose input is normalized by statistics of each activation: layer norm, constant norm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hooked_whisper._support.renamed import renamed_arguments, renamed_property
from hooked_whisper.errors import ConfigError, check_option
from sae_lens_audio.architectures.base import SAE
from sae_lens_audio.architectures.metadata import Metadata
from sae_lens_audio.architectures.saelens_names import SAECfg, select_hooks

Normalization = Literal["layer_norm", "constant_norm_rescale"]
_EPSILON = 1e-5


class NormalizedSAE(nn.Module):
    """An SAE ``inner`` on normalized activations. The output is scaled back to the scale of each activation.

    ``layer_norm``: mean 0 and standard deviation 1 (unbiased). ``constant_norm_rescale``: norm ``sqrt(d_in)``. Such
    scales cannot be folded into weights, and features alone do not determine them: :meth:`forward` and
    :meth:`decode_like` take them from the activation.

    Source: ``normalize_activations`` of SAELens, with the same numbers.
    """

    reads_several_hooks: ClassVar[bool] = False
    predicts_other_hook: ClassVar[bool] = False

    @renamed_arguments(normalisation="normalization")
    def __init__(self, inner: SAE, normalization: Normalization) -> None:
        super().__init__()
        check_option("normalization", normalization, get_args(Normalization), ConfigError)
        if inner.b_dec.shape != (inner.d_in,):
            raise ConfigError(
                f"the output of a {inner.architecture} SAE does not have the scale of its input: normalize the "
                "activations beforehand"
            )
        self.inner, self.normalization = inner, normalization

    normalisation = renamed_property("normalisation", "normalization")

    @property
    def d_in(self) -> int:
        return self.inner.d_in

    @property
    def n_features(self) -> int:
        return self.inner.n_features

    @property
    def labels(self) -> tuple[str, ...]:
        return self.inner.labels

    def _statistics(self, x: Float[Tensor, "*batch d_in"]) -> tuple[Tensor, Tensor]:
        """Return the shift and the scale of each activation."""
        if self.normalization == "layer_norm":
            return x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        return torch.zeros_like(x[..., :1]), x.norm(dim=-1, keepdim=True) / self.d_in**0.5

    def encode(self, activations: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        x = activations.to(self.inner.dtype)
        shift, scale = self._statistics(x)
        # SAELens adds the epsilon when it normalizes, not when it scales back
        return self.inner.encode((x - shift) / (scale + _EPSILON if self.normalization == "layer_norm" else scale))

    def decode_like(
        self, features: Float[Tensor, "*batch d_sae"], activations: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_in"]:
        """Reconstruct ``activations`` from ``features``, in their scale."""
        shift, scale = self._statistics(activations.to(self.inner.dtype))
        return self.inner.decode(features) * scale + shift

    def decode(self, features: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_in"]:
        """
        Raises:
            ConfigError: always, since features alone do not determine the scale.
        """
        raise ConfigError(
            f"this SAE takes the scale from each activation ({self.normalization}), which features alone do not have: "
            "use forward(x) or decode_like(features, x)"
        )

    @property
    def metadata(self) -> Metadata:
        """The metadata of the SAE inside."""
        return self.inner.metadata

    @metadata.setter
    def metadata(self, metadata: Metadata) -> None:
        self.inner.metadata = metadata

    @property
    def cfg(self) -> SAECfg:
        """Sizes, dtype, device and metadata under SAELens' names."""
        return replace(self.inner.cfg, normalize_activations=self.normalization)

    def to_dtype(self, dtype: torch.dtype) -> NormalizedSAE:
        """Convert the weights in place and return the SAE."""
        self.inner.to_dtype(dtype)
        return self

    def run_with_cache(
        self, x: Float[Tensor, "*batch d_in"], names_filter: Any = None
    ) -> tuple[Float[Tensor, "*batch d_in"], dict[str, Tensor]]:
        """Return the reconstruction, and the activations by SAELens' hook names, see :meth:`SAE.run_with_cache`."""
        features = self.encode(x)
        out = self.decode_like(features, x)
        cache = {"hook_sae_input": x, "hook_sae_acts_post": features}
        return out, select_hooks(cache | {"hook_sae_recons": out, "hook_sae_output": out}, names_filter)

    def fold_W_dec_norm(self) -> None:
        """Scale decoder rows to norm 1, see :meth:`SAE.fold_W_dec_norm`."""
        self.inner.fold_W_dec_norm()

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        return self.decode_like(self.encode(x), x)
