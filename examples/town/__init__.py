"""A seeded synthetic town: exact truth, any weather, as many frames as wanted."""

from examples.town.bag import LapFiles, write_lap
from examples.town.config import LapConfig, TownConfig
from examples.town.errors import TownError
from examples.town.town import Frame, Town

__all__ = ['Frame', 'LapConfig', 'LapFiles', 'Town', 'TownConfig', 'TownError', 'write_lap']
