"""What registers, layers, readings and heads do, on real images: several seeds, with curves.

    python -m benchmarks.ablation DATA TOKENS     folders: of docs/training.md; for kept tokens

Every row is the preset `offline_regvpr` on real data alone (`ie_tower`, the scenes and photos of
boofcv_scenes) with other settings of the head, or with blocks trained or adapted as well; these
run in training, on tokens of block 3, and get fewer steps with FULL=1. All rows see the same
images, copies and batches, in windows of 9 x 9 patches. Measured every `EVERY` steps on real
validation sets, which these rows do not choose anything by: left-out floors of ie_tower,
campus_track at dusk, pepper_office in grey. All rows of a seed are run before the next seed.
FULL=1: more steps, and the rows of `MORE`. Writes build/bench/ablation.json, the table in
docs/paper.md and the curves in docs/images/ablation.svg. Runs that are there are not run again.
"""

from collections.abc import Sequence
import itertools
import json
import os
from pathlib import Path
import re
import sys
from typing import Any

import numpy as np
import torch

from benchmarks.report import Metric, ROOT, write
from regvpr_core.training.config import TrainConfig
from regvpr_core.training.settings import read_train_config
from regvpr_core.training.trainer import train

FULL = os.environ.get('FULL') == '1'
STEPS, STEPS_BEHIND, EVERY = (400, 200, 50) if FULL else (120, 120, 40)
SEEDS = (1, 2, 3)
RUNS = ROOT / 'build' / 'bench' / 'ablation'
PAGE = ROOT / 'docs' / 'paper.md'
CURVES = ROOT / 'docs' / 'images' / 'ablation.svg'
BEGIN, END = '<!-- ablation: written by benchmarks/ablation.py -->', '<!-- end -->'
PRESET = 'offline_regvpr'

LEFT_OUT = ('floor4, floor9, floor16, floor22, basement2, floor6, floor12, floor19, basement3')
DATA = [
    f'data=[{{kind: clips, folder: ie_tower, apart: 6, copies: 0, leave_out: [{LEFT_OUT}]}}, '
    '{kind: manifest, folder: scene/manifest.csv, repeat: 5}, '
    '{kind: manifest, folder: vacation/manifest.csv, repeat: 8}]',
    'validation=[{kind: clips, folder: ie_tower, only: [floor6, floor12, floor19, basement3], '
    'radius: 2}, {kind: manifest, folder: campus_dusk/campus_dusk.csv, radius: 10}, '
    '{kind: manifest, folder: pepper/pepper.csv, radius: 2}]',
    'tokens.window=9', 'tokens.seed=1', 'tokens.copies=3', 'batch.places=12']

HEAD = 'model.aggregator_config'
BEHIND = 3
"""Block whose tokens are kept where later ones change."""

INSIDE = [f'tokens.block={BEHIND}', f'model.last_block={BEHIND}', 'model.aggregator=inside',
          'optimiser.lr_backbone=1e-4']
ADAPTED = [f'tokens.block={BEHIND}', 'model.train=adapter', 'model.adapter={blocks: last_4}',
           'optimiser.lr_adapters=2e-3']
TRAINED = [f'tokens.block={BEHIND}', 'model.train=last_4', 'optimiser.lr_backbone=1e-4']
SALAD = ['model.aggregator=salad', f'{HEAD}={{}}']
GEM = ['model.aggregator=cosplace', f'{HEAD}={{power: 1.0}}', 'head_start=null']


def head(**settings: Any) -> list[str]:
    """The register head with other settings."""
    given = ', '.join(f'{key}: {value}' for key, value in settings.items())
    return [f'{HEAD}={{encoder_dropout: 0.0, {given}}}']


ROWS: dict[str, list[str]] = {
    'A: 4 registers, 2 layers (the paper)': [],
    'SALAD': SALAD,
    'GeM and a linear layer': GEM,
    'A: 0 registers': head(registers=0),
    'A: 2 registers': head(registers=2),
    'A: 8 registers': head(registers=8),
    'B: 4 registers join the clusters': head(join='clusters'),
    'no registers, no layers (SALAD without dustbin)': head(registers=0, layers=0),
    'D: 8 registers inside, kept': [*INSIDE, f'{HEAD}={{registers: 8}}'],
}
A, SALAD_ROW, GEM_ROW, *READINGS, D = ROWS
HEADS = (A, SALAD_ROW, GEM_ROW, D)
DRAWN = (HEADS, (A, *READINGS))
"""Rows whose curves are drawn, the first ones with the range over seeds."""

MORE: dict[str, list[str]] = {
    'A: 1 layer': head(layers=1),
    'A: 3 layers': head(layers=3),
    'A: random start, as the paper': ['head_start=null'],
    'D: 8 registers inside, kept, blocks frozen': [
        *INSIDE, f'{HEAD}={{registers: 8, train_blocks: false}}'],
    'D: 8 registers inside, dropped': [*INSIDE, f'{HEAD}={{registers: 8, keep: false}}'],
    'last 4 blocks trained: A': TRAINED,
    'last 4 blocks trained: SALAD': [*TRAINED, *SALAD],
    'last 4 blocks trained: GeM': [*TRAINED, *GEM],
    'last 4 blocks adapted: A': ADAPTED,
    'last 4 blocks adapted: SALAD': [*ADAPTED, *SALAD],
    'last 4 blocks adapted: GeM': [*ADAPTED, *GEM],
}


