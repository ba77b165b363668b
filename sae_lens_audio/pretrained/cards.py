"""Cards (``README.md``) of the packaged SAEs. ``python -m sae_lens_audio.pretrained.cards`` writes them."""

from __future__ import annotations

from pathlib import Path

from sae_lens_audio.formats import load_sae
from sae_lens_audio.formats.card import describe_sae
from sae_lens_audio.pretrained.catalog import DEFAULT_RULE, FOLDER, AvailableSAE, find_sae, real_saes

CARD = "README.md"
_LIMITS = """
## Limits

- Trained on {hours} of speech, mostly synthetic. Scores on other speech, noise and languages can be lower.
- A feature that fires on one phone is not evidence that the model uses that phone: ablate it and compare with controls.
- The number and meaning of features depend on size, sparsity penalty and seed. Do not count features as concepts.
- It takes activations of these weights at this hook point, without padding. Attached to another model, it warns.
"""


def packaged_card(sae: AvailableSAE, is_default: bool) -> bytes:
    """Return the card of a packaged SAE. is_default: whether the hook point alone names it."""
    assert sae.folder is not None
    loaded = load_sae(sae.folder)
    metadata = loaded.metadata
    hours = metadata.extra.get("speech_hours")
    total = f"{sum(hours.values()):.0f} hours" if isinstance(hours, dict) else "a few hours"
    default = (
        f'`SAE.from_pretrained("{sae.release}", "{sae.hook}")` loads it too, as the default of the hook point: '
        f"{DEFAULT_RULE}.\n\n"
    )
    return describe_sae(
        loaded.sae,
        metadata,
        title=f"{sae.release} {sae.sae_id}",
        arguments=f'"{sae.release}", "{sae.sae_id}"',
        origin="packaged with sae_lens_audio in float16",
        license="mit",
        saelens=loaded.sae.inner.to_saelens().architecture,
        after_example=(default if is_default else "") + "The weights are under the MIT license, as Whisper's are.\n\n",
        limits=_LIMITS.format(hours=total),
    )


def write_cards(folder: Path = FOLDER) -> list[str]:
    """Write the card of every SAE of real Whisper that is packaged in ``folder``, and return their ids."""
    cards = cards_of(folder)
    for path, card in cards.items():
        path.write_bytes(card)
    return [path.parent.relative_to(folder).as_posix() for path in cards]


def cards_of(folder: Path = FOLDER) -> dict[Path, bytes]:
    """Return the content of the card of every SAE of real Whisper that is packaged in ``folder``, by its path."""
    saes, cards = real_saes(folder), {}
    for sae in saes:
        assert sae.folder is not None
        same_release = [other for other in saes if other.release == sae.release]
        cards[sae.folder / CARD] = packaged_card(sae, find_sae(same_release, sae.hook) == sae)
    return cards


if __name__ == "__main__":
    print("\n".join(write_cards()))  # noqa: T201
