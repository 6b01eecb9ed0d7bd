"""Check that package.xml, regvpr_core and CHANGELOG.rst state the same version."""

from pathlib import Path
import re
import sys

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    package = re.search(r'<version>(.+?)</version>', (ROOT / 'package.xml').read_text())
    core = re.search(r"__version__ = '(.+?)'", (ROOT / 'regvpr_core/__init__.py').read_text())
    log = re.search(r'^(\d+\.\d+\.\d+)', (ROOT / 'CHANGELOG.rst').read_text(), re.MULTILINE)
    found = {'package.xml': package, 'regvpr_core/__init__.py': core, 'CHANGELOG.rst': log}
    versions = {name: match and match.group(1) for name, match in found.items()}
    if len(set(versions.values())) != 1 or None in versions.values():
        print(f'versions differ: {versions}', file=sys.stderr)
        return 1
    print(f'version {versions["package.xml"]} everywhere')
    return 0


if __name__ == '__main__':
    sys.exit(main())
