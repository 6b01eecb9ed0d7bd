"""Published models by name: what they are, where their files are, what was published about them.

Plain facts, no torch: `peers.py` says how each is built. A figure stands under the protocol that
its source states; the two Nordland protocols differ by ten points and are never mixed.
"""

from dataclasses import dataclass, field
from pathlib import Path

from regvpr_core.errors import CheckpointError
from regvpr_core.models.downloads import cache_folder, search_folders


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Recall@1 in percent as published; None: not stated in `source`.

    msls_val: 740 queries. nordland_2760: every tenth image, +-1 frame. nordland_27592: all images,
    +-10 frames. pitts30k: 6,816 queries of the test split, 25 m.
    source: where the figures stand; a figure from elsewhere is named there too.
    """

    msls_val: float | None = None
    nordland_2760: float | None = None
    nordland_27592: float | None = None
    pitts30k: float | None = None
    source: str = ''


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """One published model.

    title: method and backbone. dimension: numbers of a descriptor. parameters: of the network.
    height, width: network input in pixels, as its authors evaluate it.
    licence: of code and weights, as the repository states it; `none stated` where it does not.
    file: name of the published file in the cache. url: its address. page: the repository.
    size, sha256: as the publisher states them; None: the digest is recorded at the first download.
    refused: why the model is not built; '': it is.
    note: what to know before its figures are quoted.
    """

    title: str
    dimension: int
    parameters: int
    height: int
    width: int
    licence: str
    file: str
    url: str
    page: str
    size: int | None = None
    sha256: str | None = None
    published: Published = field(default_factory=Published)
    refused: str = ''
    note: str = ''

    @property
    def files(self) -> tuple[str, ...]:
        """Names that the file may have in a folder; the tensors may be kept as safetensors."""
        return tuple(dict.fromkeys((self.file, f'{Path(self.file).stem}.safetensors')))


def _drive(identity: str) -> str:
    """Address of a file on Google Drive, past its page on large files."""
    return f'https://drive.usercontent.google.com/download?id={identity}&export=download&confirm=t'


CATALOGUE: dict[str, CatalogueEntry] = {
    'megaloc': CatalogueEntry(
        title='MegaLoc, DINOv2 ViT-B/14', dimension=8448, parameters=228_640_321,
        height=322, width=322, licence='MIT', file='megaloc.safetensors',
        url='https://huggingface.co/gberton/MegaLoc/resolve/main/model.safetensors',
        page='https://github.com/gmberton/MegaLoc',
        published=Published(
            msls_val=93.5, source='VPR-methods-evaluation issue 19, measured by a user on the 740 '
            'queries; the paper has 91.0 on all 11,000')),
    'boq_vitb14': CatalogueEntry(
        title='BoQ, DINOv2 ViT-B/14', dimension=12288, parameters=95_206_560,
        height=322, width=322, licence='MIT', file='dinov2_12288.pth',
        url='https://github.com/amaralibey/Bag-of-Queries/releases/download/v1.0/dinov2_12288.pth',
        page='https://github.com/amaralibey/Bag-of-Queries',
        published=Published(msls_val=93.8, nordland_2760=81.3, nordland_27592=90.6, pitts30k=93.7,
                            source='README of amaralibey/Bag-of-Queries, commit 1a4965e')),
    'salad_vitb14': CatalogueEntry(
        title='SALAD, DINOv2 ViT-B/14', dimension=8448, parameters=87_991_489,
        height=322, width=322, licence='GPL-3.0', file='dino_salad.ckpt',
        url='https://github.com/serizba/salad/releases/download/v1.0.0/dino_salad.ckpt',
        page='https://github.com/serizba/salad',
        published=Published(msls_val=92.2, nordland_2760=76.0, pitts30k=92.5,
                            source='README of serizba/salad, commit e593005; Pitts30k from its '
                                   'page on aggregators')),
    'cliquemining': CatalogueEntry(
        title='SALAD trained with CliqueMining, DINOv2 ViT-B/14', dimension=8448,
        parameters=87_991_489, height=322, width=322, licence='GPL-3.0',
        file='cliquemining.ckpt', url=_drive('1B06ysb-Wjb4KDcNrl-7pyj1mJve1jqdk'),
        page='https://github.com/serizba/cliquemining',
        note='its abstract states about 90 on Nordland without saying which form'),
}
"""Name to entry, best published recall first where it is known."""

ALIASES = {'salad': 'salad_vitb14', 'boq': 'boq_vitb14'}
"""Other names of entries."""


def canonical(name: str) -> str:
    """The name of an entry for one of its aliases; other text is given back."""
    return ALIASES.get(name, name)


def local_file(name: str) -> Path | None:
    """The file of a catalogued model on this machine: the first of the search folders; or None."""
    entry = CATALOGUE[name]
    for folder in search_folders():
        for file in entry.files:
            if (folder / file).is_file():
                return folder / file
    return None


def require_file(name: str) -> Path:
    """The file of a catalogued model on this machine.

    Raises:
        CheckpointError: it is not there, or the model is refused; says how to get it.
    """
    entry = CATALOGUE[name]
    if entry.refused:
        raise CheckpointError(f'{name} is not built: {entry.refused}')
    path = local_file(name)
    if path is None:
        raise CheckpointError(
            f'no weights for {name}: run `regvpr models fetch {name}`, or without internet get '
            f'{entry.url} elsewhere and run `regvpr models fetch {name} --from FILE`; a folder '
            f'named in REGVPR_WEIGHTS or {cache_folder()} may hold it as '
            f'{" or ".join(entry.files)}, or give its path')
    return path
