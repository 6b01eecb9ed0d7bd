"""Backbones of Hugging Face transformers from a folder on this machine, as baselines.

DINOv2, DINOv2 with registers, DINOv3, SigLIP and others whose output is a sequence of tokens. The
descriptor is the class token or a generalised mean of the patch tokens (GeM, p = 3), without
training. Only safetensors files are read, and no code of the folder is run.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from regvpr_core.config import to_mapping
from regvpr_core.errors import CheckpointError, ConfigError
from regvpr_core.models.added import Entry, keep_entry
from regvpr_core.models.checkpoints import LoadedModel
from regvpr_core.models.downloads import file_digest
from regvpr_core.models.methods.network import PublishedNetwork
from regvpr_core.models.preprocessing import Preprocessing

POOLS = ('cls', 'gem')
POWER = 3.0
"""Exponent of the generalised mean (Radenovic et al., 2018)."""


class TransformersNetwork(PublishedNetwork):
    """A vision transformer of the library with a pool over its tokens."""

    def __init__(self, backbone: nn.Module, pool: str, preprocessing: Preprocessing) -> None:
        super().__init__()
        config: Any = backbone.config
        self.backbone, self.pool, self.preprocessing = backbone, pool, preprocessing
        self.dimension = int(config.hidden_size)
        # SigLIP has a pooler that attends to the patches instead of a class token.
        self.has_class = not str(config.model_type).startswith('siglip')
        self.registers = int(getattr(config, 'num_register_tokens', 0) or 0)
        self.patch = int(config.patch_size)
        self.interpolates = not str(config.model_type).startswith('dino')

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) to unit rows (B, D)."""
        return self.with_tokens(images)[0]

    def with_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Descriptors as `forward`, and patch tokens (B, h, w, D) of the last block."""
        # DINO models always interpolate positions, others only on request.
        settings = {'interpolate_pos_encoding': True} if self.interpolates else {}
        out = self.backbone(pixel_values=images, **settings)
        tokens: Tensor = out.last_hidden_state.float()
        patches = tokens[:, 1 + self.registers:] if self.has_class else tokens
        if self.pool == 'gem':
            pooled = patches.clamp(min=1e-6).pow(POWER).mean(dim=1).pow(1.0 / POWER)
        else:
            pooled = tokens[:, 0] if self.has_class else out.pooler_output.float()
        grid = (images.shape[2] // self.patch, images.shape[3] // self.patch)
        return F.normalize(pooled, dim=1), patches.reshape(len(patches), *grid, -1)

    def described(self) -> str:
        """Everything that affects a descriptor besides the weights."""
        return json.dumps({'network': 'transformers', 'pool': self.pool,
                           'preprocessing': to_mapping(self.preprocessing)}, sort_keys=True)


def read_network(folder: Path, pool: str, preprocessing: Preprocessing) -> TransformersNetwork:
    """The network of a folder, in eval mode.

    Raises:
        ConfigError: transformers is not installed, an unknown pool, or a size that is not a
            multiple of the patch size.
        CheckpointError: the folder contains no such model.
    """
    if pool not in POOLS:
        raise ConfigError(f'unknown pool {pool!r}; known: {", ".join(POOLS)}')
    try:
        from transformers import AutoModel
    except ImportError as error:
        raise ConfigError("models of Hugging Face need transformers: pip install "
                          "'regvpr_ros[transformers]'") from error
    try:
        model: Any = AutoModel.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, use_safetensors=True)
    except Exception as error:  # the library raises various types
        raise CheckpointError(f'{folder} holds no model of transformers with config.json and '
                              f'model.safetensors: {" ".join(str(error).split())[:200]}') \
            from error
    backbone = getattr(model, 'vision_model', model)
    if not hasattr(backbone.config, 'patch_size'):
        raise CheckpointError(f'{folder} holds a {backbone.config.model_type}, which gives no '
                              f'patch tokens; expected DINOv2, DINOv3, SigLIP or another ViT')
    network = TransformersNetwork(backbone, pool, preprocessing)
    for name in ('height', 'width'):
        if getattr(preprocessing, name) % network.patch:
            raise ConfigError(f'--size: {name} {getattr(preprocessing, name)} is no multiple of '
                              f'the patch of {network.patch} pixels')
    return network.eval().requires_grad_(False)


def folder_digest(folder: Path) -> str:
    """SHA-256 over the digests of config.json and the safetensors files.

    Raises:
        CheckpointError: one of them is missing.
    """
    files = [folder / 'config.json', *sorted(folder.glob('*.safetensors'))]
    if not files[0].is_file() or len(files) == 1:
        raise CheckpointError(f'{folder} lacks config.json or *.safetensors; save the model there '
                              f'with save_pretrained')
    return hashlib.sha256(''.join(map(file_digest, files)).encode()).hexdigest()


def shown_by(folder: Path) -> Preprocessing:
    """Mean, standard deviation and size of preprocessor_config.json, or those of ImageNet."""
    try:
        about = json.loads((folder / 'preprocessor_config.json').read_text(encoding='utf-8'))
        mean, std = (tuple(float(value) for value in about[key])
                     for key in ('image_mean', 'image_std'))
    except (OSError, ValueError, KeyError, TypeError):
        return Preprocessing()
    if len(mean) != 3 or len(std) != 3:
        return Preprocessing()
    return Preprocessing(mean=mean, std=std)


def add_transformers(folder: Path, name: str, pool: str, preprocessing: Preprocessing
                     ) -> tuple[Path, int]:
    """Register a folder after its network has described an image.

    Raises:
        CheckpointError, ConfigError: as `read_network`.
    """
    folder = folder.resolve()
    network = read_network(folder, pool, preprocessing)
    grey = torch.zeros(1, 3, preprocessing.height, preprocessing.width)
    with torch.inference_mode():
        row = network(grey)
    if not bool(row.isfinite().all()):
        raise CheckpointError(f'{folder} gives a descriptor that is not finite')
    entry = Entry(kind='transformers', name=name, source=str(folder), dimension=network.dimension,
                  sha256=folder_digest(folder), preprocessing=preprocessing, pool=pool)
    return keep_entry(entry), network.dimension


def load_transformers(entry: Entry) -> LoadedModel:
    """The model of an entry.

    Raises:
        CheckpointError: the folder has changed since it was added.
    """
    folder = Path(entry.source)
    if not folder.is_dir() or folder_digest(folder) != entry.sha256:
        raise CheckpointError(f'{folder} is missing or has changed since model {entry.name} was '
                              f'added; run `regvpr models add {folder} --name {entry.name}` again')
    return LoadedModel(read_network(folder, entry.pool, entry.preprocessing), entry.name,
                       entry.fingerprint, f'model {entry.name}: {entry.pool} of {folder}')
