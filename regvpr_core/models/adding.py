"""`regvpr models add`: check a third-party model and register it under a name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from regvpr_core.config import nearest, to_mapping
from regvpr_core.errors import CheckpointError, ConfigError, OnnxFileError
from regvpr_core.images import RGB
from regvpr_core.models.added import (
    confirm,
    digest_of,
    Entry,
    FunctionEngine,
    keep_entry,
    keep_onnx,
    NAME,
)
from regvpr_core.models.catalogue import ALIASES, CATALOGUE
from regvpr_core.models.downloads import file_digest
from regvpr_core.models.gate import drawn_images
from regvpr_core.models.onnx_engine import OnnxEngine, onnxruntime, open_session
from regvpr_core.models.preprocessing import Preprocessing
from regvpr_core.models.record import METADATA_KEY

Rows = npt.NDArray[np.float32]
Describe = Callable[[list[RGB]], Rows]

SAME = 1e-3
"""Largest difference between a unit descriptor of an image alone and in a batch, per number."""

ALIKE = 0.99999
"""Cosine above which the descriptors of different test images count as equal."""


def known_names() -> set[str]:
    """Names of the package's own and of published models."""
    shipped = Path(__file__).parent / 'weights'
    return {*CATALOGUE, *ALIASES, *(path.stem for path in shipped.glob('*.safetensors')),
            'gem_vits14', 'regvpr_vits14', 'regvpr_vitb14'}


