"""Writes tests/sae/data: small SAEs by the libraries themselves, with inputs and what those compute.

Not run by the tests: they need none of these packages. To renew, in an environment with sae-lens 6.54.12,
dictionary-learning 0.1.0 and eai-sparsify 1.3.3: ``python tests/sae/make_golden.py``.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import save_file

DATA = Path(__file__).parent / "data"
D, F, D_OUT, ROWS = 6, 10, 4, 5


def fill(module: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(0.6 * torch.randn(parameter.shape, generator=generator))
            if name == "threshold":
                parameter.abs_()


def answers(folder: Path, x: torch.Tensor, features: torch.Tensor, output: torch.Tensor) -> None:
    save_file({"x": x, "features": features.contiguous(), "output": output.contiguous()}, folder / "golden.safetensors")


def inputs() -> torch.Tensor:
    return torch.randn(ROWS, D, generator=torch.Generator().manual_seed(99))


def saelens() -> None:
    from sae_lens import SAE, TrainingSAE
    from sae_lens.saes.sae import SAEMetadata

    metadata = {"model_name": "whisper-tiny", "hook_name": "encoder.blocks.2.hook_resid_post"}
    common = {"d_in": D, "d_sae": F, "device": "cpu"}
    plain = {
        "standard": {"architecture": "standard"},
        "standard_not_centred": {"architecture": "standard", "apply_b_dec_to_input": False},
        "standard_layer_norm": {"architecture": "standard", "normalize_activations": "layer_norm"},
        "standard_constant_norm": {"architecture": "standard", "normalize_activations": "constant_norm_rescale"},
        "topk": {"architecture": "topk", "k": 3},
        "topk_rescaled": {"architecture": "topk", "k": 3, "rescale_acts_by_decoder_norm": True},
        "abstopk": {"architecture": "abstopk", "k": 3},
        "jumprelu": {"architecture": "jumprelu"},
        "gated": {"architecture": "gated"},
        "transcoder": {"architecture": "transcoder", "d_out": D_OUT, "apply_b_dec_to_input": False},
        "skip_transcoder": {"architecture": "skip_transcoder", "d_out": D_OUT, "apply_b_dec_to_input": False},
        "jumprelu_transcoder": {"architecture": "jumprelu_transcoder", "d_out": D_OUT, "apply_b_dec_to_input": False},
        "jumprelu_skip_transcoder": {
            "architecture": "jumprelu_skip_transcoder", "d_out": D_OUT, "apply_b_dec_to_input": False,
        },
    }  # fmt: skip
    x = inputs()
    for number, (name, keys) in enumerate(plain.items()):
        sae = SAE.from_dict(common | keys)
        sae.cfg.metadata = SAEMetadata(**metadata)
        fill(sae, number)
        folder = DATA / "saelens" / name
        sae.save_model(folder)
        with torch.no_grad():
            features, output = sae.encode(x), sae(x)
        answers(folder, x, features, output)

    training = {
        "training_batchtopk": {"architecture": "batchtopk", "k": 2.5},
        "training_matryoshka": {"architecture": "matryoshka_batchtopk", "k": 2.5, "matryoshka_widths": [3, F]},
    }
    for number, (name, keys) in enumerate(training.items()):
        sae = TrainingSAE.from_dict(common | keys)
        sae.cfg.metadata = SAEMetadata(**metadata)
        fill(sae, 50 + number)
        sae.topk_threshold.fill_(0.4)
        folder = DATA / "saelens" / name
        sae.save_model(folder)
        # what it saves for inference is what its encode shall be once trained
        sae.save_inference_model(DATA / "saelens" / f"{name}_inference")
        inference = SAE.load_from_disk(DATA / "saelens" / f"{name}_inference")
        with torch.no_grad():
            for target in (folder, DATA / "saelens" / f"{name}_inference"):
                answers(target, x, inference.encode(x), inference(x))

    folded = SAE.from_dict(common | {"architecture": "gated", "normalize_activations": "covariance_whitening"})
    fill(folded, 70)
    folder = DATA / "saelens" / "gated_whitened"
    folded.save_model(folder)
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(D, D, generator=generator, dtype=torch.float64) + 2 * torch.eye(D, dtype=torch.float64)
    statistics = {
        "mean": torch.randn(D, generator=generator, dtype=torch.float64),
        "matrix": matrix,
        "inverse_matrix": matrix.inverse().contiguous(),
    }
    save_file(statistics, folder / "activation_whitening.safetensors")
    folded.fold_activation_whitening(statistics["mean"], matrix, statistics["inverse_matrix"])
    with torch.no_grad():
        answers(folder, x, folded.encode(x), folded(x))

    scaled = SAE.from_dict(
        common | {"architecture": "topk", "k": 3, "normalize_activations": "expected_average_only_in"}
    )
    fill(scaled, 71)
    folder = DATA / "saelens" / "topk_scaled"
    scaled.save_model(folder)
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 2.5, "has_whitening": False}))
    scaled.fold_activation_norm_scaling_factor(2.5)
    with torch.no_grad():
        answers(folder, x, scaled.encode(x), scaled(x))


def dictionary_learning() -> None:
    for name in ("nnsight", "wandb"):  # they are imported for training, which is not done here
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["nnsight"].LanguageModel = object  # type: ignore[attr-defined]
    from dictionary_learning.sae import AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    x = inputs()
    saes = [
        AutoEncoder(D, F), AutoEncoderNew(D, F), GatedAutoEncoder(D, F), JumpReluAutoEncoder(D, F),
        AutoEncoderTopK(D, F, 3), BatchTopKSAE(D, F, 3), MatryoshkaBatchTopKSAE(D, F, 3, [4, 6]),
    ]  # fmt: skip
    for number, sae in enumerate(saes):
        fill(sae, 100 + number)
        name = type(sae).__name__
        if name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
            sae.threshold.fill_(0.4)
        folder = DATA / "dictionary_learning" / name
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(sae.state_dict(), folder / "ae.pt")
        trainer = {"dict_class": name, "activation_dim": D, "dict_size": F, "k": 3, "lm_name": "whisper"}
        (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))
        if name == "AutoEncoder":
            sae = AutoEncoder.from_pretrained(folder / "ae.pt")
        with torch.no_grad():
            answers(folder, x, sae.encode(x), sae(x))


def sparsify() -> None:
    from sparsify import SparseCoder, SparseCoderConfig, sparse_coder, utils

    sparse_coder.decoder_impl = utils.eager_decode  # it takes the Triton kernel wherever Triton can be imported

    x = inputs()
    for number, (name, keys) in enumerate(
        {
            "plain": {},
            "transcode": {"transcode": True, "skip_connection": True},
            "skip": {"skip_connection": True},
        }.items()
    ):
        sae = SparseCoder(D, SparseCoderConfig(num_latents=F, k=3, **keys))
        fill(sae, 200 + number)
        folder = DATA / "sparsify" / name
        sae.save_to_disk(folder)
        with torch.no_grad():
            top = sae.encode(x)
            features = torch.zeros(ROWS, F).scatter(1, top.top_indices, top.top_acts)
            answers(folder, x, features, sae(x).sae_out)


if __name__ == "__main__":
    for maker in (saelens, dictionary_learning, sparsify):
        if len(sys.argv) == 1 or maker.__name__ in sys.argv[1:]:
            maker()
