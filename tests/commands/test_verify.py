"""`gvbsm verify`, and stages that read inputs, notice any wrong byte in any file of the store."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from gvbsm import cli
from gvbsm.commands.verify import verify
from gvbsm.errors import UserError
from gvbsm.store.code import PACKAGE
from gvbsm.store.job import Job, Reader
from gvbsm.store.plans import STORE
from gvbsm.store.receipts import read_receipt, rebuild, receipt_path
from gvbsm.store.spec import Spec


def run(capsys, *arguments: str) -> tuple[int, list[str]]:
    """Run verify in this process; return its exit status and the lines of stdout."""
    status = cli.main(["verify", *arguments])
    captured = capsys.readouterr()
    assert captured.err == ""
    return status, captured.out.splitlines()


def read_as_input(path: str) -> None:
    job = Reader(store=STORE)
    job.tensors(path) if path.endswith(".safetensors") else job.receipt(path)


def harmed(content: bytes, seed: str) -> list[bytes]:
    """A content with a bit flipped in its first, middle, last and in random bytes, and cut."""
    dice = random.Random(seed)
    versions = []
    for position in (0, len(content) // 2, len(content) - 1, *(dice.randrange(len(content)) for _ in range(4))):
        flipped = bytearray(content)
        flipped[position] ^= 1 << dice.randrange(8)
        versions.append(bytes(flipped))
    return [*versions, b"", content[: len(content) // 2], content[:-1]]


def assert_damaged(output: str, file: Path, artifact: Path) -> None:
    line, count = output.splitlines()
    assert line.startswith(f"{file}: ") and line.endswith(f"rebuild it with: {rebuild(artifact)}"), line
    assert count.endswith(" verified, 1 damaged")


def test_every_harm_to_every_file_is_noticed(published_run, capsys):
    stored = [artifact.path for artifact in published_run if artifact.stage != "publish"]
    assert run(capsys) == (0, [f"{len(stored)} artifacts verified, 0 damaged"])
    for path in stored:
        for file in (STORE / path, receipt_path(STORE / path)):
            content = file.read_bytes()
            for version in harmed(content, file.name):
                file.write_bytes(version)
                output, damaged = verify(file)
                assert damaged == 1
                assert_damaged(output, file, STORE / path)
                with pytest.raises(UserError) as mistake:
                    read_as_input(path)
                assert str(mistake.value) == output.splitlines()[0]
            assert_damaged(verify(STORE)[0], file, STORE / path)
            file.write_bytes(content)
    assert run(capsys)[0] == 0


def write(name: str, summary: dict | None = None, content: str = "x", **inputs: str) -> str:
    """An artifact of no key, made by hand."""
    job = Job(spec=Spec(stage="evaluate"), out=STORE / name, store=STORE)
    for path in inputs.values():
        job.receipt(path)
    job.write_table(content, summary or {})
    return name


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("1e-05", "1E-05"),
        (r"\u00fc", r"\u00FC"),
        ('"code": null', '"cude": null'),
        ('"one": 0.25', '"one": 0.250'),
        (' "images"', '\t"images"'),
        ("\n}", "\r}"),
        ("\n}", "\n}\n"),
        ('{\n "bytes"', '\ufeff{\n "bytes"'),
        ('"top": 1,', '"top": 1, "top": 1,'),
    ],
)
def test_a_receipt_of_the_same_value_but_another_text(before, after, workspace):
    path = STORE / write("a.csv", {"rate": 1e-05, "name": "fünf", "one": 0.25, "top": 1, "zero": 0})
    assert read_receipt(path)["summary"]["rate"] == 1e-05
    text = receipt_path(path).read_bytes().decode()
    assert text.count(before) == 1
    receipt_path(path).write_bytes(text.replace(before, after).encode())
    with pytest.raises(UserError, match=r"a\.json: damaged receipt: \S.*; rebuild it with: rm -f"):
        read_receipt(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xff\xfe{}", r"expected UTF-8, got byte 0xff at 0"),
        (b"{", "expected JSON, got something else"),
        (b"[" * 100_000, "expected JSON, got something else"),
        (b"[1, 2]", "expected a JSON object, got list"),
        (b"null", "expected a JSON object, got NoneType"),
        (b"{}", "its text is not what was written"),
        (b'{"receipt_sha256": [1]}', "its text is not what was written"),
    ],
)
def test_a_file_that_is_no_receipt(content, expected, published_run, capsys):
    artifact = STORE / published_run[0].path
    receipt_path(artifact).write_bytes(content)
    status, (line, _) = run(capsys, str(artifact))
    assert status == 1
    assert line == f"{receipt_path(artifact)}: damaged receipt: {expected}; rebuild it with: {rebuild(artifact)}"


def test_a_whole_receipt_that_lacks_an_entry(workspace, monkeypatch):
    """Of another version, say."""
    monkeypatch.setattr("gvbsm.store.receipts._RECEIPT", {"spec": dict, "colour": str})
    with pytest.raises(UserError, match="damaged receipt: colour: expected str, got NoneType; rebuild"):
        read_receipt(STORE / write("a.csv"))


def swap(first: Path, second: Path) -> None:
    first.rename("kept")
    second.rename(first)
    Path("kept").rename(second)


def test_swapped_files(published_run, capsys):
    first, second = [STORE / artifact.path for artifact in published_run if artifact.stage == "squeeze"][:2]
    folder = str(first.parent)
    swap(first, second)
    status, lines = run(capsys, folder)
    assert status == 1 and [line.partition(": damaged")[0] for line in lines[:-1]] == [str(first), str(second)]
    swap(receipt_path(first), receipt_path(second))
    status, lines = run(capsys, folder)
    assert status == 1 and lines[-1] == "3 artifacts verified, 2 damaged"
    for line, named, got in zip(lines, (first, second), (second, first), strict=False):
        expected = f"{receipt_path(named)}: expected the receipt of {named.stem[-10:]}, got that of {got.stem[-10:]}; rebuild"
        assert line.startswith(expected)
    with pytest.raises(UserError, match="expected the receipt of"):
        read_as_input(str(first.relative_to(STORE)))


def test_missing_halves(published_run, capsys):
    without_file, without_receipt = sorted(STORE / artifact.path for artifact in published_run if artifact.stage == "squeeze")[
        :2
    ]
    without_file.unlink()
    receipt_path(without_receipt).unlink()
    status, lines = run(capsys)
    assert status == 1 and lines[-1].endswith("2 damaged")
    assert lines[0].startswith(f"{without_file}: missing; rebuild it with: rm -f ")
    assert lines[1].startswith(f"{receipt_path(without_receipt)}: missing; rebuild it with: rm -f ")
    assert run(capsys, str(without_file))[0] == run(capsys, str(receipt_path(without_file)))[0] == 1
    assert_damaged("\n".join(run(capsys, str(without_receipt))[1]), receipt_path(without_receipt), without_receipt)


def test_an_input_that_changed_or_is_gone(published_run, capsys):
    """When prepare makes other bytes, artifacts made from the old ones are stale. Removed inputs are only noted."""
    data = STORE / published_run[0].path

    def reads(artifact) -> bool:
        return getattr(getattr(artifact.spec, "inputs", None), "data", None) == published_run[0].path

    direct = [artifact for artifact in published_run if reads(artifact) and artifact.stage != "publish"]
    assert len(direct) > 6
    Job(spec=published_run[0].spec, out=data, store=STORE).write_table("other", {})
    status, lines = run(capsys)
    assert status == 1 and lines[-1].endswith(f" {len(direct)} damaged")
    stale = f"{STORE / direct[0].path}: made from another {data} than the one there now; rebuild it with: "
    assert lines[0] == stale + rebuild(STORE / direct[0].path)
    data.unlink()
    receipt_path(data).unlink()
    status, lines = run(capsys)
    assert status == 0 and lines[-1].endswith(" 0 damaged")
    assert lines[0].startswith(f"note: {data}: no longer there; ")


def test_foreign_files_in_the_store_are_noted(published_run, capsys):
    data = STORE / published_run[0].path
    (data.parent / f".{data.name}.1.tmp").write_text("")
    (data.parent / "notes.txt").write_text("")
    (STORE / "backup").mkdir()
    status, lines = run(capsys)
    assert status == 0 and len(lines) == 4
    assert lines[0] == "note: results/store/backup: neither an artifact nor a receipt"
    assert lines[1].startswith(f"note: {data.parent}/.{data.name}.1.tmp: a temporary file; ")
    assert lines[2] == f"note: {data.parent}/notes.txt: neither an artifact nor a receipt"


def test_an_artifact_that_is_being_made_is_not_damaged(published_run):
    """Its file is there before its receipt is."""
    data = STORE / published_run[0].path
    receipt_path(data).unlink()
    command = [sys.executable, "-m", "gvbsm", "verify", str(data)]
    with filelock.FileLock(f"results/.checkpoints/{published_run[0].key}.lock"):
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0] == f"note: {data}: is being made; its receipt comes next"
    assert subprocess.run(command, capture_output=True).returncode == 1


def test_paths(published_run, capsys, monkeypatch, tmp_path):
    data = STORE / published_run[0].path
    for path, count in (
        (str(STORE), f"{len(published_run) - 1} artifacts"),
        (f"./{STORE}/", f"{len(published_run) - 1} artifacts"),
        (str(STORE.absolute() / "squeeze"), "3 artifacts"),
        (str(data), "1 artifact"),
        (str(receipt_path(data)), "1 artifact"),
        (f"results/../{data}", "1 artifact"),
    ):
        assert run(capsys, path) == (0, [f"{count} verified, 0 damaged"])
    data.write_bytes(b"")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    _, (line, _) = run(capsys, f"../{data}")
    assert line.startswith(f"{tmp_path / data}: damaged: expected ")
    assert f"rebuild it with: cd {tmp_path} && rm -f {data} " in line
    assert line.endswith(f" && snakemake --cores all {data}")


@pytest.mark.parametrize(
    ("path", "got"),
    [
        (None, "nothing there"),
        ("config", "a folder without them"),
        ("config/config.yaml", "another file"),
        ("results/store/squeeze/digits-convnet-0123456789.safetensors", "nothing there"),
    ],
)
def test_paths_without_artifacts(path, got, workspace, capsys):
    assert cli.main(["verify", *([path] if path else [])]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"gvbsm: {path or 'results/store'}: expected the store (results/store), a stage's folder in it, ")
    assert f", got {got}; " in message and message.count("\n") == 1


@pytest.mark.parametrize("which", ["artifact", "receipt", "folder"])
def test_what_cannot_be_read(which, published_run, capsys, monkeypatch):
    data = STORE / published_run[0].path
    method = {"artifact": "open", "receipt": "read_bytes", "folder": "iterdir"}[which]
    real = getattr(Path, method)

    def failing(path, *arguments, **named):
        if path == {"artifact": data, "receipt": receipt_path(data), "folder": data.parent}[which]:
            raise OSError(5, "Input/output error")
        return real(path, *arguments, **named)

    monkeypatch.setattr(Path, method, failing)
    status = cli.main(["verify"])
    captured = capsys.readouterr()
    assert re.search(r"cannot be read: Input/output error; (make|restore) it", captured.out + captured.err)
    assert status == (2 if which == "folder" else 1)


def test_verifying_imports_no_torch(published_run):
    program = "import sys; from gvbsm import cli; status = cli.main(['verify']); sys.exit(status or 'torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""


def test_the_receipts_hash_is_of_the_text(published_run):
    """What another program that reads receipts may rely on."""
    import hashlib

    receipt = json.loads(receipt_path(STORE / published_run[0].path).read_text())
    digest = receipt.pop("receipt_sha256")
    assert digest == hashlib.sha256(json.dumps(receipt, indent=1, sort_keys=True).encode()).hexdigest()
