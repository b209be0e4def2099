"""Tests run with the default rates: what `xconv calibrate` may have kept here is not looked at."""

import os
from pathlib import Path

os.environ["XCONV_CACHE_DIR"] = str(Path(__file__) / "none")
