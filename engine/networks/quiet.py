"""Keep the libraries' bars and remarks off the terminal while local files are read."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging


@contextmanager
def quiet() -> Iterator[None]:
    """Within, diffusers and transformers show no progress bar and no remark. Errors are raised as ever."""
    before = [library.get_verbosity() for library in (diffusers_logging, transformers_logging)]
    had_bars = transformers_logging.is_progress_bar_enabled()
    try:
        # diffusers also prints errors that it raises.
        diffusers_logging.set_verbosity(logging.CRITICAL)
        transformers_logging.set_verbosity(logging.CRITICAL)
        if had_bars:
            transformers_logging.disable_progress_bar()
        yield
    finally:
        diffusers_logging.set_verbosity(before[0])
        transformers_logging.set_verbosity(before[1])
        if had_bars:
            transformers_logging.enable_progress_bar()
