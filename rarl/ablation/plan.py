"""From rows, settings and seeds to runs: what each one executes, and which one has to come first."""

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rarl.ablation.rows import ROWS, SETTINGS, Row, Setting


@dataclass(frozen=True)
class Run:
    """One row in one setting with one seed.

    Attributes:
        setting: Name of the setting.
        row: Name of the row.
        seed: Seed of images, votes, split, groups and training.
        script: Recipe that trains it, `None` if a model is evaluated only.
        arguments: Arguments of the recipe, `--config` and its file first, without its starting point and its output
            folder.
        start: The run whose adapter it starts from.
        decode: How numbers are read, where nothing is trained.
        resolution: Distance of two legal numbers, where `decode` wants one.
    """

    setting: str
    row: str
    seed: int
    script: Path | None
    arguments: tuple[str, ...]
    start: "Run | None" = None
    decode: str | None = None
    resolution: float | None = None

    @property
    def name(self) -> str:
        """Setting, seed and row, also as a path."""
        return f"{self.setting}/seed{self.seed}/{self.row}"

    @property
    def command(self) -> str:
        """What is executed, in words that change when the run does: its configuration's content, and the run that it
        starts from, included."""
        done = self.script.stem if self.script is not None else _reading(self.decode, self.resolution)
        before = "" if self.start is None else f"{self.start.command} | "
        config = Path(self.arguments[1])
        content = json.dumps(yaml.safe_load(config.read_text(encoding="utf-8")), sort_keys=True)
        return " ".join((f"{before}{done}", f"{config.stem}@{zlib.crc32(content.encode()):08x}", *self.arguments[2:]))


def _reading(decode: str | None, resolution: float | None) -> str:
    return f"evaluate {decode or 'greedy'}" + ("" if resolution is None else f" {resolution}")


def plan(
    settings: Iterable[str],
    rows: Sequence[str],
    seeds: Iterable[int],
    *,
    recipes: Path,
    model: str = "tiny",
    extra: Sequence[str] = (),
) -> list[Run]:
    """The runs of a comparison, each after those that it starts from, seed by seed.

    Args:
        settings: Names of [`SETTINGS`][rarl.ablation.rows.SETTINGS]; an unknown one is data of the user's own, which
            `extra` describes.
        rows: Names of [`ROWS`][rarl.ablation.rows.ROWS].
        seeds: Seeds.
        recipes: Folder of the recipes.
        model: Which configurations of the recipes, such as `"tiny"` or `"qwen2_5_vl_3b"`.
        extra: Further arguments of every recipe.

    Raises:
        ValueError: If a row is unknown, there is nothing to run, or a name or seed comes twice.
        FileNotFoundError: If a recipe has no configuration for the model.
    """
    settings, rows, seeds = list(settings), list(rows), list(seeds)
    for what, given in (("setting", settings), ("row", rows), ("seed", seeds)):
        if not given:
            raise ValueError(f"{what}s: wanted at least one, got none.")
        if len(set(given)) < len(given):
            raise ValueError(f"{what}s: wanted each once, got {', '.join(map(str, given))}.")
    unknown = [name for name in rows if name not in ROWS]
    if unknown:
        raise ValueError(f"rows: unknown {', '.join(unknown)}; known rows: {', '.join(ROWS)}.")
    runs: dict[str, Run] = {}
    for setting in settings:
        if setting not in SETTINGS and not extra:
            known = ", ".join(SETTINGS)
            raise ValueError(
                f"settings: {setting!r} is none of {known}; one of your own wants arguments of its data behind --."
            )
        for seed in seeds:
            for row in rows:
                _add(runs, setting, row, seed, recipes=recipes, model=model, extra=tuple(extra))
    return list(runs.values())


def _add(
    runs: dict[str, Run], setting: str, name: str, seed: int, *, recipes: Path, model: str, extra: tuple[str, ...]
) -> Run:
    row, data = ROWS[name], SETTINGS.get(setting, Setting(setting, ()))
    start = (
        None if row.start is None else _add(runs, setting, row.start, seed, recipes=recipes, model=model, extra=extra)
    )
    recipe = row.recipe or "sft"  # what is evaluated only is read with the settings of SFT
    arguments = ["--config", _config(recipes, recipe, model), *data.flags, *row_flags(row, data, recipes, model)]
    arguments += data.of_recipe.get(row.as_recipe or recipe, ()) if row.recipe is not None else ()
    arguments += [*extra, "--seed", str(seed), "--split_seed", str(seed)]
    script = None if row.recipe is None else recipes / f"{row.recipe}.py"
    resolution = data.resolution if row.decode in ("mode", "median", "mean") else None
    run = Run(setting, name, seed, script, tuple(arguments), start, row.decode, resolution)
    return runs.setdefault(run.name, run)


def row_flags(row: Row, setting: Setting, recipes: Path, model: str) -> list[str]:
    """Arguments of a row: its own, and the sums and lengths that it takes from other recipes in the setting."""
    flags = list(row.flags)
    for argument, others in (("num_prompts", row.prompts_of), ("max_steps", row.steps_of)):
        if others:
            flags += [f"--{argument}", str(sum(_setting(setting, recipes, each, model, argument) for each in others))]
    if row.as_recipe is not None:
        length = _content(recipes, row.as_recipe, model).get("max_completion_length")
        flags += [] if length is None else ["--max_completion_length", str(length)]
    return flags


def _config(recipes: Path, recipe: str, model: str) -> str:
    path = recipes / "configs" / f"{recipe}_{model}.yaml"
    if not path.is_file():
        known = sorted(each.stem.removeprefix(f"{recipe}_") for each in path.parent.glob(f"{recipe}_*.yaml"))
        raise FileNotFoundError(f"{path}: no such configuration; recipe {recipe} has those of {', '.join(known)}.")
    return str(path)


def _content(recipes: Path, recipe: str, model: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(Path(_config(recipes, recipe, model)).read_text(encoding="utf-8"))
    return content


def _setting(setting: Setting, recipes: Path, recipe: str, model: str, argument: str) -> int:
    """What an argument of a recipe is in a setting."""
    given = setting.of_recipe.get(recipe, ())
    if f"--{argument}" in given:
        return int(given[given.index(f"--{argument}") + 1])
    return int(_content(recipes, recipe, model)[argument])
