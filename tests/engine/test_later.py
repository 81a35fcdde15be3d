"""bitsandbytes waits until something uses it, wherever diffusers is imported from, and is then the package itself."""

import subprocess
import sys

import pytest

pytest.importorskip("bitsandbytes")
UTILS = "diffusers.quantizers.bitsandbytes.utils"


def printed(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.strip()


def test_our_import_of_diffusers_leaves_it_out_until_it_is_used() -> None:
    code = (
        f"import engine, sys; from diffusers import AutoencoderKL; import {UTILS} as utils\n"
        "print('bitsandbytes' in sys.modules, 'torch._inductor.compile_fx' in sys.modules)\n"
        "layer = utils.bnb.nn.Linear8bitLt\n"
        "import bitsandbytes; print(layer is bitsandbytes.nn.Linear8bitLt, hasattr(utils.bnb, '__no__'))"
    )
    assert printed(code) == "False False\nTrue False"


def test_what_was_imported_before_stays() -> None:
    code = f"import bitsandbytes, engine; import {UTILS} as utils; print(utils.bnb is bitsandbytes)"
    assert printed(code) == "True"


def test_the_package_is_found_while_it_waits() -> None:
    code = (
        "import engine; from diffusers.utils import is_bitsandbytes_available as there\n"
        f"import {UTILS}; from importlib.util import find_spec; print(there(), find_spec('bitsandbytes').name)"
    )
    assert printed(code) == "True bitsandbytes"
