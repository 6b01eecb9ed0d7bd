"""Data sets of two folders: files of equal name (SPED, AmsterTime), or two drives matched by frame
number."""

from pathlib import Path

from regvpr_core.datasets.dataset import Dataset, PictureFile
from regvpr_core.datasets.folders import pictures_below
from regvpr_core.datasets.ground_truth import same_label, within_frames
from regvpr_core.datasets.utm_folders import find_folders
from regvpr_core.errors import EvaluationError

TRAVERSES = (('database', 'queries'), ('references', 'queries'), ('ref', 'query'),
             ('reference', 'query'))


def load_pairs(
    root: Path, name: str, protocol: str, *, folders: tuple[str, str], inside: tuple[str, ...],
    help_text: str,
) -> Dataset:
    """References and queries whose file names, without suffix, are the same.

    Args:
        root: the published folder, or one that VPR-datasets-downloader made (then the positions
            in the names are placeholders).
        folders: names of the references' and the queries' folder.
        inside: folders below the root that may hold them, '' for the root itself.

    Raises:
        EvaluationError: neither layout is there, or a query has no partner.
    """
    base = next((root / i if i else root for i in inside
                 if all((root / i / f).is_dir() for f in folders)), None)
    if base is None:
        found = find_folders(root, ('images/test', 'test'))
        if found is None:
            raise EvaluationError(f'{root / inside[0] / folders[0]} and {folders[1]} beside it '
                                  f'are missing; {help_text}')
    else:
        found = base / folders[0], base / folders[1]
    references, queries = (pictures_below(folder, root) for folder in found)
    return _paired(references, queries, name, protocol)


def load_traverses(root: Path, name: str, protocol: str, tolerance: int) -> Dataset:
    """Two drives along one route: frame i of the queries shows frames i +- tolerance.

    Frames are numbered in natural order of the file names; both folders must hold the same
    number of images.

    Raises:
        EvaluationError: a folder is missing, or the drives differ in length.
    """
    found = next((pair for pair in TRAVERSES if all((root / f).is_dir() for f in pair)), None)
    if found is None:
        raise EvaluationError(f'{root / "database"} and {root / "queries"} are missing: two '
                              f'folders of images with the same frame numbers')
    references, queries = (pictures_below(root / f, root, natural=True) for f in found)
    if len(references) != len(queries):
        raise EvaluationError(f'{root / found[0]} has {len(references)} frames and '
                              f'{root / found[1]} {len(queries)}; frames can be compared only '
                              f'where both have as many')
    frames = range(len(queries))
    return Dataset(
        name=name, protocol=protocol, rule=f'within {tolerance} frames',
        references=references, queries=queries,
        positives=within_frames(frames, range(len(references)), tolerance))


def _paired(references: list[PictureFile], queries: list[PictureFile], name: str,
            protocol: str) -> Dataset:
    positives = same_label([q.path.stem for q in queries], [r.path.stem for r in references])
    if not positives.counts.all():
        lone = queries[int((positives.counts == 0).argmax())]
        raise EvaluationError(f'{lone.path} has no reference of the same name')
    return Dataset(name=name, protocol=protocol, rule='the image of the same name',
                   references=references, queries=queries, positives=positives)
