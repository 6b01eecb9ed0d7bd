"""Fine-tunes a model on the user's own site, with recall there and on other data."""

from collections.abc import Sequence
import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from regvpr_core.datasets.config import ValidationConfig
from regvpr_core.datasets.dataset import Dataset
from regvpr_core.datasets.folders import read_table
from regvpr_core.datasets.manifest import COLUMNS, HELP, manifest_validation
from regvpr_core.errors import CheckpointError, TrainingError
from regvpr_core.evaluation.describers import Describer, EncoderDescriber
from regvpr_core.evaluation.evaluator import evaluate, EvaluateConfig
from regvpr_core.evaluation.model_specs import open_describer, steady_precision
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.models.encoder import load_encoder
from regvpr_core.training.config import DistilConfig, TrainConfig
from regvpr_core.training.site_data import Images, SiteData, SiteDataConfig, write_site_data
from regvpr_core.training.trainer import train, Watch
from regvpr_core.training.weight_mix import choose_mix, joined_start

LEAST_GALLERY = 10
"""Least number of gallery images in a held-out stretch; with fewer, no recall is measured."""

DISTIL_WEIGHT = 10.0
"""Weight of the teacher's loss if there is no other loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRecall:
    """Recall@1 on one set before and after training; also with centred descriptors.

    of_teacher: recall@1 of the teacher, plain and centred; None without a teacher.
    """

    name: str
    queries: int
    before: float
    after: float
    before_centred: float
    after_centred: float
    of_teacher: tuple[float, float] | None = None


@dataclass(slots=True, kw_only=True)
class SiteReport:
    """Result of a run.

    checkpoint: the new model, a mix of initial and trained weights; None if no mix is better than
        the initial model on the validation stretch. start: the initial model.
    share: of the trained weights in the mix.
    recalls: on the held-out stretch, then on the other site if there is one.
    map_model: name of the model of the maps, '' if it is the initial model or is not available.
    of_map_model: its recall@1 on the held-out stretch, plain and centred.
    """

    checkpoint: Path | None
    start: str
    share: float
    data: SiteData
    seconds: float
    recalls: list[SiteRecall] = field(default_factory=list)
    map_model: str = ''
    of_map_model: tuple[float, float] = (0.0, 0.0)

    @property
    def worse(self) -> bool:
        """Whether the new model finds fewer images of the held-out stretch than the start."""
        return bool(self.recalls) and (
            self.recalls[0].after_centred < self.recalls[0].before_centred)


def train_on_site(config: TrainConfig, out: Path, maps: Sequence[PlaceMap], images: Images,
                  watch: Watch, *, site: SiteDataConfig | None = None, teacher: str = '',
                  others: Sequence[PlaceMap] = (), resume: bool = False) -> SiteReport:
    """Write the data of the maps, train, and measure before and after.

    Args:
        config: of the run; its data are replaced.
        out: folder of the run.
        maps: of the site, in one frame; the held-out stretch is part of the first.
        images: available original images of the keyframes of a map.
        watch: watcher of the run.
        site: definition of places; None: defaults.
        teacher: model whose similarities are learnt instead of places; '' for none.
        others: maps of another site, in one frame, for recall on other data.
        resume: continue the run in `out`.

    Raises:
        TrainingError: the maps contain no images, or too few places.
    """
    site = site or SiteDataConfig()
    if config.start is None:
        raise TrainingError('start is not set; training on a site goes on from a checkpoint')
    folder = out / 'site'
    data = write_site_data(maps, images, folder, site, places=not teacher) \
        if not folder.exists() else _read(folder, resume)
    held = _dataset(data, 'held-out stretch', site)
    sets = [held] if held is not None else []
    if others:
        other = write_site_data(others, images, out / 'other_site', site, asking_only=True) \
            if not (out / 'other_site').exists() else _read(out / 'other_site', resume)
        found = _dataset(other, 'other site', site)
        sets += [found] if found is not None else []
    one = replace(config.data[0], kind='manifest', folder=str(data.table.absolute()),
                  apart=0.0 if teacher else max(config.data[0].apart, 2.0 * site.cell_m))
    config = replace(config, data=(one,), validation=(), data_root='', distil=DistilConfig(
        teacher=teacher, weight=DISTIL_WEIGHT) if teacher else config.distil)
    progress = train(config, out, watch, resume=resume)
    name = maps[0].manifest.model
    # A student that is taught by the model of the map is to replace it, not to be put into it.
    start = ('' if teacher == name else joined_start(config, name)) or str(config.start)
    share, checkpoint = _chosen(config, out, data, site, start)
    report = SiteReport(checkpoint=checkpoint if share else None, start=start, share=share,
                        data=data, seconds=progress.seconds)
    if sets:
        before = _recalls(sets, start, config.backbone_path)
        after = _recalls(sets, str(checkpoint), config.backbone_path) if share else before
        taught: Sequence[tuple[float, float] | None] = \
            _recalls_of(sets, open_describer(teacher, precision=steady_precision(
                teacher, 'auto'))) if teacher else [None] * len(sets)
        report.recalls = [
            SiteRecall(name=dataset.name, queries=len(dataset.queries), before=b[0], after=a[0],
                       before_centred=b[1], after_centred=a[1], of_teacher=t)
            for dataset, b, a, t in zip(sets, before, after, taught, strict=True)]
        if held is not None and name != start:
            with contextlib.suppress(CheckpointError):  # the model is not on this machine
                known = report.recalls[0].of_teacher if name == teacher else None
                report.of_map_model = known or _recalls([held], name, None)[0]
                report.map_model = name
    return report


def _chosen(config: TrainConfig, out: Path, data: SiteData, site: SiteDataConfig, start: str
            ) -> tuple[float, Path]:
    """The best share of the trained weights, and its checkpoint.

    The share is 1.0 if there is no validation stretch to choose it on.
    """
    rows = read_table(data.choosing, COLUMNS, HELP) if data.choosing.exists() else []
    splits = [row['split'] for row in rows]
    joined = '' if start == config.start else start
    trained = out / 'last.safetensors'
    if splits.count('gallery') < LEAST_GALLERY or not splits.count('query'):
        return choose_mix(config, trained, out, None, joined)
    dataset = replace(manifest_validation(data.choosing, ValidationConfig(
        kind='manifest', folder=str(data.choosing), radius=site.cell_m)), name='choosing')

    def measure(path: Path) -> float:
        return sum(_recalls([dataset], str(path), config.backbone_path)[0])

    return choose_mix(config, trained, out, measure, joined)


def _read(folder: Path, resume: bool) -> SiteData:
    """The data of an earlier run."""
    if not resume:
        raise TrainingError(f'{folder} exists; choose a new folder for the run, or --resume')
    table = folder / 'manifest.csv'
    rows = read_table(table, COLUMNS, HELP)
    splits = [row['split'] for row in rows]
    return SiteData(table=table, images=splits.count('train'), gallery=splits.count('gallery'),
                    places=len({row['place'] for row in rows if row['split'] == 'train'}),
                    queries=splits.count('query'))


def _dataset(data: SiteData, name: str, site: SiteDataConfig) -> Dataset | None:
    """The gallery and queries of a site; None if there are too few."""
    if data.gallery < LEAST_GALLERY or not data.queries:
        return None
    return replace(manifest_validation(data.table, ValidationConfig(
        kind='manifest', folder=str(data.table), radius=site.cell_m)), name=name)


def _recalls(sets: Sequence[Dataset], model: str, backbone: str | None
             ) -> list[tuple[float, float]]:
    """Recall@1 of a model on each set, plain and centred; in one precision, to be compared."""
    return _recalls_of(sets, EncoderDescriber(load_encoder(
        model, precision=steady_precision(model, 'auto'),
        backbone_path=None if backbone is None else Path(backbone))))


def _recalls_of(sets: Sequence[Dataset], describer: Describer) -> list[tuple[float, float]]:
    results = [evaluate(dataset, describer, EvaluateConfig(recalls=(1,))) for dataset in sets]
    return [(result.recalls[1], result.centred.get(1, result.recalls[1])) for result in results]
