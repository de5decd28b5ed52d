"""Makes `ddi_shaped` importable from the tests of this folder, whatever the import mode."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
