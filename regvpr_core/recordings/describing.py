"""Describes a folder of photos into descriptors.npz: in bounded memory, and resumable.

Two files beside the output grow during the run: `.rows` (float32 rows) and `.journal` (a line of
JSON about the model, then a line per row). At the end they are converted to the .npz.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
import fcntl
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from regvpr_core.errors import CheckpointError, ImageError
from regvpr_core.images import find_images, read
from regvpr_core.images.ahead import load_ahead
from regvpr_core.models.encoder import Encoder

DECODERS = 2
AHEAD_BATCHES = 2
"""Number of batches that are decoded ahead of the network, at its input size."""


@dataclass(slots=True, kw_only=True)
class DescribeReport:
    """Progress of a run.

    total: files found. resumed: rows of an earlier run. described: rows of this run.
    skipped: reasons of unreadable files by name.
    """

    total: int
    resumed: int
    described: int = 0
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Number of finished files."""
        return self.resumed + self.described + len(self.skipped)


def files_to_describe(paths: Sequence[Path], output: Path) -> list[Path]:
    """The image files of a run; needs no model.

    Raises:
        ImageError: there is no image, or the output exists already or has another suffix.
    """
    if output.suffix != '.npz':
        raise ImageError(f'{output} must end in .npz')
    if output.exists():
        raise ImageError(f'{output} exists already; remove it or choose another name')
    return find_images(paths)


def describe_files(
    paths: Sequence[Path],
    encoder: Encoder,
    output: Path,
    batch: int = 16,
    progress: Callable[[DescribeReport], None] | None = None,
) -> DescribeReport:
    """Describe image files and all images below folders, image_2 before image_10.

    The .npz holds descriptors (N, D) float32, names (N,) and skipped (M,) as text, and model and
    fingerprint. An interrupted run is continued; unreadable files are tried again.

    Args:
        paths: files and folders.
        encoder: describes them.
        output: the .npz file to write.
        batch: images per pass, 1 or more.
        progress: called after every batch.

    Raises:
        ImageError: there is no image, none can be read, the output exists already or another
            run is writing it.
        CheckpointError: the run to be resumed had another model.
    """
    files = files_to_describe(paths, output)
    with Part(output, encoder) as part:
        left = [path for path in files if str(path) not in part.names]
        report = DescribeReport(total=len(files), resumed=len(files) - len(left))
        for group in batches(prepared(left, encoder, batch, report), batch):
            names = [str(path) for path, _ in group]
            part.append(names, encoder.describe_prepared([inputs for _, inputs in group]))
            report.described += len(group)
            if progress:
                progress(report)
        if report.skipped and progress:
            progress(report)
        if not part.names:
            raise ImageError(f'none of {len(files)} files can be read as an image, e.g. '
                             f'{next(iter(report.skipped.values()))}')
        part.finish(sorted(report.skipped))
    return report


def prepared(
    files: Iterable[Path], encoder: Encoder, batch: int, report: DescribeReport
) -> Iterator[tuple[Path, Any]]:
    """Network input of each readable file, in order, decoded ahead in threads."""
    def load(path: Path) -> Any:
        return encoder.prepare(read(path))

    for path, inputs in load_ahead(files, load, threads=DECODERS, most=AHEAD_BATCHES * batch):
        if isinstance(inputs, ImageError):
            report.skipped[str(path)] = str(inputs)
        else:
            yield path, inputs


def batches(
    items: Iterable[tuple[Path, Any]], size: int
) -> Iterator[list[tuple[Path, Any]]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while group := list(itertools.islice(iterator, size)):
        yield group


class Part:
    """An unfinished output: rows and journal; inconsistent ends are truncated."""

    def __init__(self, output: Path, encoder: Encoder) -> None:
        self._output = output
        self._rows_path = output.with_name(output.name + '.rows')
        self._journal_path = output.with_name(output.name + '.journal')
        self._dimension = encoder.dimension
        self._about = {'model': encoder.name, 'fingerprint': encoder.fingerprint}
        self.names: dict[str, None] = {}  # a set that keeps its order
        output.parent.mkdir(parents=True, exist_ok=True)
        self._rows = self._rows_path.open('ab')
        try:
            self._lock()
            if self._journal_path.exists():
                self._resume()
            else:
                self._rows.truncate(0)
        except BaseException:
            self._rows.close()
            raise
        self._journal = self._journal_path.open('a', encoding='utf-8')
        if not self._journal.tell():
            self._journal.write(json.dumps(self._about) + '\n')

    def __enter__(self) -> 'Part':
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()
        self._journal.close()

    def append(self, names: Sequence[str], rows: np.ndarray[Any, Any]) -> None:
        """Append rows, then their journal entries, so that each entry has its row."""
        self._rows.write(np.ascontiguousarray(rows, dtype=np.float32).tobytes())
        self._rows.flush()
        self._journal.writelines(json.dumps(name) + '\n' for name in names)
        self._journal.flush()
        self.names.update(dict.fromkeys(names))

    def finish(self, skipped: Sequence[str]) -> None:
        """Write the .npz and remove the part files."""
        self.__exit__()
        rows = np.memmap(self._rows_path, dtype=np.float32, mode='r',
                         shape=(len(self.names), self._dimension))
        part = self._output.with_name(self._output.name + '.part.npz')
        np.savez(part, descriptors=rows, names=np.array(list(self.names), dtype=np.str_),
                 skipped=np.array(list(skipped), dtype=np.str_),
                 model=np.str_(self._about['model']),
                 fingerprint=np.str_(self._about['fingerprint']))
        part.replace(self._output)
        del rows
        self._rows_path.unlink()
        self._journal_path.unlink()

    def _lock(self) -> None:
        """Lock the file until it is closed or the process ends."""
        try:
            fcntl.flock(self._rows, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ImageError(f'another run is writing {self._output}; wait for it, or choose '
                             f'another name') from error

    def _resume(self) -> None:
        """Load an earlier run, and truncate incomplete entries left by a crash."""
        whole = self._journal_path.read_bytes()
        whole = whole[: whole.rfind(b'\n') + 1]
        try:
            about, *names = [json.loads(line) for line in whole.splitlines()] or [self._about]
            was = (str(about['fingerprint']), str(about['model']))
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f'{self._journal_path} is damaged: {error}; remove it to start '
                                  f'again') from error
        if was[0] != self._about['fingerprint']:
            raise CheckpointError(
                f'{self._output} was begun with model {was[1]} ({was[0][:16]}…), this is '
                f'{self._about["model"]} ({self._about["fingerprint"][:16]}…); take that '
                f'model, or remove {self._journal_path} to start again')
        row_bytes = 4 * self._dimension
        there = self._rows_path.stat().st_size // row_bytes
        names = names[:there]
        lines = [json.dumps(about), *(json.dumps(name) for name in names)]
        part = self._journal_path.with_name(self._journal_path.name + '.new')
        part.write_text('\n'.join(lines) + '\n', encoding='utf-8')
        part.replace(self._journal_path)
        self._rows.truncate(row_bytes * len(names))
        self.names = dict.fromkeys(names)
