"""Catalogue of published models: description, download address and published figures.

Needs no torch; `peers.py` builds the networks. Each figure belongs to the protocol stated by its
source; the two Nordland protocols differ by ten points and are never mixed.
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
    source: publication of the figures; other sources of single figures are named in it.
    """

    msls_val: float | None = None
    nordland_2760: float | None = None
    nordland_27592: float | None = None
    pitts30k: float | None = None
    source: str = ''


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """One published model.

    title: method and backbone. dimension: length of a descriptor. parameters: of the network.
    height, width: network input in pixels, as in its authors' evaluation.
    licence: of code and weights, as stated in the repository, or `none stated`.
    file: name of the published file in the cache. also: other possible names.
    url: address of the file. page: the repository.
    size, sha256: stated by the publisher; None: the digest is recorded at the first download.
    refused: reason if the model is not supported, else ''.
    note: remarks on the figures.
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
    also: tuple[str, ...] = ()
    size: int | None = None
    sha256: str | None = None
    published: Published = field(default_factory=Published)
    refused: str = ''
    note: str = ''

    @property
    def files(self) -> tuple[str, ...]:
        """Possible names of the file, also of its tensors saved as safetensors."""
        return tuple(dict.fromkeys(
            (self.file, *self.also, f'{Path(self.file).stem}.safetensors')))


def _drive(identity: str) -> str:
    """Direct download address of a file on Google Drive, without its warning page."""
    return f'https://drive.usercontent.google.com/download?id={identity}&export=download&confirm=t'


_LU_FENG = 'https://huggingface.co/fenglu96'
_TABLE_1 = 'RegVPR paper, Table 1 (Yu and Fu, 2024)'

CATALOGUE: dict[str, CatalogueEntry] = {
    'image_vitb14': CatalogueEntry(
        title='ImAge, DINOv2 ViT-B/14 with registers, unified training set', dimension=6144,
        parameters=86_589_696, height=322, width=322, licence='MIT', file='ImAge_Merged.pth',
        url=f'{_LU_FENG}/ImAge4VPR/resolve/main/ImAge_Merged.pth',
        page='https://github.com/Lu-Feng/ImAge',
        published=Published(msls_val=94.5, nordland_27592=97.7, pitts30k=94.1,
                            source='README of Lu-Feng/ImAge, commit 5d5e2d8')),
    'selavprplusplus': CatalogueEntry(
        title='SelaVPR++, DINOv2 ViT-B/14, one stage', dimension=2048, parameters=97_899_201,
        height=322, width=322, licence='MIT', file='SelaVPRplusplus_base.pth',
        url=f'{_LU_FENG}/SelaVPRplusplus/resolve/main/SelaVPRplusplus_base.pth',
        page='https://github.com/Lu-Feng/SelaVPRplusplus',
        published=Published(msls_val=94.3, nordland_27592=94.7, pitts30k=93.3,
                            source='README of Lu-Feng/SelaVPRplusplus, commit 56bd921')),
    'boq_vitb14': CatalogueEntry(
        title='BoQ, DINOv2 ViT-B/14', dimension=12288, parameters=95_206_560,
        height=322, width=322, licence='MIT', file='dinov2_12288.pth',
        url='https://github.com/amaralibey/Bag-of-Queries/releases/download/v1.0/dinov2_12288.pth',
        page='https://github.com/amaralibey/Bag-of-Queries',
        published=Published(msls_val=93.8, nordland_2760=81.3, nordland_27592=90.6, pitts30k=93.7,
                            source='README of amaralibey/Bag-of-Queries, commit 1a4965e')),
    'megaloc': CatalogueEntry(
        title='MegaLoc, DINOv2 ViT-B/14', dimension=8448, parameters=228_640_321,
        height=322, width=322, licence='MIT', file='megaloc.safetensors',
        also=('model.safetensors',),
        url='https://huggingface.co/gberton/MegaLoc/resolve/main/model.safetensors',
        page='https://github.com/gmberton/MegaLoc',
        published=Published(
            msls_val=93.5, source='VPR-methods-evaluation issue 19, measured by a user on the 740 '
            'queries; the paper has 91.0 on all 11,000')),
    'sage_vitb14': CatalogueEntry(
        title='SAGE, DINOv2 ViT-B/14, one image by itself', dimension=8448, parameters=88_043_270,
        height=322, width=322, licence='MIT', file='SAGE_vitb.pth',
        url=_drive('1P4NrddzJ9nWo9Wdan3uDi6zS6E-ub2y6'),
        page='https://github.com/chenshunpeng/SAGE',
        published=Published(msls_val=93.4, nordland_2760=86.7, nordland_27592=94.1, pitts30k=93.4,
                            source='README of chenshunpeng/SAGE, commit dc79e21')),
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
    'edtformer': CatalogueEntry(
        title='EDTformer, DINOv2 ViT-B/14', dimension=4096, parameters=96_956_736,
        height=322, width=322, licence='MIT', file='EDTformer.pth',
        url='https://github.com/Tong-Jin01/EDTformer/releases/download/v1.0.0/EDTformer.pth',
        page='https://github.com/Tong-Jin01/EDTformer',
        note='its repository states no figures'),
    'cricavpr': CatalogueEntry(
        title='CricaVPR, DINOv2 ViT-B/14, one image by itself', dimension=10752,
        parameters=106_761_665, height=224, width=224, licence='MIT', file='CricaVPR.pth',
        url='https://github.com/Lu-Feng/CricaVPR/releases/download/v1.0/CricaVPR.pth',
        page='https://github.com/Lu-Feng/CricaVPR',
        note='its paper lets the 16 images of a batch look at each other; its figures are not '
             'those of one image by itself'),
    'boq_resnet50': CatalogueEntry(
        title='BoQ, ResNet-50', dimension=16384, parameters=23_844_448, height=384, width=384,
        licence='MIT', file='resnet50_16384.pth',
        url='https://github.com/amaralibey/Bag-of-Queries/releases/download/v1.0/'
            'resnet50_16384.pth',
        page='https://github.com/amaralibey/Bag-of-Queries',
        published=Published(msls_val=91.2, nordland_2760=70.7, nordland_27592=83.1, pitts30k=92.4,
                            source='README of amaralibey/Bag-of-Queries, commit 1a4965e')),
    'eigenplaces': CatalogueEntry(
        title='EigenPlaces, ResNet-50', dimension=2048, parameters=27_704_385,
        height=480, width=640, licence='MIT', file='ResNet50_2048_eigenplaces.pth',
        url='https://github.com/gmberton/EigenPlaces/releases/download/v1.0/'
            'ResNet50_2048_eigenplaces.pth',
        page='https://github.com/gmberton/EigenPlaces',
        published=Published(msls_val=89.3, nordland_2760=54.4, pitts30k=92.5, source=_TABLE_1)),
    'mixvpr': CatalogueEntry(
        title='MixVPR, ResNet-50', dimension=4096, parameters=10_880_900, height=320, width=320,
        licence='none stated', file='resnet50_MixVPR_4096_channels(1024)_rows(4).ckpt',
        url=_drive('1vuz3PvnR7vxnDDLQrdHJaOA04SQrtk5L'),
        page='https://github.com/amaralibey/MixVPR',
        published=Published(msls_val=88.2, nordland_2760=58.4, pitts30k=91.6,
                            source='README of amaralibey/MixVPR, commit 4043915; Nordland from '
                                   f'the {_TABLE_1}')),
    'cosplace': CatalogueEntry(
        title='CosPlace, ResNet-50', dimension=2048, parameters=27_704_385, height=480, width=640,
        licence='MIT', file='ResNet50_2048_cosplace.pth',
        url='https://github.com/gmberton/CosPlace/releases/download/v1.0/'
            'ResNet50_2048_cosplace.pth',
        page='https://github.com/gmberton/CosPlace',
        published=Published(msls_val=84.5, nordland_2760=58.5, pitts30k=90.9, source=_TABLE_1)),
    'gem': CatalogueEntry(
        title='GeM, ResNet-50, trained on MSLS', dimension=1024, parameters=8_543_297,
        height=480, width=640, licence='MIT', file='resnet50_gem_msls.pth',
        url=_drive('1uuIYJN4N7lQqqsN32pbZwjhz5Xvv3zr-'),
        page='https://github.com/gmberton/deep-visual-geo-localization-benchmark',
        published=Published(msls_val=72.0, pitts30k=77.4, source='README of gmberton/'
                            'deep-visual-geo-localization-benchmark, commit e974667, which does '
                            'not say how many queries its MSLS has'),
        note='Table 1 of the RegVPR paper has another GeM, whose weights were not published'),
    'netvlad': CatalogueEntry(
        title='NetVLAD, VGG-16 with whitening, trained on Pitts30k', dimension=4096,
        parameters=149_002_048, height=480, width=640, licence='MIT', file='Pitts30K_struct.mat',
        url='https://cvg-data.inf.ethz.ch/hloc/netvlad/Pitts30K_struct.mat',
        page='https://github.com/cvg/Hierarchical-Localization',
        note='Table 1 of the RegVPR paper has another NetVLAD, whose weights were not published'),
    'sage_crossimage': CatalogueEntry(
        title='SAGE, DINOv2 ViT-L/14, images of a batch together', dimension=8448,
        parameters=314_740_000, height=322, width=322, licence='MIT', file='SAGE.pth',
        url=_drive('1oybKqxFYIHYwoA9HuG7tlaCif7DcJsd4'),
        page='https://github.com/chenshunpeng/SAGE',
        published=Published(msls_val=94.5, nordland_27592=96.0, pitts30k=95.8,
                            source='README of chenshunpeng/SAGE, commit dc79e21'),
        refused='its descriptor depends on the other images of the batch, so that a place of a '
                'map would look otherwise beside each query; take sage_vitb14'),
}
"""Entries by name: ViT models, then others; both sorted by published recall on MSLS validation."""

ALIASES = {'salad': 'salad_vitb14', 'boq': 'boq_vitb14', 'image': 'image_vitb14',
           'sage': 'sage_vitb14', 'clique_mining': 'cliquemining', 'megaloc_hub': 'megaloc'}
"""Aliases of entries."""


def canonical(name: str) -> str:
    """The name of an entry for one of its aliases; other text is returned unchanged."""
    return ALIASES.get(name, name)


def local_file(name: str) -> Path | None:
    """The file of a catalogued model in the first search folder that has it, or None."""
    entry = CATALOGUE[name]
    for folder in search_folders():
        for file in entry.files:
            if (folder / file).is_file():
                return folder / file
    return None


def refuse_unbuilt(name: str) -> None:
    """Refuse a catalogued model that is not supported; other names pass.

    Raises:
        CheckpointError: the message gives the reason and an alternative.
    """
    entry = CATALOGUE.get(canonical(name))
    if entry is not None and entry.refused:
        raise CheckpointError(f'{name} is not built: {entry.refused}')


def missing(name: str) -> CheckpointError:
    """Error with instructions for a catalogued model that is not on this machine."""
    entry = CATALOGUE[name]
    return CheckpointError(
        f'no weights for {name}: run `regvpr models fetch {name}`, or without internet get '
        f'{entry.url} elsewhere and run `regvpr models fetch {name} --from FILE`; a folder '
        f'named in REGVPR_WEIGHTS or {cache_folder()} may hold it as '
        f'{" or ".join(entry.files)}, or give its path')
