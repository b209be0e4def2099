"""Tests run with the default rates: what `xconv calibrate` may have kept here is not looked at."""

import os
import signal
from pathlib import Path

os.environ["XCONV_CACHE_DIR"] = str(Path(__file__) / "none")

# A shell's background job ignores Ctrl-C, and so would the processes that tests send it to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
