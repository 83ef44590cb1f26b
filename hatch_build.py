"""Compiles `routers/_compiled.c` where there is a compiler; without one the wheel is made of Python alone."""

import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = "routers/_compiled.c"
MODULE = "routers._compiled"


def compile_module(root: Path) -> Path | None:
    """The compiled module, in a new folder; None, with the reason on stderr, where it cannot be compiled."""
    try:
        from setuptools import Distribution, Extension
        from setuptools.command.build_ext import build_ext
    except ImportError:
        sys.stderr.write("setuptools is missing: Thalamus is installed without its compiled part\n")
        return None
    flags = [] if sys.platform == "win32" else ["-O3"]
    libraries = [] if sys.platform == "win32" else ["m"]
    extension = Extension(
        MODULE, [str(root / SOURCE)], extra_compile_args=flags, libraries=libraries, py_limited_api=True
    )
    folder = Path(tempfile.mkdtemp(prefix="thalamus-build-"))
    command = build_ext(Distribution({"name": "thalamus-gateway", "ext_modules": [extension]}))
    command.build_lib, command.build_temp = str(folder), str(folder / "objects")
    try:
        command.ensure_finalized()
        command.run()
    except (Exception, SystemExit) as error:  # each compiler fails in its own way, and none has to be there
        sys.stderr.write(f"Thalamus is installed without its compiled part, which is slower: {error}\n")
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return folder / command.get_ext_filename(MODULE)


class CompileHook(BuildHookInterface[Any]):
    """Puts the compiled module into the wheel, or beside its source where a checkout is installed."""

    _built: Path | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """`version` is "standard" or "editable"."""
        found = compile_module(Path(self.root))
        if found is None:
            return
        name = f"routers/{found.name}"
        if version == "editable":
            # A process that runs has the old file mapped: it is replaced, not written over.
            # Two interpreters may install the checkout at once.
            new = Path(self.root) / f"{name}.{os.getpid()}"
            shutil.copyfile(found, new)
            new.replace(Path(self.root) / name)
            shutil.rmtree(found.parent.parent, ignore_errors=True)
            return
        self._built = found.parent.parent
        build_data["force_include"][str(found)] = name
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"cp311-abi3-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Clean up, as the wheel has its copy."""
        if self._built is not None:
            shutil.rmtree(self._built, ignore_errors=True)
