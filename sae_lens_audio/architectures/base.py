"""The base class of all architectures.

A new architecture is one file with a subclass of :class:`SAE` and an export: it overrides what differs (activation
function, loss, hook points, file formats), and defining ``architecture`` registers it in :data:`ARCHITECTURES`.

Weights have SAELens' names: ``W_enc [d_in, d_sae]``, ``b_enc [d_sae]``, ``W_dec [d_sae, d_in]``, ``b_dec [d_in]``. The
rows of ``W_dec`` are the directions of the features.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hooked_whisper._support.renamed import renamed_method, renamed_property
from hooked_whisper.errors import ShapeError
from hooked_whisper.protocols import FeatureBasis
from sae_lens_audio.architectures.config import SAEConfig
from sae_lens_audio.architectures.conversion import (
    DictionaryLearningForm,
    SAELensForm,
    read_flag,
    read_saelens_field,
    read_size,
)
from sae_lens_audio.architectures.decoder import normalize_rows_, remove_parallel_gradient_
from sae_lens_audio.architectures.linear import centered_linear, product
from sae_lens_audio.architectures.outputs import TrainStepOutput
from sae_lens_audio.architectures.saelens_names import SAELensNames, select_hooks
from sae_lens_audio.architectures.sparse import Ranks

_REGISTRY: dict[str, type[SAE]] = {}
ARCHITECTURES: Mapping[str, type[SAE]] = MappingProxyType(_REGISTRY)
"""Every architecture by its name in files; a subclass of :class:`SAE` registers itself."""


@runtime_checkable
class DecodableBasis(FeatureBasis, Protocol):
    """A basis that can reconstruct activations: an SAE, a :class:`~hooked_whisper.features.bases.LinearBasis`, a sparse
    baseline.

    ``decode_like(features, activations)`` is used where it exists: a :class:`NormalizedSAE` or a transcoder with a skip
    connection cannot reconstruct from the features alone.
    """

    def decode(self, features: Tensor) -> Tensor: ...


class SAE(SAELensNames):
    """``encode = activate((x - b_dec) @ W_enc + b_enc)``, ``decode = f @ W_dec + b_dec``.

    Fresh weights: rows of ``W_dec`` are random unit vectors, ``W_enc`` is its transpose, biases are zero. ``seed``
    determines them.
    """

    architecture: ClassVar[str]
    config_class: ClassVar[type[SAEConfig]] = SAEConfig
    unit_norm_decoder: ClassVar[bool] = False
    """Whether training keeps the rows of ``W_dec`` at norm 1, as the paper does."""

    # Hook points
    reads_several_hooks: ClassVar[bool] = False
    """Whether the input is a stack of activations of several hook points (crosscoders)."""
    predicts_other_hook: ClassVar[bool] = False
    """Whether the output is the activation of another hook point (transcoders)."""

    # File formats
    saelens_architectures: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({})
    """SAELens' names for this class, each with the configuration values that it implies."""
    saelens_fields: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """SAELens' key -> our configuration field, except the sizes."""
    saelens_required: ClassVar[tuple[str, ...]] = ()
    """Configuration fields that a SAELens file must have, except the sizes."""
    saelens_ranks_by_decoder_norm: ClassVar[bool] = False
    """SAELens' default of ``rescale_acts_by_decoder_norm``."""
    dictionary_learning_forms: ClassVar[Mapping[str, DictionaryLearningForm]] = MappingProxyType({})
    """Class of dictionary_learning -> how its files store this architecture."""

    normalization: ClassVar[str] = "none"  # of the input; see NormalizedSAE

    W_enc: nn.Parameter
    b_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "architecture" in vars(cls):
            _REGISTRY[cls.architecture] = cls

    def __init__(self, config: SAEConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        directions = torch.randn(config.d_sae, config.d_in, generator=torch.Generator().manual_seed(seed))
        rows = directions / directions.norm(dim=1, keepdim=True)
        self.W_enc = nn.Parameter(rows.T.clone(memory_format=torch.contiguous_format))  # a copy even for d_in = 1
        self.b_enc = nn.Parameter(torch.zeros(config.d_sae))
        self.W_dec = nn.Parameter(rows)
        self.b_dec = nn.Parameter(torch.zeros(config.d_in))

    @property
    def d_in(self) -> int:
        return self.config.d_in

    @property
    def n_features(self) -> int:
        return self.config.d_sae

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.n_features)))

    @property
    def dtype(self) -> torch.dtype:
        return self.b_dec.dtype

    @property
    def inner(self) -> SAE:
        """The SAE without input normalization: this one. :class:`NormalizedSAE` wraps another."""
        return self

    @property
    def can_encode(self) -> bool:
        """Whether ``encode`` can run: BatchTopK needs a learned threshold."""
        return True

    def to_dtype(self, dtype: torch.dtype) -> SAE:
        """Convert the weights in place and return the SAE. Buffers that need more precision keep it."""
        return self.to(dtype)

    # Forward pass -----------------------------------------------------------------------------------------------------

    def pre_activations(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Return the input of the activation function.

        Raises:
            ShapeError: activations of another width than ``d_in``.
        """
        return product(self.centered(x), self.W_enc) + self.b_enc

    def centered(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        x = self.checked(x)
        return x - self.b_dec if self.config.apply_b_dec_to_input else x

    def checked(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """Return ``x`` in the dtype of the weights.

        Raises:
            ShapeError: activations of another width than ``d_in``.
        """
        if x.shape[-1] != self.d_in:
            raise ShapeError(
                f"activations are {x.shape[-1]} wide, this {self.architecture} SAE takes d_in = {self.d_in}: give "
                "those of the hook point it was trained on"
            )
        return x.to(self.dtype)

    @property
    def center(self) -> Float[Tensor, "d_in"] | None:
        """The vector that is subtracted from the input, if any."""
        return self.b_dec if self.config.apply_b_dec_to_input else None

    def batch_pre_activations(
        self, x: Float[Tensor, "row d_in"], bias: Float[Tensor, "d_sae"]
    ) -> Float[Tensor, "row d_sae"]:
        """Return pre-activations for a loss. ``x`` gets no gradient, which saves a matrix product."""
        return centered_linear(self.checked(x), self.W_enc, bias, self.center)

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Apply the activation function: ReLU unless the architecture has another."""
        return pre.relu()

    def encode(self, activations: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Return the feature activations of each row, in the dtype of the weights. No row depends on the others.

        Under ``torch.autocast`` only matrix products are computed in the narrower dtype; sums, thresholds and the
        selection of features are not.
        """
        return self.activate(self.pre_activations(activations))

    def decode(self, features: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_out"]:
        return product(features, self.W_dec) + self.b_dec

    def decode_like(
        self, features: Float[Tensor, "*batch d_sae"], activations: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_out"]:
        """Reconstruct ``activations`` from ``features`` as :meth:`forward` does, skip connection included."""
        return self.decode(features)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        return self.decode_like(self.encode(x), x)

    def run_with_cache(
        self, x: Float[Tensor, "*batch d_in"], names_filter: Any = None
    ) -> tuple[Float[Tensor, "*batch d_out"], dict[str, Tensor]]:
        """Return the reconstruction, and the activations of the SAE by SAELens' hook names.

        names_filter: names, globs or a predicate; default: all.

        Raises:
            UnknownHookError: ``names_filter`` matches nothing.
        """
        pre = self.pre_activations(x)
        features = self.activate(pre)
        out = self.decode_like(features, x)
        cache = {"hook_sae_input": x, "hook_sae_acts_pre": pre, "hook_sae_acts_post": features}
        return out, select_hooks(cache | {"hook_sae_recons": out, "hook_sae_output": out}, names_filter)

    def extra_repr(self) -> str:
        return f"d_in={self.d_in}, d_sae={self.n_features}"

    # Training ---------------------------------------------------------------------------------------------------------

    def loss(
        self, x: Float[Tensor, "row d_in"], dead: Bool[Tensor, "d_sae"] | None = None, ranks: Ranks | None = None
    ) -> TrainStepOutput:
        """Return the paper's training loss. Gradients flow to the weights, not to ``x``.

        dead: features that the auxiliary term should revive.
        ranks: processes that hold other rows of the same batch, for selections over the whole batch.
        """
        raise NotImplementedError

    @classmethod
    def sizes_for(cls, widths: Sequence[int]) -> dict[str, int]:
        """Return the configuration values that follow from the widths of the hook points."""
        return {"d_in": widths[0]}

    @property
    def input_widths(self) -> tuple[int, ...]:
        """Widths of the hook points whose rows training needs."""
        return (self.d_in,)

    def training_inputs(self, rows: Sequence[Float[Tensor, "row _"]]) -> tuple[Tensor, ...]:
        """Return the first arguments of :meth:`loss`, from the rows of each hook point."""
        return (rows[0],)

    def predicted_rows(self, rows: Sequence[Float[Tensor, "row _"]]) -> Sequence[Float[Tensor, "row _"]]:
        """Return the rows that the SAE reconstructs or predicts."""
        return rows

    @torch.no_grad()
    def center_decoder_(self, means: Sequence[Float[Tensor, "_"]]) -> None:
        """Set ``b_dec`` to the mean activation of the output, given the means of each hook point."""
        self.b_dec.copy_(means[-1])

    @torch.no_grad()
    def fit_encoder_(self, rows: Sequence[Float[Tensor, "row _"]]) -> None:
        """Multiply ``W_enc`` by the factor that minimizes the reconstruction error, without ``b_dec``, on the rows."""
        (x,) = self.training_inputs(rows)
        reconstructed, target = self.decode(self.batch_feature_acts(x)) - self.b_dec, x - self.b_dec
        factor = (reconstructed * target).sum() / reconstructed.square().sum()
        if factor > 0 and factor.isfinite():
            self.W_enc.mul_(factor)

    def batch_feature_acts(self, x: Float[Tensor, "row *d_in"]) -> Float[Tensor, "row d_sae"]:
        """Feature activations as training computes them; BatchTopK selects over the whole batch."""
        return self.encode(x)

    def unscaled(self, scales: Sequence[float]) -> SAE:
        """Return a copy for raw activations; this SAE was trained on activations times ``scales`` (one per hook point).

        The features of an autoencoder take the units of the activations, so decoder rows keep their norm.
        Reconstructions change only in units.
        """
        sae = copy.deepcopy(self)
        sae.unscale_(scales)
        return sae

    @torch.no_grad()
    def unscale_(self, scales: Sequence[float]) -> None:
        state = self.state_dict()
        for name in ("b_enc", "b_gate", "b_mag", "threshold", "topk_threshold"):  # in units of features
            if name in state:
                state[name].div_(scales[0])
        if "b_dec" in state:
            state["b_dec"].div_(scales[-1])

    @torch.no_grad()
    def resample_(
        self, latents: Int[Tensor, "n"], directions: Float[Tensor, "n d_in"], scale: Float[Tensor, ""]
    ) -> None:
        """Reset some features: decoder rows become these unit directions, encoder columns ``scale`` times them."""
        self.W_dec[latents] = directions
        self.W_enc[:, latents] = scale * directions.T
        self._reset_biases_(latents)

    def _reset_biases_(self, latents: Int[Tensor, "n"]) -> None:
        self.b_enc[latents] = 0

    def feature_axis(self, name: str) -> int | None:
        """The axis of a parameter that indexes features; ``None`` if it has none."""
        if name == "W_enc":
            return -1
        return None if name in ("b_dec", "W_skip") else 0

    @torch.no_grad()
    def project_gradient_(self) -> None:
        """Before the optimizer's step: remove the gradient that would only change row norms (Bricken et al. 2023)."""
        if self.unit_norm_decoder and self.W_dec.grad is not None:
            remove_parallel_gradient_(self.W_dec.grad, self.W_dec)

    @torch.no_grad()
    def project_weights_(self) -> None:
        """After the optimizer's step: project the weights back onto the constraints."""
        if self.unit_norm_decoder:
            normalize_rows_(self.W_dec)

    # File formats -----------------------------------------------------------------------------------------------------

    def to_saelens(self) -> SAELensForm:
        """Return the form that SAELens reads: by default our own architecture name and tensors.

        Raises:
            CheckpointError: the SAE cannot encode yet.
        """
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        return SAELensForm(self.architecture, tensors)

    @classmethod
    def tensors_from_saelens(
        cls, tensors: dict[str, Tensor], saved: Mapping[str, Any], source: object
    ) -> dict[str, Tensor]:
        """Undo :meth:`to_saelens`. ``saved``: what ``SAELensForm.saved`` held when the file was written."""
        return tensors

    @classmethod
    def values_from_saelens(cls, cfg: Mapping[str, Any], source: object) -> dict[str, Any]:
        """Return configuration values from a SAELens ``cfg.json``.

        Raises:
            CheckpointError: a value of the wrong type.
        """
        types = cls.config_class.__dataclass_fields__
        values = {
            ours: read_saelens_field(cfg, theirs, ours, str(types[ours].type), source)
            for theirs, ours in cls.saelens_fields.items()
            if theirs in cfg or ours in cls.saelens_required
        }
        values |= {name: read_size(cfg, name, source) for name in ("d_in", "d_sae")}
        return values | {"apply_b_dec_to_input": read_flag(cfg, "apply_b_dec_to_input", True, source)}

    @classmethod
    def values_from_dictionary_learning(
        cls, state: Mapping[str, Tensor], trainer: Mapping[str, Any], source: object
    ) -> dict[str, Any]:
        """Return configuration values except the sizes, from a file's buffers or else its trainer's settings."""
        return {}

    def load_dictionary_learning_buffers_(self, state: Mapping[str, Tensor], source: object) -> None:
        """Set the buffers, if the architecture has any, from a file's tensors.

        Raises:
            CheckpointError: a tensor is not a valid value of its buffer.
        """

    # Names of version 0.1 ---------------------------------------------------------------------------------------------

    centre = renamed_property("centre", "center")
    centred = renamed_method("centred", "centered")
    pre_of_batch = renamed_method("pre_of_batch", "batch_pre_activations")
    restart_ = renamed_method("restart_", "resample_")
