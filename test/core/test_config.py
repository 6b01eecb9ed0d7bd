import dataclasses
from dataclasses import dataclass, field
import re
from typing import Any

import pytest

from regvpr_core.config import (
    about,
    check_range,
    check_settings,
    from_mapping,
    nearest,
    read_yaml,
    setting,
    to_mapping,
    with_overrides,
)
from regvpr_core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A part of the car."""

    radius_m: float = 0.3
    spokes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Car:
    """What the tests build."""

    name: str = 'car'
    doors: int = 4
    electric: bool = False
    size_m: tuple[float, float] = (4.0, 2.0)
    stops: tuple[int, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    wheel: Wheel = field(default_factory=Wheel)

    def __post_init__(self) -> None:
        check_range('doors', self.doors, 0, 9)


def test_a_mapping_becomes_nested_dataclasses_and_back():
    values = {'name': 'van', 'doors': 5, 'size_m': [5, 2.1], 'stops': [1, 2, 3],
              'wheel': {'radius_m': 1, 'spokes': 7}, 'extra': {'roof': 'red'}}
    car = from_mapping(Car, values)
    assert car == Car(name='van', doors=5, size_m=(5.0, 2.1), stops=(1, 2, 3),
                      wheel=Wheel(radius_m=1.0, spokes=7), extra={'roof': 'red'})
    assert isinstance(car.wheel.radius_m, float)
    assert from_mapping(Car, to_mapping(car)) == car
    assert from_mapping(Car, {}) == Car()


@pytest.mark.parametrize(('values', 'message'), [
    ({'dors': 3}, "unknown setting 'dors'; did you mean 'doors'?"),
    ({'wheel': {'radius': 3}}, "unknown setting 'wheel.radius'; did you mean 'wheel.radius_m'?"),
    ({'zzz': 1}, "unknown setting 'zzz'; known: doors, electric, extra, name, size_m, stops, "),
    ({7: 1}, "unknown setting '7'; known: doors"),
    ({'doors': '4'}, "doors is '4'; expected int"),
    ({'doors': 4.0}, 'doors is 4.0; expected int'),
    ({'doors': True}, 'doors is True; expected int'),
    ({'doors': None}, 'doors is None; expected int'),
    ({'electric': 1}, 'electric is 1; expected bool'),
    ({'name': 3}, 'name is 3; expected str'),
    ({'extra': [1]}, 'extra is [1]; expected dict'),
    ({'wheel': 3}, 'wheel.: expected a table of settings, got 3'),
    ({'wheel': {'radius_m': 'wide'}}, "wheel.radius_m is 'wide'; expected float"),
    ({'wheel': {'radius_m': True}}, 'wheel.radius_m is True; expected float'),
    ({'wheel': {'radius_m': 10**400}}, '; expected float'),
    ({'wheel': {'spokes': 1.5}}, 'wheel.spokes is 1.5; expected int'),
    ({'size_m': [1.0]}, 'size_m has 1 values; expected 2'),
    ({'size_m': 'ab'}, "size_m is 'ab'; expected a list"),
    ({'size_m': [1.0, 'x']}, "size_m[1] is 'x'; expected float"),
    ({'stops': [1, 2.5]}, 'stops[1] is 2.5; expected int'),
    ({'doors': 10}, 'doors is 10; expected 0 to 9'),
    ([1, 2], 'Car: expected a table of settings, got [1, 2]')])
def test_a_wrong_setting_is_refused_by_name_and_value(values, message):
    with pytest.raises(ConfigError) as error:
        from_mapping(Car, values)
    assert message in str(error.value)


def test_none_is_taken_where_the_setting_may_be_absent():
    assert from_mapping(Wheel, {'spokes': None}).spokes is None
    assert from_mapping(Wheel, {'spokes': 3}).spokes == 3


def test_nan_is_out_of_every_range():
    for value in (float('nan'), float('inf'), -1e-9):
        with pytest.raises(ConfigError, match=r'share is .*; expected 0.0 to 1.0'):
            check_range('share', value, 0.0, 1.0)
    check_range('share', 1.0, 0.0, 1.0)


def test_overrides_reach_into_sections_and_are_read_as_yaml():
    car = with_overrides(Car(), ['doors=2', 'wheel.radius_m=0.5', 'electric=yes', 'name=a=b',
                                 'size_m=[3, 1]', 'wheel.spokes=null'])
    assert car == Car(doors=2, electric=True, name='a=b', size_m=(3.0, 1.0),
                      wheel=Wheel(radius_m=0.5))
    assert with_overrides(Car(doors=3), []) == Car(doors=3)


def test_a_power_of_ten_without_a_point_is_a_number():
    """YAML 1.1 reads 1e-3 as text."""
    assert with_overrides(Wheel(), ['radius_m=1e-3']).radius_m == 0.001


@pytest.mark.parametrize(('override', 'message'), [
    ('doors', "'doors' is no override; expected section.key=value"),
    ('dors=1', "unknown setting 'dors'; did you mean 'doors'?"),
    ('wheel.radus_m=1', "unknown setting 'wheel.radus_m'; did you mean 'wheel.radius_m'?"),
    ('weel.radius_m=1', "unknown section 'weel' in 'weel.radius_m=1'"),
    ('doors.x=1', "unknown section 'doors' in 'doors.x=1'"),
    ('doors=[1', "cannot read override 'doors=[1': while parsing a flow sequence"),
    ('name=2020-99-99', "cannot read override 'name=2020-99-99': month must be in 1..12"),
    ('doors=' + '[' * 5000, 'cannot read override'),
    ('doors=12', 'doors is 12; expected 0 to 9')])
def test_a_wrong_override_is_refused_in_one_line(override, message):
    with pytest.raises(ConfigError) as error:
        with_overrides(Car(), [override])
    assert message in str(error.value)
    assert '\n' not in str(error.value)


def test_a_yaml_file_of_settings_is_read(tmp_path):
    file = tmp_path / 'car.yaml'
    file.write_text('doors: 3\nwheel: {radius_m: 0.4}\n')
    assert from_mapping(Car, read_yaml(file)) == Car(doors=3, wheel=Wheel(radius_m=0.4))


@pytest.mark.parametrize(('content', 'message'), [
    (b'doors: [1\nname: {', 'cannot read'),
    (b'- 1\n- 2\n', 'holds no table of settings'),
    (b'', 'holds no table of settings'),
    (b'name: \xff\xfe', 'cannot read'),
    (b'!!python/object/apply:os.system ["true"]', 'could not determine a constructor'),
    (b'#' * 1_000_001, 'is larger than 1000000 bytes, too large for settings')])
def test_a_yaml_file_that_is_none_is_refused_in_one_line(tmp_path, content, message):
    file = tmp_path / 'car.yaml'
    file.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_yaml(file)
    assert message in str(error.value)
    assert str(file) in str(error.value)
    assert '\n' not in str(error.value)


def test_a_missing_yaml_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r'cannot read .*none.yaml: .*No such file'):
        read_yaml(tmp_path / 'none.yaml')


def test_the_hint_names_the_near_one_or_all():
    assert nearest('modle', ['model', 'map']) == "; did you mean 'model'?"
    assert nearest('xyz', ['model', 'map']) == '; known: map, model'


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """Settings with ranges, known values and a unit."""

    speed_mps: float = setting(2.0, 'Speed of the robot.', 0.1, 30.0, unit='m/s')
    gears: tuple[int, ...] = setting((1, 2), 'Gears that may be used.', 1, 6)
    side: str = setting('right', 'Side of the road.', choices=('left', 'right'))
    limit: float | None = setting(None, 'Upper bound; None for none.', 0.0, 9.0)
    name: str = 'van'

    def __post_init__(self) -> None:
        check_settings(self, 'drive')


def test_the_help_of_a_setting_states_range_and_unit():
    helps = {field.name: about(field).help for field in dataclasses.fields(Drive)}
    assert helps['speed_mps'] == 'Speed of the robot. Range: 0.1 to 30 m/s.'
    assert helps['side'] == 'Side of the road.'
    assert helps['name'] == ''


@pytest.mark.parametrize(('values', 'message'), [
    ({'speed_mps': 31.0}, 'drive.speed_mps is 31.0; expected 0.1 to 30.0'),
    ({'speed_mps': float('nan')}, 'drive.speed_mps is nan'),
    ({'gears': (1, 7)}, 'drive.gears is 7; expected 1 to 6'),
    ({'side': 'rigth'}, "unknown drive.side 'rigth'; did you mean 'right'?"),
    ({'limit': 9.5}, 'drive.limit is 9.5; expected 0.0 to 9.0')])
def test_a_setting_outside_of_its_metadata_is_refused(values, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Drive(**values)
    assert Drive().limit is None
