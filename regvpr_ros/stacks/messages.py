"""Imports messages of other packages when an output is configured."""

import importlib
from typing import Any

from regvpr_core.errors import ConfigError


def interface(package: str, kind: str, name: str, stack: str) -> Any:
    """Import a message or service class.

    Args:
        package: such as rtabmap_msgs.
        kind: msg or srv.
        name: of the class.
        stack: the output that needs it, for the error.

    Raises:
        ConfigError: the package is not installed, or has no such class.
    """
    try:
        return getattr(importlib.import_module(f'{package}.{kind}'), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f'output {stack!r} needs {package}/{kind}/{name}, which cannot be imported here; '
            f"install {package} and source its workspace, or take {stack!r} out of the parameter "
            f"'outputs'") from error
