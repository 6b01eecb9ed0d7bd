"""Model specifications of the command line, and the describers made from them.

    gem_vits14, FILE.safetensors, FILE.onnx    models of this package
    preset:NAME[@FILE], FILE.yaml[@FILE]       a preset, untrained, or with a checkpoint's weights
    efficientnet_lite0_gem                     the baseline that needs no download
    cosplace, boq, megaloc, …                  published models (`models/catalogue.py`)
    hub:OWNER/REPO:ENTRY[?size=322x322&…]      any torch.hub entry, also of a local folder
    package.module:function, FILE.py:function  a function from images to descriptors

Foreign code runs only with permission: torch.hub entries need `allow_code`.
"""

from collections.abc import Callable
from dataclasses import replace
import importlib
from pathlib import Path
import re
from typing import Any
from urllib.parse import parse_qsl

import yaml

from regvpr_core.config import find_settings, from_mapping, nearest, read_yaml
from regvpr_core.errors import CheckpointError, EvaluationError, UnknownModelError
from regvpr_core.evaluation.describers import CallableDescriber, Describer, EncoderDescriber
from regvpr_core.evaluation.efficientnet import efficientnet_lite0_gem, NAME as EFFICIENTNET
from regvpr_core.evaluation.modules import module_fingerprint, ModuleDescriber, Shown
from regvpr_core.models.added import added_names, find_added, import_file
from regvpr_core.models.backbones import find_backbone
from regvpr_core.models.catalogue import ALIASES, CATALOGUE, refuse_unbuilt
from regvpr_core.models.checkpoints import (
    fingerprint,
    load_model,
    load_strictly,
    LoadedModel,
    MODELS,
    UNPUBLISHED,
)
from regvpr_core.models.descriptor_model import DescriptorModel, ModelConfig
from regvpr_core.models.encoder import choose_device, load_encoder, torch_encoder
from regvpr_core.models.vit import check_weights

FUNCTION = re.compile(r'[A-Za-z_][\w.]*:[A-Za-z_]\w*')
SEED = 0
"""Seed of the random weights of untrained presets."""


def open_describer(
    spec: str, *, device: str = 'auto', precision: str = 'auto', allow_code: bool = False,
    notice: Callable[[str], None] | None = None,
) -> Describer:
    """Load the model of a specification.

    Args:
        spec: as in the module's table.
        device, precision: as for `load_encoder`; the latter only for models of this package.
        allow_code: whether torch.hub may run foreign code.
        notice: called with messages about downloads.

    Raises:
        EvaluationError: foreign code is not permitted, or it fails.
        CheckpointError: unknown name or unusable weights of a model of this package.
        ConfigError: unknown device or precision.
    """
    if spec == EFFICIENTNET:
        return efficientnet_lite0_gem(choose_device(device))
    if spec.startswith('hub:'):
        return _hub(spec, device, allow_code)
    preset, at, weights = spec.partition('@')
    if preset.startswith('preset:') or preset.endswith(('.yaml', '.yml')):
        file = find_settings('models', preset.removeprefix('preset:'))
        return _preset(file, Path(weights) if at else None, device, precision)
    path, colon, name = spec.rpartition(':')
    if colon and path.endswith('.py'):
        return _function(spec, import_file(Path(path), EvaluationError), name)
    if FUNCTION.fullmatch(spec):
        return _function(spec, _import_module(path), name)
    try:
        encoder = load_encoder(spec, device, precision, download=True, notice=notice)
    except UnknownModelError as error:
        raise _unknown(spec) from error
    return EncoderDescriber(encoder)


def steady_precision(spec: str, device: str) -> str:
    """A precision that is the same in each run: fp32 where auto depends on a speed measurement.

    Raises:
        ConfigError: unknown or unavailable device.
    """
    file = find_added(spec) or Path(spec)
    fixed = file.suffix == '.onnx' or choose_device(device).type != 'cpu'
    return 'auto' if fixed else 'fp32'


def check_spec(spec: str, allow_code: bool) -> None:
    """Check a specification without loading anything.

    Raises:
        EvaluationError: foreign code is not permitted, or the name is unknown.
        CheckpointError: a published model that is not supported; the message gives the reason.
    """
    if spec.startswith('hub:'):
        _check_leave(spec, spec.removeprefix('hub:'), allow_code)
    elif not re.search(r'[./:\\]', spec) and not Path(spec).is_file() and spec not in (
            EFFICIENTNET, *UNPUBLISHED, *MODELS, *CATALOGUE, *ALIASES, *added_names()):
        raise _unknown(spec)
    else:
        refuse_unbuilt(spec)


def _check_leave(name: str, repository: str, allow_code: bool) -> None:
    if not allow_code:
        raise EvaluationError(f'{name} runs the code of {repository} on this machine: give '
                              f'--allow-code if you trust it')


def _unknown(spec: str) -> EvaluationError:
    known = (*MODELS, *CATALOGUE, *ALIASES, *added_names(), EFFICIENTNET)
    return EvaluationError(f'unknown model {spec!r}{nearest(spec, known)}')


