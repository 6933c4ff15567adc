"""What pyproject.toml cannot say: a wheel has no clone beside it, so it holds the clone's settings and workflow."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PROJECT = ("config", "workflow", "benchmarks/studies")


class BuildWithProject(build_py):
    """Copies `PROJECT` to gvbsm/project, where gvbsm.store.code looks for it outside a clone."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for folder in PROJECT:
                target = Path(self.build_lib) / "gvbsm" / "project" / folder
                shutil.rmtree(target, ignore_errors=True)  # of an earlier build
                shutil.copytree(folder, target, ignore=shutil.ignore_patterns("__pycache__", "*.sif", ".*"))


setup(cmdclass={"build_py": BuildWithProject})
