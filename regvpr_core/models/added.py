"""Third-party models registered under a name by `regvpr models add`. Needs no torch.

An .onnx file is copied into the folder `models` of the cache as NAME.onnx, with a record inside. A
Python function and a folder of Hugging Face transformers are not copied: NAME.json contains their
path and digest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
import hashlib
import importlib.util
import json
from pathlib import Path
import re
import shutil
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from regvpr_core.config import from_mapping, to_mapping
from regvpr_core.errors import CheckpointError, ConfigError, RegvprError
from regvpr_core.images import check_rgb, RGB
from regvpr_core.models.downloads import cache_folder, file_digest, search_folders
from regvpr_core.models.onnx_engine import unit_rows
from regvpr_core.models.preprocessing import Preprocessing

Rows = npt.NDArray[np.float32]

NAME = re.compile(r'[A-Za-z0-9][\w.+-]{0,63}')
KINDS = ('function', 'transformers')
MAX_ENTRY_BYTES = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Entry of a model that is not copied.

    kind: function (source is FILE.py:FUNCTION) or transformers (source is a folder).
    name: registered name. sha256: of the Python file, or of the folder's weights and config.
    preprocessing, pool: of transformers. dimension: length of a descriptor.
    """

    kind: str
    name: str
    source: str
    sha256: str
    dimension: int
    preprocessing: Preprocessing
    pool: str = ''

    @property
    def fingerprint(self) -> str:
        """Digest of everything that affects a descriptor."""
        return digest_of(self.sha256, self.source.rpartition(':')[2] if self.kind == 'function'
                         else self.pool, self.preprocessing)


def models_folder() -> Path:
    """Folder of registered models."""
    return cache_folder() / 'models'


def find_added(name: str) -> Path | None:
    """Path of NAME.onnx or NAME.json in the folder `models` of a search folder, or None."""
    if not NAME.fullmatch(name):
        return None
    for folder in search_folders():
        for suffix in ('.onnx', '.json'):
            if (path := folder / 'models' / f'{name}{suffix}').is_file():
                return path
    return None


def find_exported(name: str) -> Path | None:
    """NAME.onnx in a search folder: the exported form of a model, used without torch."""
    if not NAME.fullmatch(name):
        return None
    return next((path for folder in search_folders()
                 if (path := folder / f'{name}.onnx').is_file()), None)


def added_names() -> list[str]:
    """Names of all registered models on this machine, sorted."""
    return sorted({path.stem for folder in search_folders()
                   for path in (folder / 'models').glob('*')
                   if path.suffix in ('.onnx', '.json') and NAME.fullmatch(path.stem)})


def read_entry(path: Path) -> Entry:
    """Read NAME.json.

    Raises:
        CheckpointError: it cannot be read or used.
    """
    try:
        if path.stat().st_size > MAX_ENTRY_BYTES:
            raise ValueError(f'{path.stat().st_size} bytes')
        about = json.loads(path.read_text(encoding='utf-8'))
        entry = Entry(**about | {'preprocessing': from_mapping(
            Preprocessing, about['preprocessing'], 'preprocessing.')})
        if entry.kind not in KINDS:
            raise ValueError(f'kind {entry.kind!r}')
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f'{path} cannot be used ({error}); add the model again with '
                              f'`regvpr models add`') from error
    return entry


def keep_entry(entry: Entry) -> Path:
    """Write NAME.json into the cache; an older one is replaced."""
    path = models_folder() / f'{entry.name}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix('.part')
    part.write_text(json.dumps(to_mapping(entry), indent=1) + '\n', encoding='utf-8')
    part.replace(path)
    return path


def keep_onnx(source: Path, name: str, about: dict[str, Any] | None) -> Path:
    """Copy an .onnx file into the cache, and add a record if it has none.

    Returns:
        the copy, under a temporary name until `confirm` is called.
    """
    part = models_folder() / f'{name}.part.onnx'
    part.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, part)
    if about is not None:
        append_metadata(part, json.dumps(about, sort_keys=True))
    return part


