"""SAELens' names on an SAE: ``cfg``, ``from_pretrained``, ``load_from_disk``, ``save_model``, ``fold_W_dec_norm``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hooked_whisper._support.renamed import keywords_elsewhere
from hooked_whisper._support.showing import Showing, Summary, described
from hooked_whisper.errors import CheckpointError, ConfigError, closest
from sae_lens_audio.architectures.config import SAEConfig
from sae_lens_audio.architectures.decoder import decoder_norms
from sae_lens_audio.architectures.metadata import Metadata


@dataclass(frozen=True, repr=False)
class SAECfg(Showing):
    """An SAE's description under SAELens' names. Fields of the architecture, such as ``k``, are attributes too.

    dtype, device: of the weights, as strings. metadata: hook point, model and training data.
    config: our own configuration, with the fields of the architecture.
    """

    architecture: str
    d_in: int
    d_sae: int
    dtype: str
    device: str
    apply_b_dec_to_input: bool
    normalize_activations: str
    reshape_activations: str
    metadata: Metadata
    config: SAEConfig

    def summary(self) -> Summary:
        values = {name: value for name, value in self.to_dict().items() if name != "metadata"}
        metadata = self.metadata.summary().rows
        rows = [(name, described(value)) for name, value in values.items()]
        return Summary("SAECfg", rows=(*rows, *((f"metadata.{name}", value) for name, value in metadata)))

    @property
    def hook_name(self) -> str | None:
        return self.metadata.hook_name

    @property
    def model_name(self) -> str | None:
        return self.metadata.checkpoint

    def __getattr__(self, name: str) -> Any:
        # called only for names that are not fields of this class
        config = self.__dict__.get("config")
        if config is not None and name in config.__dataclass_fields__:
            return getattr(config, name)
        known = ["hook_name", "model_name", *type(self).__dataclass_fields__]
        known += [] if config is None else config.__dataclass_fields__
        near = closest(name, known, 1)
        hint = f": did you mean {near[0]}?" if near else f": it has {', '.join(dict.fromkeys(known))}"
        raise AttributeError(f"the cfg of this SAE has no {name!r}{hint}")

    def to_dict(self) -> dict[str, Any]:
        """Return all values as a dictionary."""
        values = asdict(self)
        return {**values.pop("config"), **values}


def select_hooks(cache: dict[str, Tensor], names_filter: Any) -> dict[str, Tensor]:
    """Return the activations that ``names_filter`` selects (names, globs or a predicate); all if it is ``None``.

    Raises:
        UnknownHookError: ``names_filter`` matches nothing.
    """
    from hooked_whisper.hooks.hook_names import resolve_names  # SAEs train without Whisper

    names = list(cache) if names_filter is None else resolve_names(names_filter, list(cache))
    return {name: cache[name] for name in names}


class SAELensNames(nn.Module):
    """The methods of an SAE under SAELens' names; :class:`SAE` has everything else."""

    architecture: ClassVar[str]
    compares_features: ClassVar[bool] = False
    """Whether features compete by size (TopK), so that scaling them would change which are active."""

    config: SAEConfig
    metadata: Metadata = Metadata()
    """Hook point, model and training data; loaders and the trainer set it."""

    W_dec: nn.Parameter
    b_dec: nn.Parameter

    @property
    def cfg(self) -> SAECfg:
        """Sizes, dtype, device and metadata under SAELens' names."""
        return SAECfg(
            architecture=self.architecture,
            d_in=self.config.d_in,
            d_sae=self.config.d_sae,
            dtype=str(self.b_dec.dtype).removeprefix("torch."),
            device=str(self.b_dec.device),
            apply_b_dec_to_input=self.config.apply_b_dec_to_input,
            normalize_activations="none",
            reshape_activations="none",
            metadata=self.metadata,
            config=self.config,
        )

    def _repr_html_(self) -> str:
        title = f"{type(self).__name__}: {self.config.d_sae} features of activations {self.config.d_in} wide"
        return replace(self.cfg.summary(), title=title).html()

    @classmethod
    @keywords_elsewhere(
        force_download="delete the files from the Hugging Face cache, or pass revision=",
        converter="load_sae recognizes the formats of SAELens, sparsify and dictionary_learning",
    )
    def from_pretrained(
        cls,
        release: str,
        sae_id: str = "",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        *,
        runs: str | Path | None = None,
    ) -> Any:
        """Load an SAE, as SAELens does; its metadata is ``sae.cfg.metadata``.

        Args:
            release: a model with packaged SAEs (``"tiny.en"``, ``"demo"``), a local folder, or ``"org/name"`` on the
                Hugging Face hub.
            sae_id: folder of the SAE in it; of a packaged one the hook point, with or without a variant:
                ``"encoder.blocks.2"``, ``"encoder.blocks.2/topk-x2"``. ``sae_lens_audio.available_saes()`` lists them.
            device, dtype: of the weights; by default the CPU and the dtype of the file (packaged SAEs: float32).
            runs: folder of training runs, to search for an SAE of the model that is not packaged.

        Raises:
            CheckpointError: there is no such release or SAE (the message lists those that exist), or the SAE is not of
                the class that this is called on.
        """
        from sae_lens_audio.releases import load_release  # formats import this module

        return cls._converted(load_release(release, sae_id, revision, runs).sae, device, dtype)

    @classmethod
    def load_from_disk(
        cls, path: str | Path, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Any:
        """Load the SAE in a local folder; arguments and errors as for :meth:`from_pretrained`."""
        from sae_lens_audio.formats import load_sae

        return cls._converted(load_sae(path).sae, device, dtype)

    @classmethod
    def _converted(cls, sae: Any, device: torch.device | str | None, dtype: torch.dtype | None) -> Any:
        if not isinstance(sae, cls) and "architecture" in vars(cls):  # not called on SAE itself
            raise CheckpointError(
                f"this SAE is a {type(sae).__name__}, not a {cls.__name__}: load it with the class SAE"
            )
        sae = sae if dtype is None else sae.to_dtype(dtype)
        return sae if device is None else sae.to(device)

    def save_model(self, path: str | Path) -> None:
        """Write a SAELens folder with this SAE and its metadata, see :func:`sae_lens_audio.save_sae`."""
        from sae_lens_audio.formats import save_sae

        save_sae(self, path)  # type: ignore[arg-type]  # SAE is the only subclass

    def push_to_hub(self, repo_id: str, folder: str = "", **options: Any) -> Any:
        """Upload the SAE with a card, see :func:`sae_lens_audio.push_to_hub`."""
        from sae_lens_audio.formats import push_to_hub

        return push_to_hub(self, repo_id, folder, **options)  # type: ignore[arg-type]

    @torch.no_grad()
    def fold_W_dec_norm(self) -> None:
        """Scale decoder rows to norm 1 and features by the old norms, in place. Reconstructions do not change.

        Raises:
            ShapeError: a decoder row is zero.
            ConfigError: rows of another norm than 1 in an SAE whose features compete by size (TopK).
        """
        norms = decoder_norms(self.W_dec, f"this {self.architecture} SAE")
        if torch.allclose(norms, torch.ones_like(norms)):
            return
        if self.compares_features:
            raise ConfigError(
                f"features of a {self.architecture} SAE compete by size: scaling them by decoder norms "
                f"({norms.min():.3g} to {norms.max():.3g}) would change which are active"
            )
        state = self.state_dict()
        for name in ("W_enc", "b_enc", "b_gate", "b_mag", "threshold"):  # in units of features
            if name in state:
                state[name].mul_(norms)
        self.W_dec.div_(norms[:, None])
