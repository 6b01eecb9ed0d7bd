"""Self-contained HTML pages without network access, which run no code from their data.

A page consists of markup, one style sheet, one script of the package, and data as JSON. Its
content security policy allows only this style and script (by their digests) and embedded images.
Names in the data are always shown as text.
"""

import base64
import hashlib
import html
import json
import math
import os
from pathlib import Path
import re
from typing import Any, TYPE_CHECKING

from regvpr_core.errors import ConfigError

if TYPE_CHECKING:
    import numpy.typing as npt

LONGEST_LABEL = 200

# Control characters, marks that turn the reading direction, and halves of surrogate pairs.
_UNSHOWN = re.compile('[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff'
                      '\ud800-\udfff]')


def label(text: object, longest: int = LONGEST_LABEL) -> str:
    """An untrusted name as one printable line of bounded length."""
    shown = _UNSHOWN.sub('\N{REPLACEMENT CHARACTER}', str(text))
    return shown if len(shown) <= longest else f'{shown[:longest - 1]}…'


def packed(values: 'npt.NDArray[Any]', dtype: str) -> str:
    """An array for the page's script: base64 of its values in a little-endian `dtype`."""
    import numpy as np  # here: commands that print one line need no NumPy

    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode()


def page(*, title: str, body: str, style: str, script: str, data: dict[str, Any]) -> str:
    """Put a page together.

    Args:
        title: plain text.
        body: markup of the package, without data.
        style, script: of the package; the browser accepts no others.
        data: plain values; the script reads them from the element `data`. No value may be NaN.
    """
    policy = (f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
              f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f'<title>{html.escape(label(title))}</title>\n<style>{style}</style>\n</head>\n<body>\n'
        f'{body}\n<script id="data" type="application/json">{_json(data)}</script>\n'
        f'<script>{script}</script>\n</body>\n</html>\n')


def write_page(path: Path, text: str) -> None:
    """Write a page atomically: after an error the file is unchanged.

    Raises:
        ConfigError: the file cannot be written.
    """
    partial = path.with_name(f'.{path.name}.{os.getpid()}.partial')
    try:
        partial.write_text(text, encoding='utf-8')
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f'cannot write {path}: {error.strerror or error}; name another '
                          f'file') from error
    finally:
        partial.unlink(missing_ok=True)


def finite(value: float, otherwise: float = 0.0) -> float:
    """`value`, or None for NaN and infinity, which JSON does not have."""
    return float(value) if math.isfinite(value) else otherwise


def _json(data: dict[str, Any]) -> str:
    """JSON without characters that could end its script element."""
    text = json.dumps(data, allow_nan=False, separators=(',', ':'))
    return text.replace('<', '\\u003c').replace('>', '\\u003e').replace('&', '\\u0026')


def _digest(text: str) -> str:
    """Source expression of the policy for a text: its SHA-256 digest."""
    return f'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'
