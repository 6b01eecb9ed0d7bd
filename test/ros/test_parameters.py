import dataclasses
from pathlib import Path
import re

import pytest
import yaml

from regvpr_core.errors import ConfigError
from regvpr_core.localization.localizer import LocalizerConfig
from regvpr_ros.parameters import declared, NodeConfig, to_config

CONFIG = Path(__file__).resolve().parents[2] / 'config'
PARAMETERS = {p.name: p for p in declared(NodeConfig)}


def leaves(cls: type, prefix: str = '') -> list[str]:
    names = []
    for field in dataclasses.fields(cls):
        value = getattr(cls(), field.name)
        names += leaves(type(value), f'{prefix}{field.name}.') \
            if dataclasses.is_dataclass(value) else [f'{prefix}{field.name}']
    return names


def test_every_field_is_a_parameter_under_its_dotted_name():
    assert list(PARAMETERS) == leaves(NodeConfig)
    assert 'localizer.belief.place_radius_m' in PARAMETERS
    assert 'localizer.pose_prior.position_floor_m' in PARAMETERS


@pytest.mark.parametrize('name', PARAMETERS)
def test_every_parameter_has_a_description(name):
    text = PARAMETERS[name].description
    assert len(text) >= 10
    assert '  ' not in text
    assert not text.endswith((',', ':'))


def test_descriptions_are_the_texts_of_the_settings_with_their_ranges():
    assert PARAMETERS['map'].description == (
        'Folder of the place map; required except in mode loop_closure.')
    assert PARAMETERS['max_image_age_s'].description.endswith('Range: 0 to 60 s.')
    assert PARAMETERS['threads'].limits == (0, 256)


LIMITED = [name for name, p in PARAMETERS.items() if p.limits is not None]


def test_every_number_has_limits():
    assert set(LIMITED) == {
        name for name, p in PARAMETERS.items()
        if isinstance(p.default, (int, float)) and not isinstance(p.default, bool)}


@pytest.mark.parametrize('name', LIMITED)
def test_the_limits_that_are_declared_are_those_that_hold(name):
    parameter = PARAMETERS[name]
    low, high = parameter.limits
    whole = isinstance(parameter.default, int)
    assert low <= parameter.default <= high
    if 'keep_' not in name:  # which must not be above those for accepting
        for value in (low, high):
            to_config({name: int(value) if whole else value})
    for value in (low - (1 if whole else 1e-3 * max(low, 1e-3)), high + (1 if whole else 1e-3)):
        with pytest.raises(ConfigError, match=re.escape(f'{name.split(".")[-1]} is ')):
            to_config({name: int(value) if whole else value})


def test_defaults_give_the_default_config_and_types_that_ros_knows():
    values = {name: p.default for name, p in PARAMETERS.items()}
    assert to_config(values) == NodeConfig()
    for name, value in values.items():
        assert isinstance(value, (bool, int, float, str, list)), name


def test_values_reach_the_nested_config():
    config = to_config({'map': '/m', 'localizer.candidates': 7,
                        'extrinsics': [1, 2, 3, 0, 0, 0, 1],
                        'localizer.belief.kidnap': 0.02, 'odometry_gap_s': 1})
    assert config == NodeConfig(
        map='/m', extrinsics=(1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 1.0), odometry_gap_s=1.0,
        localizer=dataclasses.replace(
            LocalizerConfig(), candidates=7,
            belief=dataclasses.replace(LocalizerConfig().belief, kidnap=0.02)))


@pytest.mark.parametrize(('values', 'message'), [
    ({'mapp': 'x'}, "unknown setting 'mapp'; did you mean 'map'?"),
    ({'localizer.candidate': 3}, "'localizer.candidate'; did you mean 'localizer.candidates'?"),
    ({'localizer.belief.kidnapp': 0.1},
     "'localizer.belief.kidnapp'; did you mean 'localizer.belief.kidnap'?"),
    ({'map': 3}, 'map is 3; expected str'),
    ({'outputs': 'lio_sam'}, "outputs is 'lio_sam'; expected a list: outputs:=[lio_sam]"),
    ({'camera_names': 'left,right'}, 'expected a list: camera_names:=[left,right]'),
    ({'extrinsics': 1.5}, 'extrinsics is 1.5; expected a list: extrinsics:=[1.5]'),
    ({'threads': 300}, 'threads is 300; expected 0 to 256'),
    ({'threads': 1.5}, 'threads is 1.5; expected int'),
    ({'use_odometry': 'yes'}, "use_odometry is 'yes'; expected bool"),
    ({'odometry_wait_s': 2.0}, 'odometry_wait_s is 2.0; expected 0.0 to 1.0'),
    ({'image_timeout_s': 0.0}, 'image_timeout_s is 0.0; expected 0.1 to 3600.0'),
    ({'extrinsics': [1.0, 2.0]}, 'extrinsics has 2 numbers; expected x y z qx qy qz qw, or none'),
    ({'extrinsics': ['a'] * 7}, "extrinsics[0] is 'a'; expected float"),
    ({'base_frame': ''}, 'base_frame is empty; expected a frame such as base_link'),
    ({'localizer.matches': 0}, 'matches is 0; expected 1 to 50'),
    ({'localizer.belief.place_radius_m': -1.0}, 'belief.place_radius_m is -1.0'),
    ({'localizer.belief.kidnap': 'often'}, "localizer.belief.kidnap is 'often'; expected float"),
    ({'localizer.appearance.prior_images': float('nan')}, 'appearance.prior_images is nan')])
def test_a_wrong_value_is_refused_with_the_parameters_name(values, message):
    with pytest.raises(ConfigError) as error:
        to_config(values)
    assert message in str(error.value)


def test_the_parameter_files_hold_known_parameters_of_the_right_type():
    files = [file for file in CONFIG.glob('*.yaml') if 'ros__parameters' in file.read_text()]
    for file in files:
        for node in yaml.safe_load(file.read_text()).values():
            values = node['ros__parameters']
            values.pop('autostart', None)
            to_config(flat(values))


def flat(values: dict, prefix: str = '') -> dict:
    out = {}
    for key, value in values.items():
        out |= flat(value, f'{prefix}{key}.') if isinstance(value, dict) else {prefix + key: value}
    return out
