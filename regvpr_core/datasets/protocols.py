"""Evaluation protocols by name: reader of the folder, number of images, where to get the data.

Each reported figure names its protocol. Data sets that papers use in different forms (MSLS-val
with 740 or about 11,000 queries, three forms of Nordland) are different protocols here.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from regvpr_core.config import check_settings, nearest, setting
from regvpr_core.datasets import msls, nordland
from regvpr_core.datasets.dataset import Dataset
from regvpr_core.datasets.pairs import load_pairs, load_traverses
from regvpr_core.datasets.pittsburgh import load_struct
from regvpr_core.datasets.utm_folders import load_utm
from regvpr_core.errors import EvaluationError


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadConfig:
    """Settings of protocols."""

    radius_m: float = setting(
        25.0, 'A reference is right up to this distance (protocol utm).', 0.0, 1000.0, unit='m')
    tolerance_frames: int = setting(
        2, 'A reference is right up to this many frames to either side (protocol frames).',
        0, 100000)
    partial: bool = setting(
        False, 'Accept an incomplete data set; the result is then named partial.')

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """An evaluation protocol.

    load: function from folder, name, protocol and settings to a data set. queries, references:
        expected numbers; None accepts any. about: one line. sure: the numbers were read from
        published files; otherwise a different number gives only a warning. by_order: frames are
        matched by their order, so a partial data set must have no gaps.
    """

    load: Callable[[Path, str, str, LoadConfig], Dataset]
    about: str
    queries: int | None = None
    references: int | None = None
    sure: bool = True
    by_order: bool = False


def _utm(splits: tuple[str, ...], help_text: str, queries: tuple[str, ...] = ('queries',)
         ) -> Callable[[Path, str, str, LoadConfig], Dataset]:
    def load(root: Path, name: str, protocol: str, config: LoadConfig) -> Dataset:
        return load_utm(root, name, protocol, splits=splits, queries=queries, help_text=help_text)
    return load


def _struct(file: str, split: str, query_folders: tuple[str, ...], help_text: str,
            suffix: str | None = None) -> Callable[[Path, str, str, LoadConfig], Dataset]:
    def load(root: Path, name: str, protocol: str, config: LoadConfig) -> Dataset:
        return load_struct(root, name, protocol, struct_file=file, split=split,
                           query_folders=query_folders, help_text=help_text, suffix=suffix)
    return load


def _pairs(folders: tuple[str, str], inside: tuple[str, ...], help_text: str
           ) -> Callable[[Path, str, str, LoadConfig], Dataset]:
    def load(root: Path, name: str, protocol: str, config: LoadConfig) -> Dataset:
        return load_pairs(root, name, protocol, folders=folders, inside=inside,
                          help_text=help_text)
    return load


def _downloader(script: str) -> str:
    return f'run {script} of github.com/gmberton/VPR-datasets-downloader'


_PITTS = ('ask the authors for Pittsburgh (www.di.ens.fr/willow/research/netvlad/) and put the '
          'image folders 000 to 010, queries_real and datasets/*.mat of NetVLAD into one folder')
_TOKYO = ('ask the authors for Tokyo 24/7 (www.ok.ctrl.titech.ac.jp/~torii/project/247) and '
          'unpack 03814 to 03829, 247query_subset_v2 and datasets/tokyo247.mat into one folder')
_SF_XL = 'get SF-XL (github.com/gmberton/CosPlace) and give its folder processed'

PROTOCOLS: dict[str, Protocol] = {
    'msls-val-740': Protocol(
        load=lambda root, name, protocol, _: msls.load_validation(root, name, protocol),
        queries=740, references=18_871,
        about="Mapillary SLS validation by its authors' rules, as Table 1 of the paper"),
    'msls-challenge': Protocol(
        load=lambda root, name, protocol, _: msls.load_challenge(root, name, protocol),
        queries=1_135, references=36_565,
        about='Mapillary SLS challenge: the ground truth is hidden, a submission is written'),
    'pitts30k-test': Protocol(
        load=_struct('pitts30k_test.mat', 'test', ('queries_real',), _PITTS),
        queries=6_816, references=10_000, about='Pittsburgh 30k, test'),
    'pitts30k-val': Protocol(
        load=_struct('pitts30k_val.mat', 'val', ('queries_real',), _PITTS),
        queries=7_608, references=10_000, about='Pittsburgh 30k, validation'),
    'pitts250k-test': Protocol(
        load=_struct('pitts250k_test.mat', 'test', ('queries_real',), _PITTS),
        queries=8_280, references=83_952, about='Pittsburgh 250k, test'),
    'nordland-2760-pm1': Protocol(
        load=lambda root, name, protocol, _: nordland.load_vpr_bench(root, name, protocol),
        queries=2_760, references=27_592, by_order=True,
        about='Nordland of VPR-Bench, as Table 1 of the paper: every tenth frame, +-1'),
    'nordland-27592-pm10': Protocol(
        load=lambda root, name, protocol, _: nordland.load_downloader(root, name, protocol),
        queries=27_592, references=27_592, about='Nordland of Patch-NetVLAD: all frames, +-10'),
    'nordland-3450-pm2': Protocol(
        load=lambda root, name, protocol, _: nordland.load_partition(root, name, protocol),
        queries=3_450, references=3_450, by_order=True,
        about='Nordland, test sections of Olid, Facil and Civera: +-2'),
    'sped-607': Protocol(
        load=_pairs(('ref', 'query'), ('SPEDTEST', ''),
                    'get SPEDTEST.zip of VPR-Bench (github.com/MubarizZaffar/VPR-Bench)'),
        queries=607, references=607, about='SPED of VPR-Bench: images of one camera'),
    'tokyo247': Protocol(
        load=_struct('tokyo247.mat', 'test', ('247query_subset_v2', '247query_v3'),
                     _TOKYO, suffix='.png'),
        queries=315, references=75_984, sure=False, about='Tokyo 24/7'),
    'st-lucia': Protocol(
        load=_utm(('images/test', 'test'), _downloader('download_st_lucia.py')),
        queries=1_464, references=1_549, sure=False,
        about='St Lucia: first drive asked by the last'),
    'amstertime': Protocol(
        load=_pairs(('new', 'old'), ('', 'AmsterTime-v1.0'),
                    'get AmsterTime-v1.0.zip from https://data.4tu.nl (doi:10.4121/19580806)'),
        queries=1_231, references=1_231, sure=False,
        about='AmsterTime: historical queries, references of today'),
    'sf-xl-val': Protocol(
        load=_utm(('val',), _SF_XL), queries=7_993, references=8_015, sure=False,
        about='SF-XL validation'),
    'sf-xl-test-v1': Protocol(
        load=_utm(('test',), _SF_XL, ('queries_v1',)), queries=1_000, references=2_805_840,
        sure=False,
        about='SF-XL test, queries v1'),
    'sf-xl-test-v2': Protocol(
        load=_utm(('test',), _SF_XL, ('queries_v2',)), queries=598, references=2_805_840,
        sure=False,
        about='SF-XL test, queries v2'),
    'eynsham': Protocol(
        load=_utm(('images/test', 'test'), _downloader('download_eynsham.py')),
        queries=23_935, references=23_935, sure=False,
        about='Eynsham: second lap asked of the first'),
    'utm': Protocol(
        load=lambda root, name, protocol, config: load_utm(
            root, name, f'{protocol}, {config.radius_m:g} m', radius_m=config.radius_m),
        about='folders database and queries, positions in the names (@easting@northing@…@.jpg)'),
    'frames': Protocol(
        load=lambda root, name, protocol, config: load_traverses(
            root, name, f'{protocol}, +-{config.tolerance_frames}', config.tolerance_frames),
        about='folders database and queries of as many frames, right within --tolerance-frames'),
}
"""Protocol name to protocol."""


def parse_data(text: str) -> tuple[str, str, Path]:
    """Protocol, name of the data set and folder from `PROTOCOL[@NAME]=FOLDER` or `FOLDER`.

    A folder alone is read by the protocol utm and is called by its own name.

    Raises:
        EvaluationError: an unknown protocol (the nearest is named).
    """
    left, equals, folder = text.partition('=')
    if not equals:
        path = Path(text)
        return 'utm', path.resolve().name or 'data', path
    protocol, at, name = left.partition('@')
    if protocol not in PROTOCOLS:
        raise EvaluationError(f'unknown protocol {protocol!r}{nearest(protocol, PROTOCOLS)}')
    if at and not name:
        raise EvaluationError(f'{text!r} gives no name after @')
    any_set = PROTOCOLS[protocol].queries is None
    return protocol, name or (Path(folder).resolve().name if any_set else protocol), Path(folder)


def load_dataset(text: str, config: LoadConfig) -> Dataset:
    """Read a data set named on the command line, and check that it is complete.

    Raises:
        EvaluationError: unknown protocol, a missing file, or an incomplete data set where that
            is not allowed.
    """
    protocol, name, folder = parse_data(text)
    if not folder.is_dir():
        raise EvaluationError(f'folder {folder} for {protocol} does not exist')
    rules = PROTOCOLS[protocol]
    dataset = rules.load(folder, name, protocol, config)
    if not len(dataset.queries) or not len(dataset.references):
        raise EvaluationError(f'{folder} holds {len(dataset.queries)} queries and '
                              f'{len(dataset.references)} references for {protocol}')
    expected = (rules.queries, rules.references)
    found = (len(dataset.queries), len(dataset.references))
    if None in expected or found == expected:
        return dataset
    part = (f'{found[0]:,} of {expected[0]:,} queries, {found[1]:,} of {expected[1]:,} references')
    if not config.partial and not rules.sure:
        return replace(dataset, warning=f'the counts differ from those that papers print: {part}; '
                                        f'make sure that the data set is whole')
    if not config.partial:
        raise EvaluationError(f'{folder} is not the whole of {protocol}: {part}; --partial '
                              f'accepts it and marks the result as partial')
    if rules.by_order:
        nordland.require_runs(dataset, protocol)
    return replace(dataset, partial=part)


def load_datasets(texts: list[str], config: LoadConfig) -> list[Dataset]:
    """Read several data sets with different names.

    Raises:
        EvaluationError: two have the same name, or one cannot be read.
    """
    seen: dict[str, str] = {}
    for text in texts:
        protocol, name, _ = parse_data(text)
        if name in seen:
            raise EvaluationError(f'two data sets are named {name!r}: {seen[name]} and {text}; '
                                  f'name one with {protocol}@NAME=FOLDER')
        seen[name] = text
    return [load_dataset(text, config) for text in texts]
