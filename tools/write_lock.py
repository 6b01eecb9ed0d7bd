"""Write requirements.lock: the packages that pip installed in .venv, with their versions.

`pip freeze` would also list Python packages inside the ROS wheels, which are on no index.
"""

import importlib.metadata
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / 'requirements.lock'
LEFT_OUT = {'pip', 'wheel', 'regvpr_ros', 'py-spy'}
HEAD = '# All packages of .venv, by tools/write_lock.py. Which torch: tools/bootstrap.py.'


def main() -> None:
    pins = {
        f'{package.metadata["Name"]}=={package.version.partition("+")[0]}'
        for package in importlib.metadata.distributions()
        if (package.read_text('INSTALLER') or '').strip() == 'pip'
        and package.metadata['Name'] not in LEFT_OUT
    }
    LOCK.write_text('\n'.join([HEAD, *sorted(pins, key=str.lower)]) + '\n')


if __name__ == '__main__':
    main()
