"""Settings as frozen dataclasses: built from mappings and YAML, unknown keys refused."""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import difflib
from pathlib import Path
import types
import typing
from typing import Any, TypeVar

import yaml

from regvpr_core.errors import ConfigError

MAX_CONFIG_BYTES = 1_000_000

PRESETS = Path(__file__).parent / 'presets'
"""Settings that ship with the package: train/NAME.yaml and models/NAME.yaml."""

DEFAULT_MODEL = 'regvpr_offline'
"""Model used if none is named."""

AUTO = 'auto'
"""Name for the best model on this machine (`models/choice.py`)."""

Config = TypeVar('Config')

SETTING = 'regvpr_setting'
"""Key of the `Setting` in the metadata of a dataclass field."""


def from_mapping(cls: type[Config], values: Mapping[str, Any], where: str = '') -> Config:
    """Build a (nested) dataclass from a mapping.

    Raises:
        ConfigError: a key is unknown (the nearest known one is named), or a value has the wrong
            type or is out of range.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f'{where or cls.__name__}: expected a table of settings, got {values!r}')
    hints = typing.get_type_hints(cls)
    known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    arguments = {}
    for key, value in values.items():
        name = f'{where}{key}'
        if key not in known:
            raise ConfigError(f'unknown setting {name!r}{nearest(str(key), known, where)}')
        arguments[key] = _convert(value, hints[key], name)
    try:
        return cls(**arguments)
    except TypeError as error:
        raise ConfigError(f'{where or cls.__name__}: {error}') from error


def to_mapping(config: Any) -> dict[str, Any]:
    """The plain form of a dataclass, for YAML and JSON."""
    return dataclasses.asdict(config)


def with_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """Apply `section.key=value` strings; values are read as YAML."""
    values = to_mapping(config)
    for override in overrides:
        path, equals, text = override.partition('=')
        if not equals:
            raise ConfigError(f'{override!r} is no override; expected section.key=value')
        table = values
        *sections, key = path.strip().split('.')
        for section in sections:
            table = table.get(section) if isinstance(table, dict) else None  # type: ignore[assignment]
            if not isinstance(table, dict):
                raise ConfigError(f'unknown section {section!r} in {override!r}')
        if key not in table:
            prefix = ''.join(f'{section}.' for section in sections)
            raise ConfigError(f'unknown setting {path!r}{nearest(key, table, prefix)}')
        table[key] = _parse(text, f'override {override!r}')
    return from_mapping(type(config), values)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings (at most 1 MB).

    Raises:
        ConfigError: the file cannot be read or is not a table.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f'{path} is larger than {MAX_CONFIG_BYTES} bytes, too large for '
                              f'settings')
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f'cannot read {path}: {error}') from error
    values = _parse(text, str(path))
    if not isinstance(values, dict):
        raise ConfigError(f'{path} holds no table of settings')
    return values


def preset_names(kind: str) -> list[str]:
    """The presets of a kind, `train` or `models`."""
    return sorted(file.stem for file in (PRESETS / kind).glob('*.yaml'))


def find_settings(kind: str, name: str | Path) -> Path:
    """Path of a settings file given by the user: a file, or the name of a preset.

    Raises:
        ConfigError: it is neither; a preset with a near name is named.
    """
    path = Path(name)
    if path.is_file():
        return path
    if str(name) in preset_names(kind):
        return PRESETS / kind / f'{name}.yaml'
    if path.suffix or len(path.parts) > 1:
        raise ConfigError(f'{name} does not exist')
    raise ConfigError(f'{str(name)!r} is neither a file nor a preset'
                      f'{nearest(str(name), preset_names(kind))}')


def _parse(text: str, name: str) -> Any:
    """Read YAML; an error is reported in one line."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an impossible date
        raise ConfigError(f'cannot read {name}: {" ".join(str(error).split())}') from error


def setting(default: Any, text: str = '', low: float | None = None, high: float | None = None, *,
            unit: str = '', choices: Sequence[str] = ()) -> Any:
    """A field of a settings dataclass whose range, unit and help are data.

    Args:
        default: default value of the field.
        text: what the setting does, in one or two sentences.
        low, high: range of the value, or of each element of a tuple, ends included.
        unit: of the value, such as 'm' or 's'; empty if it has none.
        choices: the known values of a text.
    """
    entry = Setting(text=text, low=low, high=high, unit=unit, choices=tuple(choices))
    return dataclasses.field(default=default, metadata={SETTING: entry})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Metadata of one setting; see `setting`."""

    text: str = ''
    low: float | None = None
    high: float | None = None
    unit: str = ''
    choices: tuple[str, ...] = ()

    @property
    def range_text(self) -> str:
        """The range in words, such as '0 to 60 s'; empty without a range."""
        if self.low is None or self.high is None:
            return ''
        return f'{self.low:g} to {self.high:g} {self.unit}'.strip()

    @property
    def help(self) -> str:
        """The text followed by the range, for help, ROS descriptors and docs tables."""
        return f'{self.text} Range: {self.range_text}.' if self.range_text else self.text


def about(field: dataclasses.Field[Any]) -> Setting:
    """The `Setting` of a dataclass field; an empty one if `setting` did not make it."""
    found = field.metadata.get(SETTING)
    return found if isinstance(found, Setting) else Setting()


def check_settings(config: Any, section: str = '') -> None:
    """Check each field of a settings dataclass against its range or its known values.

    None is always accepted: such a default depends on other values.

    Args:
        config: an instance; called at the start of its `__post_init__`.
        section: prefix of the names in messages, such as 'belief'.

    Raises:
        ConfigError: names the setting, the range and the value.
    """
    for field in dataclasses.fields(config):
        entry = about(field)
        value = getattr(config, field.name)
        name = f'{section}.{field.name}' if section else field.name
        for one in value if isinstance(value, (tuple, list)) else (value,):
            if one is None:
                continue
            if entry.choices:
                check_choice(name, one, entry.choices)
            if entry.low is not None and entry.high is not None:
                check_range(name, one, entry.low, entry.high)


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Refuse a value outside [low, high]; NaN is outside.

    Raises:
        ConfigError: always names the setting, the range and the value.
    """
    if not low <= value <= high:
        raise ConfigError(f'{name} is {value!r}; expected {low} to {high}')


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a value that is not one of the choices.

    Raises:
        ConfigError: the message names the nearest choice.
    """
    if value not in known:
        raise ConfigError(f'unknown {name} {value!r}{nearest(value, known)}')


def nearest(name: str, known: typing.Iterable[str], prefix: str = '') -> str:
    """A hint such as '; did you mean 'model'?', or all known names if none is near.

    Args:
        prefix: of the name that is meant, such as 'keyframes.'.
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f'; did you mean {prefix + close[0]!r}?' if close else f'; known: {", ".join(known)}'


def _convert(value: Any, hint: Any, name: str) -> Any:
    """Convert a plain value to the type of a dataclass field, or refuse it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast(type, hint), value, f'{name}.')
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _convert(value, next(a for a in arguments if a is not type(None)), name)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f'{name} is {value!r}; expected a list')
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise ConfigError(f'{name} has {len(value)} values; expected {len(arguments)}')
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        return tuple(_convert(v, k, f'{name}[{i}]')
                     for i, (v, k) in enumerate(zip(value, kinds, strict=True)))
    if hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            return float(value)  # also of text: YAML 1.1 parses 1e-6 as a string
    hint = origin or hint
    if isinstance(hint, type) and (not isinstance(value, hint)
                                   or (isinstance(value, bool) and hint is not bool)):
        raise ConfigError(f'{name} is {value!r}; expected {hint.__name__}')
    return value
