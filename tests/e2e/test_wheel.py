"""The wheel in an empty environment, with the core's libraries only."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

SCORE = """
import sys
from rarl.rewards import REGISTRY, accuracy_reward, regression_reward
from gor_head import CoDiVocabulary
answer = '<think></think><answer>[{"image_id": 2, "value": 5}, {"image_id": 1, "value": 31}]</answer>'
print(regression_reward([answer], values=[[30, 5]], task=["age"]), accuracy_reward([answer], values=[[30, 5]]))
print(CoDiVocabulary.fit([3, 21, 58, 58, 60], initializer="binary", beta=1).encode(58.0))
print("torch" in sys.modules)
"""


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands of an environment that the wheel alone was installed into."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(pip, check=True, timeout=600)
    [wheel] = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True, timeout=600)
    commands = folder / "venv/bin"
    install = [str(commands / "python"), "-m", "pip", "install", "--quiet", str(wheel)]
    subprocess.run(install, check=True, timeout=1200)
    return commands


def run(commands: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = [str(commands / arguments[0]), *arguments[1:]]
    return subprocess.run(words, cwd=commands, capture_output=True, text=True, timeout=120, env={"PATH": str(commands)})


@pytest.mark.long
def test_the_core_works_without_pytorch(core: Path) -> None:
    done = run(core, "python", "-c", SCORE)
    assert done.stdout == "[0.995] [1.0]\n[8, 7, 6, 4, 2]\nFalse\n", done.stderr
    for command in ("rarl", "gor"):
        assert "Usage" in run(core, command, "--help").stdout
    for words in (["rarl", "evaluate"], ["rarl", "recipes", "copy"], ["gor", "compare"]):
        done = run(core, *words, "--help")
        assert done.returncode == 0 and "Usage" in done.stdout, done.stderr


@pytest.mark.long
def test_what_the_core_lacks_is_said(core: Path) -> None:
    for words, extra in (("rarl predict a.jpg --model tiny", "vlm"), ("gor train a.csv --target y --out a", "tables")):
        done = run(core, *words.split())
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(rf"Error: .* is not installed: pip install 'rarl\[{extra}\]'\n", done.stderr), done.stderr
    done = run(core, "python", "-c", "from gor_head import GoRRegressor")
    assert "ImportError: gor_head.GoRRegressor: this wants the package" in done.stderr
    assert "pip install 'rarl[tables]'" in done.stderr
    done = run(core, "python", "-c", "import rarl.trainer")
    assert "ImportError: accelerate is not installed: pip install 'rarl[train]'" in done.stderr


@pytest.mark.long
def test_recipes_are_in_the_wheel(core: Path, tmp_path: Path) -> None:
    listed = run(core, "rarl", "recipes", "list").stdout
    assert [line.partition(":")[0] for line in listed.splitlines()] == sorted(
        path.stem for path in (ROOT / "recipes").glob("*.py")
    )
    done = run(core, "rarl", "recipes", "copy", "rarl_stage2", str(tmp_path / "mine"))
    assert done.returncode == 0, done.stderr
    for name in ("configs/rarl_stage2_tiny.yaml", "accelerate_configs/zero2.yaml"):
        source = ROOT / name if name.startswith("accelerate") else ROOT / "recipes" / name
        assert (tmp_path / "mine" / name).read_bytes() == source.read_bytes()