def check_name(name: str, known: set[str]) -> None:
    """Refuse a name that is no valid file name, or that another model has.

    Raises:
        ConfigError: the message says which.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f'{name!r} cannot be the name of a model: letters, digits, . _ + - (at '
                          f'most 64); give another with --name')
    if name in known:
        raise ConfigError(f'{name} is a model of regvpr already; give another with --name')


def add_onnx(path: Path, name: str, preprocessing: Preprocessing | None,
             output: str | None = None) -> tuple[Path, int]:
    """Copy an .onnx file into the cache with its record, check it, and give it its name.

    Args:
        path: the file; one exported by this package contains a record.
        name: to register.
        preprocessing: of images; None if the file has a record.
        output: name of the output with the descriptors, if there are several.

    Returns:
        path of the copy, and length of a descriptor.

    Raises:
        CheckpointError: the file is damaged or unsuitable; the message says how to fix the export.
        ConfigError: no preprocessing, or onnxruntime is missing.
    """
    ort = onnxruntime()
    session = open_session(ort, path, ort.SessionOptions(), ['CPUExecutionProvider'])
    exported = METADATA_KEY in session.get_modelmeta().custom_metadata_map
    if exported and preprocessing is not None:
        raise ConfigError(f'{path} was exported by regvpr and holds its size, mean and std; leave '
                          f'out --size, --mean and --std')
    about = None
    if preprocessing is not None:
        inputs, output = images_input(session, preprocessing), descriptor_output(session, output)
        about = {'name': name, 'dimension': length(session, inputs, output, preprocessing, path),
                 'preprocessing': to_mapping(preprocessing), 'precision': 'fp32',
                 'inputs': inputs, 'output': output,
                 'fingerprint': digest_of(file_digest(path), output, preprocessing)}
    elif not exported:
        raise ConfigError(f'{path} does not contain the preprocessing of images: give --size '
                          f'PIXELS, and --mean and --std if they are not those of ImageNet')
    part = keep_onnx(path, name, about)
    try:
        engine = OnnxEngine(part, 'cpu', 'auto', None)
        dimension = check_descriptors(describing(engine), str(path))
    except OnnxFileError as error:  # the original could be opened
        part.unlink()
        raise CheckpointError(
            f'{path} keeps its weights in other files beside it; make it one file: '
            f"onnx.save(onnx.load('{path.name}'), 'one_file.onnx')") from error
    except CheckpointError:
        part.unlink()
        raise
    return confirm(part, name), dimension


def length(
    session: Any, inputs: str, output: str, preprocessing: Preprocessing, path: Path
) -> int:
    """Length D of a descriptor, by describing a black image.

    Raises:
        CheckpointError: the graph fails, or gives no rows; the message says how to fix the export.
    """
    black = np.zeros((1, 3, preprocessing.height, preprocessing.width), np.float32)
    try:
        (out,) = session.run([output], {inputs: black})
    except Exception as error:  # onnxruntime raises various types
        raise CheckpointError(
            f'{path} fails on an image of {preprocessing.width}x{preprocessing.height}: '
            f'{" ".join(str(error).split())[:200]}; give the --size that it was exported for') \
            from error
    if out.ndim != 2 or not out.shape[1]:
        raise CheckpointError(f'{path}: output {output} has shape {list(out.shape)} for one '
                              f'image; expected (1, D): pool the feature map inside the model '
                              f'(mean, GeM or NetVLAD) and export that')
    return int(out.shape[1])


def images_input(session: Any, preprocessing: Preprocessing) -> str:
    """Name of the only input, (B, 3, H, W) float32.

    Raises:
        CheckpointError: the inputs differ; the message says how to fix the export.
    """
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ', '.join(one.name for one in inputs)
        raise CheckpointError(f'the model has {len(inputs)} inputs ({names}); export it with the '
                              f'images (batch, 3, height, width) as the only one')
    (one,) = inputs
    size = (preprocessing.height, preprocessing.width)
    if one.type != 'tensor(float)':
        raise CheckpointError(f'input {one.name} is {one.type}; export the network for float32 '
                              f'images that are resized and normalised already: that is done '
                              f'outside, by --size, --mean and --std')
    if len(one.shape) != 4 or (isinstance(one.shape[1], int) and one.shape[1] != 3):
        raise CheckpointError(f'input {one.name} has shape {one.shape}; expected (batch, 3, '
                              f'height, width): export it with channels first')
    if isinstance(one.shape[0], int) and one.shape[0] != 1:
        raise CheckpointError(f'input {one.name} takes {one.shape[0]} images and no other number; '
                              f'export it with dynamic_axes={{"{one.name}": {{0: "batch"}}}}')
    for side, wanted, got in zip(('height', 'width'), size, one.shape[2:], strict=True):
        if isinstance(got, int) and got != wanted:
            raise CheckpointError(f'input {one.name} has {side} {got}, --size says {wanted}; give '
                                  f'--size {one.shape[3]}x{one.shape[2]} (width x height)')
    return str(one.name)


def descriptor_output(session: Any, wanted: str | None) -> str:
    """Name of the output with the descriptors (B, D).

    Raises:
        CheckpointError: there is none, or several; the message says how to fix the export.
    """
    outputs = {one.name: one for one in session.get_outputs()}
    if wanted is not None:
        if wanted not in outputs:
            raise CheckpointError(f'the model has no output {wanted!r}{nearest(wanted, outputs)}')
        return wanted
    rows = [name for name, one in outputs.items() if len(one.shape) == 2]
    if len(rows) == 1 or len(outputs) == 1:
        return str((rows or list(outputs))[0])
    shapes = ', '.join(f'{name} {one.shape}' for name, one in outputs.items())
    raise CheckpointError(f'which output holds the descriptors (batch, D)? Give --output NAME of '
                          f'{shapes}')


def add_function(source: str, name: str) -> tuple[Path, int]:
    """Register a function of a Python file after it has passed the checks.

    Raises:
        CheckpointError: it fails or is unsuitable.
    """
    path, _, function = source.rpartition(':')
    file = Path(path).resolve()
    if not file.is_file():
        raise CheckpointError(f'{path} does not exist')
    entry = Entry(kind='function', name=name, source=f'{file}:{function}',
                  sha256=file_digest(file), dimension=1, preprocessing=Preprocessing())
    dimension = check_descriptors(FunctionEngine(entry), source)
    return keep_entry(replace(entry, dimension=dimension)), dimension


def describing(engine: OnnxEngine) -> Describe:
    """A function from images to rows."""
    def describe(images: list[RGB]) -> Rows:
        return engine(engine.batch([engine.prepare(rgb) for rgb in images]))
    return describe


def check_descriptors(describe: Describe, source: str) -> int:
    """Check that a model is suitable for maps; return the length D of a descriptor.

    Raises:
        CheckpointError: the message says what is wrong and how to fix it.
    """
    images = drawn_images()[:4]
    rows = describe(images)
    black = np.zeros_like(images[0])
    for kind, given in (('images', rows), ('a black image', describe([black])),
                        ('a white image', describe([black + 255]))):
        if not np.isfinite(given).all():
            raise CheckpointError(f'{source}: descriptors of {kind} are not finite (NaN or '
                                  f'infinite); add a small number where it divides (norms, '
                                  f'powers), and keep softmax and norms in float32')
    if np.abs(rows - describe(images)).max() > SAME:
        raise CheckpointError(f'{source} gives another descriptor for the same image each time; '
                              f'export it in eval mode (model.eval()), without dropout')
    alone = np.concatenate([describe([rgb]) for rgb in images])
    if (worst := float(np.abs(rows - alone).max())) > SAME:
        raise CheckpointError(
            f'{source}: the descriptor of an image depends on the others in its batch (by up to '
            f'{worst:.3f}), so a map cannot be searched with it; export it in eval mode '
            f'(model.eval()), without batch statistics or attention between images')
    if (rows @ rows.T).min() > ALIKE:
        raise CheckpointError(f'{source} gives the same descriptor for different images; check '
                              f'--mean and --std (of values in 0..1) and that the weights are in '
                              f'the file')
    return int(rows.shape[1])
