"""Load, save, upload and process weights: a resolver for every source, our own format and that of transformers, the
Hugging Face hub, logit-preserving processing."""

from hooked_whisper.config import OFFICIAL_MODEL_NAMES as OFFICIAL_MODEL_NAMES
from hooked_whisper.loading.checkpoint import Checkpoint, from_core, load_into
from hooked_whisper.loading.ctranslate2 import load_ctranslate2
from hooked_whisper.loading.formats import load_path
from hooked_whisper.loading.ggml import load_ggml
from hooked_whisper.loading.hub import load_from_hub
from hooked_whisper.loading.hub_push import push_model, push_site
from hooked_whisper.loading.hub_upload import HubUpload
from hooked_whisper.loading.huggingface import (
    from_huggingface_model,
    huggingface_name,
    load_huggingface_file,
    load_huggingface_folder,
)
from hooked_whisper.loading.huggingface_save import save_huggingface
from hooked_whisper.loading.mlx import load_mlx_folder
from hooked_whisper.loading.openai import from_openai_model, load_openai_file, openai_name
from hooked_whisper.loading.own import load_own_file, load_own_folder, save_pretrained, weights_sha256
from hooked_whisper.loading.processing import (
    center_unembed,
    center_writing_weights,
    fold_ln,
    fold_value_biases,
    process_weights,
)
from hooked_whisper.loading.registry import model_names, resolve
from hooked_whisper.loading.released import load_released

__all__ = [
    "Checkpoint",
    "HubUpload",
    "center_unembed",
    "center_writing_weights",
    "fold_ln",
    "fold_value_biases",
    "from_core",
    "from_huggingface_model",
    "from_openai_model",
    "huggingface_name",
    "load_ctranslate2",
    "load_from_hub",
    "load_ggml",
    "load_huggingface_file",
    "load_huggingface_folder",
    "load_into",
    "load_mlx_folder",
    "load_openai_file",
    "load_own_file",
    "load_own_folder",
    "load_path",
    "load_released",
    "model_names",
    "openai_name",
    "process_weights",
    "push_model",
    "push_site",
    "resolve",
    "save_huggingface",
    "save_pretrained",
    "weights_sha256",
]
