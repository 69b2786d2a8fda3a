"""The flat names: cheap to import, every one of them there, none hidden by a package of the same name."""

import subprocess
import sys
from types import ModuleType

from stillhouse import parts


def test_every_flat_name_is_there_and_is_no_package():
    import stillhouse.train.loop  # noqa: F401 (a package's name would now hide a function of that name)

    for name in stillhouse.__all__:
        assert not isinstance(getattr(stillhouse, name), ModuleType) or name == "parts", name
    assert {"Method", "option", "Denoiser", "Guided", "Flow", "Sampling", "Leg", "rollout"} <= set(
        dir(stillhouse)
    )
    assert stillhouse.evaluate.__name__ == "evaluate"
    for name in parts.__all__:
        assert getattr(parts, name) is not None
    assert callable(parts.surrogate_loss) and callable(parts.backward_simulation)


def test_importing_the_package_imports_no_torch():
    code = "import sys, stillhouse; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
