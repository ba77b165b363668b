"""Run a model with SAEs attached, under SAELens' names: ``run_with_saes``, ``run_with_cache_with_saes``, ``saes``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self

from jaxtyping import Bool
from torch import Tensor

from hooked_whisper._support.indices import Selection
from hooked_whisper._support.renamed import keywords_elsewhere, renamed_arguments, renamed_method
from hooked_whisper.config import WhisperConfig
from hooked_whisper.errors import ArgumentError
from hooked_whisper.hooks.attach_sae import attached_sae
from hooked_whisper.hooks.root_module import HookedRootModule
from hooked_whisper.hooks.sae_origin import warn_of_other_hook, warn_of_other_model
from hooked_whisper.protocols import AttachableSAE

SAEs = Any
"""``{hook: sae}``, ``[(hook, sae)]``, or SAEs that know their hook point: ``sae_lens_audio.LoadedSAE``, or SAELens'
``SAE`` with ``cfg.metadata.hook_name``. One or a list. The hook of a crosscoder is a tuple of its hook points."""

_SEPARATOR = ", "  # between the hook points of a crosscoder in its metadata


@dataclass(frozen=True)
class PlacedSAE:
    """An SAE and the hook point where it is attached (a crosscoder: all of its hook points).

    hook_out: the point that a transcoder replaces.
    """

    hook: str | tuple[str, ...]
    sae: AttachableSAE
    hook_out: str | None = None

    @classmethod
    def read(cls, entry: Any) -> PlacedSAE:
        """Read ``(hook, sae)`` or an SAE that knows its hook point.

        Raises:
            ArgumentError: the hook point is unknown.
        """
        hook = None
        if isinstance(entry, tuple | list) and len(entry) == 2 and _is_hook(entry[0]):
            hook, entry = entry
            hook = hook if isinstance(hook, str) else tuple(hook)
        metadata = getattr(entry, "metadata", None)
        sae = getattr(entry, "sae", entry)  # a LoadedSAE holds both
        for holder in (metadata, getattr(getattr(sae, "cfg", None), "metadata", None), getattr(sae, "cfg", None)):
            known = getattr(holder, "hook_name", None)
            if isinstance(known, str):
                several = tuple(known.split(_SEPARATOR))
                recorded = known if len(several) == 1 else several
                return cls(hook or recorded, sae, getattr(holder, "hook_name_out", None))
        if hook is None:
            raise ArgumentError(
                f"the hook point of {type(entry).__name__} is unknown: pass saes={{hook: sae}}, [(hook, sae)], or what "
                "sae_lens_audio.load_sae returns"
            )
        return cls(hook, sae)


def read_saes(saes: SAEs) -> list[PlacedSAE]:
    """Return SAEs with their hook points.

    Raises:
        ArgumentError: there is none, or a hook point is unknown.
    """
    if isinstance(saes, Mapping):
        entries: list[Any] = list(saes.items())
    elif hasattr(saes, "sae") or hasattr(saes, "encode") or _is_pair(saes):
        entries = [saes]
    elif isinstance(saes, Iterable) and not isinstance(saes, str):
        entries = list(saes)
    else:
        raise ArgumentError(f"saes is {{hook: sae}}, [(hook, sae)] or a list of loaded SAEs, not {saes!r:.80}")
    if not entries:
        raise ArgumentError("saes is empty: pass {hook: sae}, or call the model without saes=")
    return [PlacedSAE.read(entry) for entry in entries]


def _is_pair(saes: Any) -> bool:
    return isinstance(saes, tuple) and len(saes) == 2 and _is_hook(saes[0])


def _is_hook(value: Any) -> bool:
    """Whether ``value`` is the name of a hook point, or the names of several."""
    names = [value] if isinstance(value, str) else value
    return isinstance(names, tuple | list) and bool(names) and all(isinstance(name, str) for name in names)


class HookedSAEModule(HookedRootModule):
    """A hooked model to which SAEs can be attached. Subclasses have ``run_with_cache``."""

    cfg: WhisperConfig

    splice = renamed_method("splice", "attach_sae")

    @keywords_elsewhere(act_name="use hook=", hook_name="use hook=")
    @renamed_arguments(error_term="use_error_term")
    @contextmanager
    def attach_sae(
        self,
        sae: AttachableSAE,
        hook: str | Sequence[str],
        *,
        use_error_term: bool = False,
        hook_out: str | Sequence[str] | None = None,
        positions: Selection | Bool[Tensor, "row place"] | None = None,
    ) -> Iterator[Self]:
        """Replace an activation by an SAE's reconstruction of it, for a block of code. Yields the model.

        Several SAEs may be attached at different points, and detached in any order. See
        :mod:`hooked_whisper.hooks.attach_sae` for the points that an attached SAE adds, and
        :mod:`hooked_whisper.hooks.attach_crosscoder` for crosscoders, which read several points and replace each. An
        SAE that records another model, other weights or another hook point than these gives an ``SAEModelWarning``.

        Args:
            sae: an object with ``encode`` and ``decode`` (or ``decode_like(features, activation)``). It takes the
                vectors along the point's last axis, or the concatenated vectors of all heads if it is that wide. The
                reconstruction is cast to the activation's dtype.
            hook: one hook point, by name or alias. For a crosscoder, the list of points on which it was trained; its
                latents are at ``hook_sae_acts_post`` of the first.
            use_error_term: add the reconstruction error, as a constant: the output is then the activation, bit for
                bit, until a hook edits a point of the SAE. An edit of the latents adds
                ``decode(edited) - decode(latents)``, one of the input ``decode(encode(edited)) - decode(encode(x))``.
                Gradients pass through the SAE, not past it.
            hook_out: for transcoders, the later point of the same stack whose activation is replaced. For crosscoders,
                those of its points that are replaced (default: all).
            positions: replace only here; elsewhere the activation is unchanged, and latents and error read 0. Absolute
                encoder positions (decoder: tokens) in any form of
                :func:`hooked_whisper._support.indices.read_indices`, or a boolean mask ``[row, place]`` as long as the
                pass, with one row per clip or one for all clips.

        Raises:
            UnknownHookError: the point does not exist; the message names the closest.
            PatchError: the point has no vectors of the SAE's width or an SAE already, a transcoder lacks ``hook_out``,
                the points of a crosscoder are not as many as it reads or not inside the blocks of one stack, or
                ``positions`` is neither a selection nor a boolean mask. While decoding: beam search with a crosscoder
                in the decoder.
        """
        warn_of_other_model(self, self.cfg.name, sae, stacklevel=3)  # the caller's `with`, past contextlib
        warn_of_other_hook(self, hook, sae, stacklevel=3)
        with attached_sae(
            self, self.cfg, sae, hook, use_error_term=use_error_term, hook_out=hook_out, positions=positions
        ):
            yield self

    @keywords_elsewhere(reset_saes_end="SAEs are detached when the context ends")
    @contextmanager
    def saes(self, saes: SAEs, *, use_error_term: bool | None = None) -> Iterator[Self]:
        """Attach several SAEs for a block of code, as SAELens' ``model.saes`` does: :meth:`attach_sae` for each.

        Args:
            saes: ``{hook: sae}``, ``[(hook, sae)]``, or what ``sae_lens_audio.load_sae`` returns, one or a list. The
                hook of a crosscoder is a tuple of its hook points.
            use_error_term: as in :meth:`attach_sae`; by default what the SAE's attribute ``use_error_term`` says
                (SAELens), else ``False``.

        Raises:
            ArgumentError: the hook point of an SAE is unknown, or ``use_error_term`` is not a bool.
        """
        if use_error_term is not None and not isinstance(use_error_term, bool):
            raise ArgumentError(f"use_error_term must be True, False or None, not {use_error_term!r:.80}")
        with ExitStack() as stack:
            for placed in read_saes(saes):
                error_term = getattr(placed.sae, "use_error_term", False) if use_error_term is None else use_error_term
                stack.enter_context(
                    self.attach_sae(
                        placed.sae, placed.hook, hook_out=placed.hook_out, use_error_term=error_term is True
                    )
                )
            yield self

    def run_with_saes(self, *args: Any, saes: SAEs, use_error_term: bool | None = None, **kwargs: Any) -> Any:
        """Run one forward pass with SAEs attached; the other arguments are those of the model, ``saes`` as in
        :meth:`saes`."""
        with self.saes(saes, use_error_term=use_error_term):
            return self(*args, **kwargs)

    def run_with_cache_with_saes(
        self, *args: Any, saes: SAEs, use_error_term: bool | None = None, **kwargs: Any
    ) -> Any:
        """Call ``run_with_cache`` with SAEs attached: their points are cached as ``<hook>.hook_sae_acts_post``, ..."""
        with self.saes(saes, use_error_term=use_error_term):
            return self.run_with_cache(*args, **kwargs)  # type: ignore[operator]

    def run_with_hooks_with_saes(
        self, *args: Any, saes: SAEs, use_error_term: bool | None = None, **kwargs: Any
    ) -> Any:
        """Call :meth:`run_with_hooks` with SAEs attached, so that hooks can edit their points."""
        with self.saes(saes, use_error_term=use_error_term):
            return self.run_with_hooks(*args, **kwargs)