def confirm(part: Path, name: str) -> Path:
    """Give a checked copy its name."""
    return part.replace(part.with_name(f'{name}.onnx'))


def append_metadata(path: Path, text: str, key: str = 'regvpr') -> None:
    """Append an entry to an .onnx file's metadata; protobuf merges repeated fields.

    The package `onnx` is not needed. Field 14 of ModelProto is a list of (1: key, 2: value).
    """
    entry = field(1, key.encode()) + field(2, text.encode())
    with path.open('ab') as file:
        file.write(field(14, entry))


def field(number: int, data: bytes) -> bytes:
    """A protobuf field of bytes: tag, length, data."""
    out, length = bytearray(), len(data)
    for value in (number << 3 | 2, length):
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
    return bytes(out) + data


def digest_of(sha256: str, extra: str, preprocessing: Preprocessing) -> str:
    """Fingerprint of a file, further settings that affect descriptors, and the preprocessing."""
    text = json.dumps([sha256, extra, to_mapping(preprocessing)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def import_file(path: Path, failure: type[RegvprError]) -> Any:
    """Import a Python file as a module with a unique name. It runs code: only for trusted files.

    Raises:
        the given error type: the file does not exist or cannot be imported.
    """
    name = f'regvpr_added_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}'
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise failure(f'{path} does not exist or is no Python file')
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # someone else's code
        del sys.modules[name]
        raise failure(f'{path} cannot be imported: {type(error).__name__}: '
                      f'{" ".join(str(error).split())[:300]}') from error
    return module


class FunctionEngine:
    """A function from a list of images, each (H, W, 3) uint8 RGB, to rows (B, D)."""

    precision = 'fp32'
    device = 'python'
    title = 'a Python function'

    def __init__(self, entry: Entry) -> None:
        """Import the function.

        Raises:
            CheckpointError: the file has changed since it was added, or has no such function.
        """
        path, _, name = entry.source.rpartition(':')
        if not Path(path).is_file() or file_digest(Path(path)) != entry.sha256:
            raise CheckpointError(f'{path} is missing or has changed since model {entry.name} was '
                                  f'added; look at it, and run `regvpr models add '
                                  f'{entry.source} --name {entry.name}` again')
        function = getattr(import_file(Path(path), CheckpointError), name, None)
        if not callable(function):
            raise CheckpointError(f'{path} has no function {name!r}')
        self._function, self._source = function, entry.source

    def prepare(self, rgb: RGB) -> RGB:
        """The image, unchanged."""
        check_rgb(rgb)
        return rgb

    def batch(self, inputs: Sequence[RGB]) -> list[RGB]:
        """The images as a list."""
        return list(inputs)

    def __call__(self, inputs: list[RGB]) -> Rows:
        """Unit rows (B, D).

        Raises:
            CheckpointError: the function fails or gives something else than (B, D) numbers.
        """
        try:
            rows = self._function(inputs)
            if hasattr(rows, 'detach'):
                rows = rows.detach().cpu().float().numpy()
            array = np.asarray(rows, dtype=np.float32)
        except Exception as error:  # someone else's code
            raise CheckpointError(f'{self._source} failed on {len(inputs)} images: '
                                  f'{type(error).__name__}: '
                                  f'{" ".join(str(error).split())[:300]}') from error
        if array.ndim != 2 or len(array) != len(inputs):
            raise CheckpointError(f'{self._source} gives an array of shape {array.shape} for a '
                                  f'list of {len(inputs)} images; it must give ({len(inputs)}, D)')
        return unit_rows(array)

    def with_tokens(self, inputs: list[RGB]) -> tuple[Rows, Rows]:
        """Functions give no patch tokens.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f'{self._source} gives no patch tokens; use features xfeat or none')
