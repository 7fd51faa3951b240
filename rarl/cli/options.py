"""Options that several subcommands share."""

from typing import Annotated, Literal

import typer

from gor_head.numbers import number_option

Model = Annotated[str, typer.Option(help="Folder or Hub id of the model; 'tiny' is the built-in one.")]
Adapter = Annotated[str | None, typer.Option(help="Folder or Hub id of a LoRA adapter.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")]
MinPixels = Annotated[int | None, typer.Option(help="Least height times width of an image.")]
MaxPixels = Annotated[int | None, typer.Option(help="Largest height times width of an image.")]
Decoding = Annotated[
    Literal["greedy", "median"] | None,
    typer.Option(help="How numbers in value tokens are read: as the median of each (the default), or greedily."),
]
EvaluationDecoding = Annotated[
    Literal["greedy", "mode", "median", "mean", "sampled_median"] | None,
    typer.Option(
        help="How numbers are read: greedy (digits, by default), median (of the exact distribution; value tokens, by "
        "default), mode or mean of that distribution, or sampled_median (of sampled answers)."
    ),
]
Interval = Annotated[
    float | None,
    number_option("Also give the interval of each value that holds this share, such as 0.9; value tokens only."),
]
