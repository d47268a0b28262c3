"""Where TensorRT isn't installed: our modules are imported all the same, and who uses one is told what to install."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import proteus_cli.backends.tensorrt as package
from proteus_cli.backends.tensorrt.bindings import LazyModule, tensorrt_version
from proteus_cli.errors import BackendUnavailable

IMPORT_ALL = """
import importlib, pkgutil, sys
sys.modules["tensorrt"] = sys.modules["pycuda"] = sys.modules["pycuda.driver"] = None
import proteus_cli.backends.tensorrt as package
names = [module.name for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def test_every_module_can_be_imported_without_tensorrt_and_pycuda() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    assert int(done.stdout) == len(list(pkgutil.walk_packages(package.__path__)))


def test_using_a_module_that_is_not_installed_says_what_to_install() -> None:
    with pytest.raises(BackendUnavailable, match=r"`no_such_module` can't be imported") as refused:
        _ = LazyModule("no_such_module").Builder
    assert refused.value.hint == "pip install 'tensorrt>=10,<12' pycuda"
    assert refused.value.exit_code == 4


def test_a_module_that_fails_to_load_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_installed.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendUnavailable, match=r"libnvinfer\.so\.10"):
        _ = LazyModule("half_installed").Builder


def test_a_lazy_module_has_the_attributes_of_the_module_and_no_others() -> None:
    late = LazyModule("importlib")
    assert late.import_module is importlib.import_module
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = late.no_such_name


def test_a_tensorrt_without_strongly_typed_networks_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ModuleType("tensorrt")
    old.__dict__.update(__version__="8.6.1", NetworkDefinitionCreationFlag=SimpleNamespace(EXPLICIT_BATCH=0))
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(BackendUnavailable, match=r"TensorRT 8\.6\.1 can't build") as refused:
        tensorrt_version()
    assert "--upgrade" in refused.value.hint
