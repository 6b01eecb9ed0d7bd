"""All aggregators, by name: they turn tokens into one descriptor.

Each takes class tokens (B, width) and patch tokens (B, width, h, w) and gives unit rows, float32.
"""

from regvpr_core.models.boq import Boq, BoqConfig
from regvpr_core.models.cricavpr import Crica, CricaConfig
from regvpr_core.models.gem import CosPlace, CosPlaceConfig, GeM, PoolingConfig
from regvpr_core.models.inside_registers import InsideConfig, InsideRegisters
from regvpr_core.models.joined_heads import JoinedConfig, JoinedHeads
from regvpr_core.models.mixvpr import MixVpr, MixVprConfig
from regvpr_core.models.netvlad import NetVlad, NetVladConfig
from regvpr_core.models.register_aggregator import RegisterAggregator, RegisterConfig
from regvpr_core.models.salad import Salad, SaladConfig

__all__ = ['AGGREGATORS', 'GeM', 'PoolingConfig']

AGGREGATORS: dict[str, tuple[type, type]] = {
    'regvpr': (RegisterAggregator, RegisterConfig),
    'inside': (InsideRegisters, InsideConfig),
    'salad': (Salad, SaladConfig),
    'gem': (GeM, PoolingConfig),
    'cosplace': (CosPlace, CosPlaceConfig),
    'netvlad': (NetVlad, NetVladConfig),
    'mixvpr': (MixVpr, MixVprConfig),
    'boq': (Boq, BoqConfig),
    'cricavpr': (Crica, CricaConfig),
    'joined': (JoinedHeads, JoinedConfig),
}
"""Name to module and its config. A module is built as `module(token_width, config)`."""

TWO_TRUNKS = ('joined',)
"""Aggregators that also use the feature maps of a second trunk."""
