"""Print what an extra of pyproject.toml asks for, a package a line: for an environment without torch and the project."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
sys.stdout.writelines(f"{package}\n" for package in project["optional-dependencies"][sys.argv[1]])
