"""`python -m regvpr_core.cli`: the `regvpr` command where no script is installed."""

import sys

from regvpr_core.cli import main

sys.exit(main())
