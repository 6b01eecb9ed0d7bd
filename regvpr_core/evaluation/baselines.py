"""Published methods by name: where their authors' code is, and how it is shown pictures.

Sources: hubconf.py and README of each repository, and the wrappers of
gmberton/VPR-methods-evaluation. None of them was run here: this project's machines have no network
and their code stays with their authors.
"""

from dataclasses import dataclass, field
from typing import Any

from regvpr_core.evaluation.modules import Shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A published method.

    hub: repository for torch.hub, with its entry and arguments; '' where there is none.
    shown: size and normalisation of its authors. note: what to know before quoting a figure.
    """

    hub: str = ''
    entry: str = ''
    arguments: dict[str, Any] = field(default_factory=dict)
    shown: Shown = field(default_factory=Shown)
    note: str = ''


AS_THEY_ARE = Shown(height=None, width=None)

BASELINES: dict[str, Baseline] = {
    'netvlad': Baseline(
        shown=AS_THEY_ARE,
        note='no torch.hub entry: VGG-16 weights converted from MATLAB, e.g. '
             'cvg/Hierarchical-Localization hloc/extractors/netvlad.py'),
    'gem': Baseline(
        shown=AS_THEY_ARE,
        note='no torch.hub entry: gmberton/deep-visual-geo-localization-benchmark, ResNet-50 GeM'),
    'cosplace': Baseline(
        hub='gmberton/cosplace', entry='get_trained_model',
        arguments={'backbone': 'ResNet50', 'fc_output_dim': 2048}, shown=AS_THEY_ARE,
        note="evaluated at the pictures' own size"),
    'eigenplaces': Baseline(
        hub='gmberton/eigenplaces', entry='get_trained_model',
        arguments={'backbone': 'ResNet50', 'fc_output_dim': 2048}, shown=AS_THEY_ARE,
        note="evaluated at the pictures' own size"),
    'mixvpr': Baseline(
        shown=Shown(height=320, width=320),
        note='no torch.hub entry: amaralibey/MixVPR, weights on Google Drive; 320 x 320 only'),
    'salad': Baseline(
        hub='serizba/salad', entry='dinov2_salad',
        note="the model salad_vitb14 reads the same weights without anyone else's code"),
    'boq': Baseline(
        hub='amaralibey/bag-of-queries', entry='get_trained_boq',
        arguments={'backbone_name': 'dinov2', 'output_dim': 12288},
        shown=Shown(interpolation='bicubic'), note='gives (descriptors, attention)'),
    'megaloc_hub': Baseline(
        hub='gmberton/MegaLoc', entry='get_trained_model',
        note="the model megaloc reads the same weights without anyone else's code"),
    'cricavpr': Baseline(
        hub='Lu-Feng/CricaVPR', entry='trained_model',
        shown=Shown(height=224, width=224, one_by_one=True),
        note='its descriptors depend on the batch: here each picture is a batch of its own, its '
             'paper takes 16'),
    'selavprplusplus': Baseline(
        hub='Lu-Feng/SelaVPRplusplus', entry='SelaVPRplusplus',
        arguments={'backbone': 'dinov2-base', 'hashing': False, 'rerank': False},
        shown=Shown(height=224, width=224), note='the base model, one stage'),
}
"""Name to method. Those without a hub entry are run through `module:function`."""
