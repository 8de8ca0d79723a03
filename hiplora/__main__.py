"""`python -m hiplora`."""

import sys

from hiplora.cli import main

sys.exit(main())
