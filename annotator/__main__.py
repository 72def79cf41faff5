"""`python -m annotator`: the command line, also where no console script is installed."""

import sys

from annotator.cli.main import main

sys.exit(main())
