"""Changes of the residual stream for one case: erase and push a phone's latents, and the controls.

Every change is what :func:`sae_lens_audio.ablate_latents` and :func:`sae_lens_audio.clamp_latents` do in a model with
the SAE attached and its error term: the difference of two decoded latent vectors. As vectors, all edits of a case share
one batch.
"""

from __future__ import annotations

import zlib
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.feature_steering.cases import Case
from benchmarks.feature_steering.phone_latents import PhoneLatents
from sae_lens_audio.architectures import SAE

# Fixed by a trial on 20 words of packaged voices of the training split. Pushing 8 latents wrote about as many other
# words as pushing 32, but erasing 8 changed hardly any word. A margin of 3 positions did more than one of 2.
GROUP = 32  # latents of a phone that are changed together
PUSH = 1.5  # times the mean activation during the pushed phone
MARGIN = 3  # positions (20 ms) to either side of the phone
SIMILAR = 20  # latents of nearest firing frequency, of which a control draws one

Edit = Literal[
    "erase, 1 latent",
    "push, 1 latent",
    "erase",
    "erase, random latents",
    "erase, random direction",
    "erase, elsewhere",
    "push",
    "push, random latents",
    "push, random direction",
    "push, elsewhere",
    "push, difference of means",
]
EDITS: tuple[Edit, ...] = get_args(Edit)
CONTROLS: dict[Edit, tuple[Edit, ...]] = {
    "erase": ("erase, random latents", "erase, random direction", "erase, elsewhere"),
    "push": ("push, random latents", "push, random direction", "push, elsewhere"),
}


@torch.no_grad()
def changes(
    case: Case, sae: SAE, phones: PhoneLatents, resid: Float[Tensor, "position d"], seed: int = 0
) -> dict[Edit, Float[Tensor, "position d"]]:
    """Return what each edit adds to the residual stream of the clip.

    - erase: the latents of the word's phone become 0 where it is said. push: also, those of the other phone become
      ``PUSH`` times their mean during that phone.
    - random latents: the same changes of coefficients on latents that fire as often, scaled to the same norm.
    - random direction: one direction, scaled to the norm of the change at each position.
    - elsewhere: the same edit at positions of the clip where neither phone is said.
    - difference of means: no SAE; ``PUSH`` times the difference of the two phones' mean activations. It shows what an
      edit at these positions can do.
    """
    rng = torch.Generator().manual_seed(zlib.crc32(f"{seed} {case.clip} {case.written}".encode()))
    here, away = slice(case.start, case.stop), slice(case.away, case.away + case.stop - case.start)
    latents, others = phones.latents(case.phone, GROUP), phones.latents(case.other, GROUP)
    detectors = [torch.tensor([phones.detector(phone)], device=latents.device) for phone in (case.phone, case.other)]
    matched = similar_latents(phones, torch.cat([latents, others]), rng)
    direction = torch.randn(resid.shape[-1], generator=rng).to(resid)
    direction = direction / direction.norm()

    result: dict[Edit, Tensor] = {
        "erase, 1 latent": _decoded(sae, resid[here], _erased(sae, resid[here], detectors[0])),
        "push, 1 latent": _decoded(sae, resid[here], _pushed(sae, phones, resid[here], case, *detectors)),
    }
    for kind in ("erase", "push"):
        for suffix, span in (("", here), (", elsewhere", away)):
            x = resid[span]
            old = sae.encode(x)
            new = _erased(sae, x, latents) if kind == "erase" else _pushed(sae, phones, x, case, latents, others)
            change = sae.decode(new) - sae.decode(old)
            result[f"{kind}{suffix}"] = change  # type: ignore[index]
            if not suffix:
                moved = old.clone()
                moved[:, matched] += (new - old)[:, torch.cat([latents, others])]
                norm = change.norm(dim=-1, keepdim=True)
                result[f"{kind}, random latents"] = _scaled(sae.decode(moved) - sae.decode(old), norm)  # type: ignore[index]
                result[f"{kind}, random direction"] = norm * direction  # type: ignore[index]
    means = PUSH * phones.residual_difference(case.phone, case.other)
    result["push, difference of means"] = means.to(resid).expand(case.stop - case.start, -1)
    spans = {edit: away if edit.endswith("elsewhere") else here for edit in EDITS}
    return {edit: _placed(result[edit], spans[edit], resid) for edit in EDITS}


def similar_latents(phones: PhoneLatents, latents: Int[Tensor, "n"], rng: torch.Generator) -> Int[Tensor, "n"]:
    """Return another latent for each, that fires about as often; none twice, and none of ``latents``."""
    free = phones.firing.clone()
    free[latents] = torch.inf
    matched = []
    for latent in latents.tolist():
        nearest = (free - phones.firing[latent]).abs().topk(SIMILAR, largest=False).indices
        pick = int(nearest[int(torch.randint(SIMILAR, (1,), generator=rng))])
        free[pick] = torch.inf
        matched.append(pick)
    return torch.tensor(matched, device=latents.device)


def _erased(sae: SAE, x: Float[Tensor, "n d"], latents: Int[Tensor, "k"]) -> Float[Tensor, "n d_sae"]:
    new = sae.encode(x).clone()
    new[:, latents] = 0
    return new


def _pushed(
    sae: SAE, phones: PhoneLatents, x: Float[Tensor, "n d"], case: Case, latents: Tensor, others: Tensor
) -> Float[Tensor, "n d_sae"]:
    new = _erased(sae, x, latents)
    new[:, others] = (PUSH * phones.typical(case.other, others)).to(new)
    return new


def _decoded(sae: SAE, x: Float[Tensor, "n d"], new: Float[Tensor, "n d_sae"]) -> Float[Tensor, "n d"]:
    return sae.decode(new) - sae.decode(sae.encode(x))


def _scaled(change: Float[Tensor, "n d"], norm: Float[Tensor, "n 1"]) -> Float[Tensor, "n d"]:
    size = change.norm(dim=-1, keepdim=True)
    return torch.where(size > 0, change * norm / size.clamp(min=1e-12), 0.0)


def _placed(change: Float[Tensor, "n d"], span: slice, resid: Float[Tensor, "position d"]) -> Tensor:
    full = torch.zeros_like(resid)
    full[span] = change
    return full