class Silent:
    """Watches nothing."""

    def begin(self, facts: dict[str, Any]) -> None:
        """Nothing."""

    def reading(self, what: str, done: int, total: int) -> None:
        """Nothing."""

    def step(self, step: int, steps: int, loss: float, rate: float) -> None:
        """Nothing."""

    def recall(self, step: int, recalls: dict[str, dict[int, float]]) -> None:
        """Nothing."""


def main(data: Path, tokens: Path) -> int:
    found: dict[str, list[dict[str, Any]]] = {}
    for seed, (row, changes) in itertools.product(SEEDS, (ROWS | MORE if FULL else ROWS).items()):
        name = re.sub(r'\W+', '_', row)
        behind = f'tokens.block={BEHIND}' in changes
        steps = STEPS_BEHIND if behind else STEPS
        config = read_train_config(PRESET, [
            *DATA, f'name={name}-{seed}', f'data_root={data}', f'seed={seed}',
            f'validate_steps={EVERY}', f'steps={steps}',
            f'tokens.folder={tokens}/{"behind" if behind else "last"}', *changes])
        found.setdefault(row, []).append(measured(config, RUNS / f'{steps}-{name}-{seed}'))
        print(row, seed, last(found[row][-1]), file=sys.stderr)
        report(found)
    sys.stdout.write((ROOT / 'build' / 'bench' / 'ablation.json').read_text(encoding='utf-8'))
    return 0


def measured(config: TrainConfig, folder: Path) -> dict[str, Any]:
    """The record of a finished run."""
    record = folder / 'record.json'
    if not record.is_file() or json.loads(record.read_text())['status'] != 'finished':
        torch.manual_seed(config.seed)
        train(config, folder, Silent(), resume=(folder / 'state.safetensors').exists())
    found: dict[str, Any] = json.loads(record.read_text())
    return found


def curve(record: dict[str, Any]) -> dict[int, dict[str, float]]:
    """Recall@1 of each validation set by step."""
    return {point['step']: {name: float(of['1']) for name, of in point['recall'].items()}
            for point in record['curve'] if 'recall' in point}


def last(record: dict[str, Any]) -> dict[str, float]:
    """Recall@1 after the last step."""
    found = curve(record)
    return found[max(found)]


def report(found: dict[str, list[dict[str, Any]]]) -> None:
    """Write the metrics, the table and the curves of the runs so far."""
    write('ablation', [
        Metric(metric=f'{row}: {column} R@1', unit='1',
               value=round(float(np.mean([last(r)[column] for r in records])), 4),
               scope=f'{records[0]["steps"]} steps, {len(records)} seeds, '
                     f'{min(last(r)[column] for r in records):.3f} to '
                     f'{max(last(r)[column] for r in records):.3f}')
        for row, records in found.items() for column in last(records[0])])
    text = PAGE.read_text(encoding='utf-8')
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(f'{before}{BEGIN}\n{as_table(found)}\n{END}{rest.partition(END)[2]}',
                    encoding='utf-8')
    draw(found)


def as_table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: a line a row, the mean and the range over seeds."""
    columns = list(last(next(iter(found.values()))[0]))
    lines = ['| head | ' + ' | '.join(columns) + ' | mean | seeds | steps | s a step |',
             '|---' * (len(columns) + 5) + '|']
    for row, records in found.items():
        cells = []
        for name in (*columns, None):
            shares = [100 * value(last(r), name) for r in records]
            cells.append(f'{np.mean(shares):.1f} ({min(shares):.1f} to {max(shares):.1f})')
        seconds = min(r['seconds'] / r['steps'] for r in records)
        lines.append(f'| {row} | ' + ' | '.join(cells)
                     + f' | {len(records)} | {records[0]["steps"]} | {seconds:.2f} |')
    return '\n'.join(lines)


def value(shares: dict[str, float], name: str | None) -> float:
    """Of one validation set; None: the mean of all."""
    return float(np.mean(list(shares.values()))) if name is None else shares[name]


def draw(found: dict[str, list[dict[str, Any]]]) -> None:
    """Recall@1 by step, mean over seeds: heads above, with the range; other registers below."""
    from matplotlib.figure import Figure

    columns: Sequence[str | None] = (*last(next(iter(found.values()))[0]), None)
    figure = Figure(figsize=(3.2 * len(columns), 6.4), layout='constrained')
    for axes, (rows, name) in zip(figure.subplots(len(DRAWN), len(columns), sharey='col').flat,
                                  itertools.product(DRAWN, columns), strict=True):
        for row in (row for row in rows if row in found):
            curves = [curve(r) for r in found[row]]
            steps = sorted(curves[0])
            shares = 100 * np.array([[value(c[step], name) for step in steps] for c in curves])
            (line,) = axes.plot(steps, shares.mean(axis=0), marker='.',
                                label=row.partition(' (')[0])
            if rows is HEADS:
                axes.fill_between(steps, shares.min(axis=0), shares.max(axis=0), alpha=0.15,
                                  color=line.get_color())
        axes.set(title=name or 'mean', xlabel='step', ylabel='R@1 in %')
        if name is None:
            axes.legend(fontsize='small')
    figure.savefig(CURVES, metadata={'Date': None})


if __name__ == '__main__':
    if len(sys.argv) != 3:
        print('needs the data and a folder for tokens: python -m benchmarks.ablation DATA TOKENS')
        sys.exit(0)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
