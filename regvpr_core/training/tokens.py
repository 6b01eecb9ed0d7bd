"""Tokens of a frozen block, computed once and stored on disk, with augmented copies.

A folder with `tokens.f16` (copies x images x (1 + h * w) x width, class token first,
memory-mapped) and `tokens.json` (description, number of finished images, unreadable images).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
import hashlib
import json
from pathlib import Path
import shutil
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regvpr_core.arrays import Int64
from regvpr_core.config import to_mapping
from regvpr_core.errors import ImageError, TrainingError
from regvpr_core.models.backbones import BackboneWeights
from regvpr_core.models.cpu.network import fuse
from regvpr_core.models.descriptor_model import DescriptorModel, ModelConfig
from regvpr_core.models.engines import fastest_form
from regvpr_core.models.vit import load_backbone_weights, VIT_CONFIGS
from regvpr_core.training.augmentation import Augmenter
from regvpr_core.training.batches import Batch
from regvpr_core.training.config import AugmentationConfig
from regvpr_core.training.pictures import normalised, read_groups, unit_range
from regvpr_core.training.randomness import generator
from regvpr_core.training.run_folder import saving, write_whole

PASS = 32
"""Images per pass. No setting, because the random numbers of copies depend on it."""

LARGEST_FLOAT16 = 65504.0
MAX_JOURNAL_BYTES = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPlan:
    """Description of stored tokens.

    paths, names: of the images. model, block: whose tokens, block counted from 0.
    augmentation, copies, seed: of the augmented copies; copy 0 is unaugmented.
    most: (N) limits on the copies of each image; None: no limits.
    """

    paths: Sequence[Path]
    names: Sequence[str]
    model: ModelConfig
    block: int
    augmentation: AugmentationConfig
    copies: int
    seed: int
    most: Int64 | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Copies, images, tokens per image, width."""
        size = self.model.preprocessing
        return (1 + self.copies, len(self.paths), 1 + size.height // 14 * (size.width // 14),
                VIT_CONFIGS[self.model.backbone].width)

    def about(self, backbone: BackboneWeights) -> dict[str, Any]:
        """Key of these tokens."""
        return {
            'backbone_sha256': backbone.source.sha256, 'block': self.block,
            'pictures_sha256': hashlib.sha256('\0'.join(self.names).encode()).hexdigest(),
            'preprocessing': json.loads(json.dumps(to_mapping(self.model.preprocessing))),
            'shape': list(self.shape), 'seed': self.seed if self.copies else 0,
            'augmentation': to_mapping(self.augmentation) if self.copies else {},
            'most_sha256': None if self.most is None or (self.most >= self.copies).all() else
            hashlib.sha256(np.minimum(self.most, self.copies).astype('<i8').tobytes()).hexdigest()}


class TokenStore:
    """Stored tokens, read in batches.

    unreadable: reasons of images without tokens, by index.
    """

    def __init__(self, folder: Path, shape: Sequence[int], unreadable: dict[int, str]) -> None:
        self.unreadable = unreadable
        self._rows = np.memmap(folder / 'tokens.f16', dtype=np.float16, mode='r',
                               shape=tuple(shape))

    def read(self, images: Int64, copies: Int64) -> Tensor:
        """Tokens (B, 1 + h * w, width) float16 of images, each of one copy."""
        return torch.from_numpy(np.stack(
            [self._rows[copy, image] for image, copy in zip(images, copies, strict=True)]))

    def batches(self, batches: Sequence[Batch]) -> Iterator[tuple[Batch, Tensor]]:
        """Each batch with its tokens."""
        for batch in batches:
            yield batch, self.read(batch.images, batch.copies)


def keep_tokens(
    folder: Path, plan: TokenPlan, backbone: BackboneWeights, device: torch.device,
    threads: int, told: Callable[[int, int], None],
) -> TokenStore:
    """Compute the missing tokens; an interrupted computation is resumed.

    Args:
        folder: for the tokens.
        plan: description of the tokens.
        backbone: weights of the network.
        device: to compute on. threads: that read images.
        told: called with images done and in total after each pass; may raise to stop.

    Raises:
        TrainingError: the folder contains other tokens, or the disk is too small.
    """
    journal = folder / 'tokens.json'
    state = read_journal(journal, plan.about(backbone))
    if state is None:
        state = {'about': plan.about(backbone), 'done': 0, 'unreadable': {}}
        reserve(folder, 2 * int(np.prod(plan.shape)))
    if state['done'] < len(plan.paths):
        fill(folder, plan, state, tokens_of(plan, backbone, device), device, threads, told)
    return TokenStore(folder, plan.shape,
                      {int(number): why for number, why in state['unreadable'].items()})


