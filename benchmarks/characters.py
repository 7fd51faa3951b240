"""Characters rendered with a font, and how many strokes each is written with: a folder for `benchmarks.gor_images`.

    python -m benchmarks.characters --kanjidic kanjidic --font ipag.ttf --output characters --size 1400

KANJIDIC is a list of Japanese characters with their strokes (Debian's package `kanjidic`, CC BY-SA 3.0), and any font
that has them will do (Debian's `fonts-ipafont-gothic`).
"""

import argparse
import csv
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import track

STROKES = re.compile(r" S([0-9]+) ")


def read_strokes(path: Path) -> dict[str, int]:
    """Character → its strokes.

    Raises:
        ValueError: If the file is no KANJIDIC.
    """
    lines = path.read_bytes().decode("euc_jp", errors="replace").splitlines()
    found = {line[0]: int(match[1]) for line in lines if not line.startswith("#") and (match := STROKES.search(line))}
    if not found:
        raise ValueError(f"{path}: wanted KANJIDIC (EUC-JP, strokes as S7), got {len(lines)} lines without any.")
    return found


def render(character: str, font: ImageFont.FreeTypeFont, side: int) -> Image.Image:
    """A character in black in the middle of a white square."""
    image = Image.new("L", (side, side), 255)
    ImageDraw.Draw(image).text((side / 2, side / 2), character, fill=0, font=font, anchor="mm")
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kanjidic", type=Path, required=True)
    parser.add_argument("--font", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder for the images and labels.csv")
    parser.add_argument("--size", type=int, default=1400, help="number of characters, drawn at random")
    parser.add_argument("--side", type=int, default=224, help="side of an image in pixels")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    strokes = read_strokes(arguments.kanjidic)
    if not 1 <= arguments.size <= len(strokes):
        parser.error(f"--size: wanted 1 to {len(strokes)}, got {arguments.size}")
    font = ImageFont.truetype(str(arguments.font), round(0.8 * arguments.side))
    chosen = np.random.default_rng(arguments.seed).choice(sorted(strokes), size=arguments.size, replace=False)
    arguments.output.mkdir(parents=True, exist_ok=True)
    with (arguments.output / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "strokes"])
        for character in track(chosen.tolist(), "Characters", console=Console(stderr=True)):
            name = f"{ord(character):05x}.png"
            render(character, font, arguments.side).save(arguments.output / name)
            writer.writerow([name, strokes[character]])


if __name__ == "__main__":
    main()
