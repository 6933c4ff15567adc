"""The forms of an exported folder, for the command line too: without torch."""

from typing import Literal, get_args

Form = Literal["imagefolder", "webdataset", "huggingface"]
FORMS: tuple[Form, ...] = get_args(Form)