def _hub(spec: str, device: str, allow_code: bool) -> Describer:
    """Parse `hub:REPO:ENTRY?key=value`.

    size, mean, std, interpolation and one_by_one are not passed to the entry.
    """
    source, _, query = spec.removeprefix('hub:').partition('?')
    repository, colon, entry = source.rpartition(':')
    if not colon or not repository or not entry.isidentifier():
        raise EvaluationError(f'{spec!r}: expected hub:OWNER/REPO:ENTRY?key=value or '
                              f'hub:FOLDER:ENTRY?key=value')
    arguments: dict[str, Any] = {}
    for key, text in parse_qsl(query, keep_blank_values=True):
        try:
            arguments[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise EvaluationError(f'{spec!r}: {key} is {text!r}') from error
    ours: dict[str, Any] = {
        key: arguments.pop(key) for key in ('mean', 'std', 'interpolation', 'one_by_one')
        if key in arguments}
    size = arguments.pop('size', None)
    if size is not None:
        found = re.fullmatch(r'(\d+)(?:x(\d+))?', str(size))
        if not found:
            raise EvaluationError(f'{spec!r}: size is {size!r}; expected 322 or 320x240')
        ours |= {'height': int(found[2] or found[1]), 'width': int(found[1])}
    return _load_hub(spec, repository, entry, arguments, from_mapping(Shown, ours, 'hub: '),
                     device, allow_code)


def _load_hub(name: str, repository: str, entry: str, arguments: dict[str, Any], shown: Shown,
              device: str, allow_code: bool) -> Describer:
    """Load a network by torch.hub from a local folder, else from a cached download."""
    import torch

    place = choose_device(device)
    _check_leave(name, repository, allow_code)
    local = Path(repository).is_dir()
    try:
        load: Any = torch.hub.load
        model = load(repository, entry, source='local' if local else 'github',
                     trust_repo=True, verbose=False, **arguments)
    except Exception as error:  # third-party code, or no network
        raise EvaluationError(f'{name}: torch.hub cannot load {entry} of {repository}: '
                              f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'
                              ) from error
    if not isinstance(model, torch.nn.Module):
        raise EvaluationError(f'{name}: {entry} of {repository} gives '
                              f'{type(model).__name__}, expected a torch module')
    if isinstance(model, torch.nn.DataParallel):
        model = model.module
    model.eval().requires_grad_(False).to(place)
    label = f'{repository}:{entry}'
    return ModuleDescriber(
        model, shown, place, name=entry if name.startswith('hub:') else name,
        fingerprint=module_fingerprint(model, label, repr(sorted(arguments.items())), repr(shown)),
        notice=f'model {name}: weights and code of torch.hub {label}')


def _preset(path: Path, weights: Path | None, device: str, precision: str) -> Describer:
    """Build the model of a preset: untrained on an available backbone, or with a checkpoint."""
    config = from_mapping(ModelConfig, read_yaml(path))
    if weights is None:
        loaded = untrained(config, path.stem)
    else:
        loaded = load_model(weights, download=True)
        if _architecture(loaded.backboned('a preset').config) != _architecture(config):
            raise EvaluationError(f'{weights} holds another model than {path} describes')
        loaded = replace(loaded, name=path.stem)
    return EncoderDescriber(torch_encoder(loaded, choose_device(device), precision))


def untrained(config: ModelConfig, name: str) -> LoadedModel:
    """A model with a random head (seed 0) and pretrained backbone weights if available."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = DescriptorModel(config)
    try:
        backbone = find_backbone(config.backbone)
    except CheckpointError:
        said, sha256 = 'backbone random', None
    else:
        expected = model.backbone.state_dict()
        check_weights({key: expected[key] for key in expected if key in backbone.tensors},
                      backbone.tensors, str(backbone.path))
        load_strictly(model.backbone, expected | backbone.tensors, str(backbone.path))
        said, sha256 = backbone.notice, backbone.source.sha256
    model.eval().requires_grad_(False)
    head = {key: value for key, value in model.state_dict().items()
            if sha256 is None or not key.startswith('backbone.')}
    return LoadedModel(model, f'{name} (untrained)', fingerprint(config, sha256, head),
                       f'model {name}: UNTRAINED, its head as it starts (seed {SEED}); {said}')


def _architecture(config: ModelConfig) -> ModelConfig:
    return replace(config, train='frozen', train_norm=None)


def _function(spec: str, module: Any, name: str) -> Describer:
    function = getattr(module, name, None)
    if not callable(function):
        raise EvaluationError(f'{spec!r} has no function {name!r}')
    mark = getattr(function, 'fingerprint', '')
    mark = str(mark() if callable(mark) else mark)
    kept = '' if mark else ' (its descriptors are not kept: it has no attribute `fingerprint`)'
    return CallableDescriber(function, name, f'model {spec}: a function{kept}',
                             f'{spec} {mark}' if mark else '')


def _import_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:  # third-party code may raise anything
        file = Path(*name.split('.')).with_suffix('.py')
        hint = f'; give the file, {file}:FUNCTION' if file.is_file() else ''
        raise EvaluationError(f'module {name!r} cannot be imported: {type(error).__name__}: '
                              f'{" ".join(str(error).split())[:300]}{hint}') from error