def read_journal(journal: Path, about: dict[str, Any]) -> dict[str, Any] | None:
    """Progress of an earlier run; None if there was none.

    Raises:
        TrainingError: its files are damaged or of other tokens.
    """
    if not journal.exists():
        return None
    try:
        if journal.stat().st_size > MAX_JOURNAL_BYTES:
            raise TrainingError(f'{journal} is larger than {MAX_JOURNAL_BYTES} bytes')
        state = json.loads(journal.read_text(encoding='utf-8'))
        was, size = state['about'], (journal.parent / 'tokens.f16').stat().st_size
        int(state['done'])
        dict(state['unreadable'])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f'{journal} is damaged ({error}); remove the folder') from error
    other = [key for key in about if was.get(key) != about[key]]
    if other or size != 2 * int(np.prod(about['shape'])):
        what = ', '.join(other) or 'size'
        raise TrainingError(f'{journal.parent} holds tokens of another {what}; remove it or '
                            f'give another tokens.folder')
    return dict(state)


def reserve(folder: Path, size: int) -> None:
    """Allocate the file of tokens.

    Raises:
        TrainingError: the disk is too small.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise TrainingError(f'{folder} needs {size / 1e9:.1f} GB for tokens, and its disk has '
                            f'{free / 1e9:.1f} GB; lower tokens.copies, or give a tokens.folder '
                            f'on another disk')
    with (folder / 'tokens.f16').open('wb') as file:
        file.truncate(size)


def fill(
    folder: Path, plan: TokenPlan, state: dict[str, Any], tokens: Callable[[Tensor], Tensor],
    device: torch.device, threads: int, told: Callable[[int, int], None],
) -> None:
    """Compute the missing rows; the journal is written after them."""
    augment = Augmenter(plan.augmentation) if plan.copies else None
    size = plan.model.preprocessing
    starts = range(state['done'], len(plan.paths), PASS)
    groups = [plan.paths[start:start + PASS] for start in starts]
    most = np.full(len(plan.paths), plan.copies) if plan.most is None else plan.most
    rows = np.memmap(folder / 'tokens.f16', dtype=np.float16, mode='r+', shape=plan.shape)
    for start, found in zip(starts, read_groups(groups, size, threads), strict=True):
        blank = torch.zeros(3, size.height, size.width, dtype=torch.uint8)
        pictures = torch.stack([blank if isinstance(p, ImageError) else p for p in found])
        plain = unit_range(pictures, device)
        ends = slice(start, start + len(found))
        for copy in range(1 + plan.copies):
            wanted = most[ends] >= copy
            if not wanted.any():
                continue
            x = plain if copy == 0 or augment is None else \
                augment(plain, generator(plan.seed, copy, start))
            out = tokens(normalised(x[torch.from_numpy(wanted)], size)).float()
            rows[copy, ends][wanted] = out.clamp(-LARGEST_FLOAT16, LARGEST_FLOAT16).cpu().numpy()
        state['unreadable'] |= {str(start + i): str(p) for i, p in enumerate(found)
                                if isinstance(p, ImageError)}
        state['done'] = start + len(found)
        rows.flush()
        with saving(folder / 'tokens.json'):
            write_whole(folder / 'tokens.json', json.dumps(state).encode())
        told(state['done'], len(plan.paths))


def tokens_of(
    plan: TokenPlan, backbone: BackboneWeights, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Make the function from network input (B, 3, H, W) to tokens (B, 1 + h * w, width)."""
    model = DescriptorModel(ModelConfig(backbone=plan.model.backbone, last_block=plan.block))
    load_backbone_weights(model.backbone, backbone.tensors, str(backbone.path))
    model.eval().requires_grad_(False)
    if device.type == 'cpu':
        size = model.backbone.config
        model = fuse(model, fastest_form(size.width, size.heads, ('fp32', 'bf16'),
                                         torch.get_num_threads()))
    vit = model.backbone.to(device)

    def tokens(images: Tensor) -> Tensor:
        half = torch.autocast(device.type, torch.float16, enabled=device.type == 'cuda')
        with torch.inference_mode(), half:
            first, patches = vit(images, plan.block)
            return torch.cat([first[:, None], patches.flatten(2).transpose(1, 2)], dim=1)

    return tokens
