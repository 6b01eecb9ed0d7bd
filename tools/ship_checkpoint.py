"""Put a trained checkpoint into the package: `python tools/ship_checkpoint.py RUN NAME`.

Weights, config and record are those of RUN/best.safetensors; only the name is changed.
"""

import json
from pathlib import Path
import sys

import safetensors
from safetensors.torch import save_file

from regvpr_core.models.checkpoints import load_model, read_checkpoint, SHIPPED
from regvpr_core.models.record import METADATA_KEY


def main() -> int:
    run, name = Path(sys.argv[1]), sys.argv[2]
    source, target = run / 'best.safetensors', SHIPPED / f'{sys.argv[2]}.safetensors'
    read_checkpoint(source)
    with safetensors.safe_open(source, framework='pt') as file:
        about = json.loads(file.metadata()[METADATA_KEY])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    about['name'] = name
    save_file(tensors, target, metadata={METADATA_KEY: json.dumps(about, sort_keys=True)})
    target.chmod(0o644)
    loaded = load_model(target)
    print(f'{target}: {target.stat().st_size / 1e6:.1f} MB, {loaded.fingerprint}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
