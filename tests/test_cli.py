"""The command as a whole: help, version, errors, exit codes, what goes to which stream."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ganfuse import cli, commands
from ganfuse.commands._errors import CommandError, report
from ganfuse.version import __version__


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments))


def test_without_arguments_help() -> None:
    result = run()
    assert result.exit_code == 0
    for command in ("models", "train", "sample"):
        assert f"\u2502 {command} " in result.stdout or f"  {command} " in result.stdout


def test_version() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout.strip()) == (0, f"ganfuse {__version__}")


@pytest.mark.parametrize("command", ["models", "train", "sample"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: ganfuse {command}" in result.stdout


def test_a_new_module_is_a_new_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lambda_.py").write_text(
        'EXAMPLE = "ganfuse lambda x"\ndef lambda_() -> None:\n    """Do it."""\n    print("done")\n'
    )
    (tmp_path / "_private.py").write_text("raise AssertionError")
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    monkeypatch.setattr(cli.app, "registered_commands", [])
    monkeypatch.delitem(sys.modules, "ganfuse.commands.lambda_", raising=False)
    cli._add_commands()
    names = [command.name for command in cli.app.registered_commands]
    assert names[:3] == ["models", "train", "sample"]
    assert "lambda" in names
    assert run("lambda").stdout == "done\n"


def test_models() -> None:
    listed = json.loads(run("models", "--json").stdout)
    by_name = {entry["name"]: entry for entry in listed}
    assert by_name["sagan"]["resolutions"] == [32, 64, 128]
    assert by_name["sagan"]["url"] == "https://arxiv.org/abs/1805.08318"
    rows = run("models").stdout.splitlines()
    row = next(line for line in rows if line.startswith("sagan"))
    assert "Self-Attention Generative Adversarial Networks" in row
    assert "32, 64, 128" in row


def test_settings_of_a_model() -> None:
    lines = run("models", "biggan").stdout.splitlines()
    assert lines[0].startswith("biggan: wide residual networks")
    assert lines[1].endswith("https://arxiv.org/abs/1809.11096")
    assert "  orthogonal            0.0001" in lines
    assert "  latent_dim            null" in lines
    assert json.loads(run("models", "biggan", "--json").stdout)[0]["config"]["orthogonal"] == 1e-4
    result = run("models", "bigan-deep")
    assert (result.exit_code, "did you mean 'biggan-deep'" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'?"),
        (["train", "--stepz", "3"], "No such option: --stepz"),
        (["train", "--steps", "many"], "Invalid value for '--steps'"),
        (["train", "--precision", "fp8"], "Invalid value for '--precision'"),
        (["sample"], "Missing argument 'RUN'"),
        (["sample", "x", "--num", "0"], "Invalid value for '--num'"),
    ],
)
def test_wrong_usage_is_one_line_and_a_hint(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    lines = result.stderr.splitlines()
    assert result.exit_code == 2
    assert lines[0].startswith(f"error: {message}")
    assert lines[1].startswith("hint: ganfuse ")
    assert len(lines) == 2
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (CommandError("no", hint="do this"), 2, "error: no\nhint: do this\n"),
        (CommandError("no", code=1), 1, "error: no\n"),
        (ValueError("steps: expected\n  more"), 2, "error: steps: expected more\n"),
        (FileNotFoundError(2, "No such file or directory", "x.yaml"), 2, "error: x.yaml: No such file or directory\n"),
        (OSError(28, "No space left on device", "runs/x"), 1, "error: runs/x: No space left on device\n"),
        (RuntimeError("the loss became nan"), 1, "error: the loss became nan\n"),
        (KeyError("z"), 1, "error: unexpected KeyError: 'z'\nhint: this is a mistake in ganfuse"),
    ],
)
def test_errors_become_a_line_and_a_code(
    error: Exception, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(error) == code
    assert capsys.readouterr().err.startswith(text)


def test_an_error_of_hundreds_of_pages_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(RuntimeError("CppCompileError " + 9000 * "warning ")) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: CppCompileError warning")
    assert shown.endswith("... (72,016 characters; --debug shows all)\n")
    assert len(shown) < 5000


@pytest.mark.parametrize("where", [["--debug", "train", "nosuch"], ["train", "nosuch", "--debug"]])
def test_debug_lets_the_error_through(where: list[str]) -> None:
    result = run(*where)
    assert isinstance(result.exception, ValueError)
    quiet = run("train", "nosuch")
    assert quiet.exit_code == 2
    assert isinstance(quiet.exception, SystemExit)


def test_an_interrupt_before_training_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ganfuse.engine.data.open_dataset", interrupted)
    assert run("train").exit_code == 130


def test_as_a_program_without_colours_and_quickly_loaded() -> None:
    program = [sys.executable, "-m", "ganfuse"]
    result = subprocess.run([*program, "train", "nosuch"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: there is no model named 'nosuch'")
    assert "\x1b" not in result.stderr
    assert "Traceback" not in result.stderr
    loaded = subprocess.run(
        [sys.executable, "-c", "import ganfuse.cli, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    heavy = {"numpy", "PIL", "yaml", "safetensors", "triton", "tensorboard", "ganfuse.engine.trainer", "ganfuse.models"}
    assert not heavy & (set(loaded) - _loaded_with_torch())


def _loaded_with_torch() -> set[str]:
    """What the package's own import brings with it, through PyTorch, is not the command's doing."""
    code = "import ganfuse, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())
