"""Rows per second of GoR's decoders on a CPU or GPU, beside a plain L1 head and the loop as papers write it.

That loop knows no cache and no end: at each of the `max_length + 1` steps it runs the decoder over the whole prefix of
every row. It chooses among the same legal tokens as greedy decoding here, so that its codes must be the same. The model
is trained for a moment first: an untrained one writes codes of a length that no trained model has.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from gor_head import CoDiVocabulary
from gor_head.decoding.beam import beam
from gor_head.decoding.greedy import greedy
from gor_head.decoding.quantile import quantile
from gor_head.model import DirectConfig, DirectModel, GoRConfig, GoRModel
from gor_head.output import replace_unprintable
from gor_head.vocabulary import EOS, PAD, SOS

FEATURES, STEPS = 32, 300
ENCODER = {"kind": "ffn", "numeric": FEATURES}
M = TypeVar("M", bound=nn.Module)
MEDIAN = torch.tensor([0.5], dtype=torch.float64)


def problem(rows: int, seed: int = 0) -> tuple[Tensor, np.ndarray]:
    """Features `[n, 32]` and log-normal watch times in tenths of a second that depend on them, `[n]`."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(rows, FEATURES))
    noise = generator.normal(size=rows)
    labels = np.round(np.exp(2 + 0.7 * features[:, 0] + 0.4 * noise), 1)
    return torch.from_numpy(features.astype(np.float32)), labels


def train(model: GoRModel, features: Tensor, labels: np.ndarray) -> None:
    """A moment of teacher forcing, until codes have the labels' lengths."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    codes, numbers = torch.from_numpy(model.vocabulary.encode(labels)).long(), torch.from_numpy(labels)
    model.train()
    for step in range(STEPS):
        rows = torch.arange(step * 256, (step + 1) * 256) % len(features)
        batch = {name: column[rows].to(model.device) for name, column in (("codes", codes), ("labels", numbers))}
        model(numeric=features[rows].to(model.device), **batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


@torch.no_grad()
def naive_greedy(model: GoRModel, memory: Tensor) -> Tensor:
    """Greedy decoding without a cache and of fixed length, token ids `[B, max_length + 1]`."""
    ids = torch.full((len(memory), 1), SOS, device=memory.device)
    state = model.intervals.start(len(memory))
    for _ in range(model.vocabulary.max_length + 1):
        hidden = model.hidden(memory, model.embedding(ids))
        token = model.head(hidden[:, -1], model.intervals.legal_tokens(state)).argmax(dim=1)
        state = model.intervals.advance(state, token)
        ids = torch.cat([ids, token[:, None]], dim=1)
    return ids[:, 1:]


def moved(model: M, device: str) -> M:
    """A model on a device."""
    nn.Module.to(model, device)
    return model


def median_seconds(call: Callable[[], Any], repeats: int) -> float:
    """Median time of a call, after one that does not count."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(decoder: str, batches: list[int], repeats: int) -> dict[str, Any]:
    """Rows per second of every way for each batch size, encoder included."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    features, labels = problem(8192)
    vocabulary = CoDiVocabulary.fit(labels, resolution=0.1)
    config = GoRConfig(vocabulary.to_dict(), ENCODER, decoder=decoder, strategy="teacher_forcing")
    model = moved(GoRModel(config), device)
    train(model, features, labels)
    settings = {"location": 0.0, "scale": 1.0}
    head = moved(DirectModel(DirectConfig(ENCODER, "l1", settings)), device).eval()

    def l1(x: Tensor) -> Tensor:
        return head.head.predict(head.outputs(head.encoder(numeric=x)))

    ways: dict[str, Callable[[Tensor], Any]] = {
        "greedy": lambda x: greedy(model, model.encoder(numeric=x)),
        "quantile": lambda x: quantile(model, model.encoder(numeric=x), MEDIAN),
        "beam4": lambda x: beam(model, model.encoder(numeric=x), 4),
        "naive": lambda x: naive_greedy(model, model.encoder(numeric=x)),
        "l1": l1,
    }
    results = []
    with torch.no_grad():
        for batch in batches:
            x = features[torch.arange(batch) % len(features)].to(device)
            speed = {name: batch / median_seconds(partial(way, x), repeats) for name, way in ways.items()}
            codes, plain = ways["greedy"](x), ways["naive"](x)
            ended = (plain == EOS).cumsum(dim=1)
            plain = plain.masked_fill((ended > 0) & (plain != EOS), PAD)[:, : codes.shape[1]]
            results.append(
                {
                    "batch": batch,
                    "rows_per_second": {name: round(value, 1) for name, value in speed.items()},
                    "mean_length": float((codes != PAD).sum(dim=1).float().mean()),
                    "quantile_over_greedy_time": speed["greedy"] / speed["quantile"],
                    "greedy_over_naive_speed": speed["greedy"] / speed["naive"],
                    "quantile_over_naive_speed": speed["quantile"] / speed["naive"],
                    "greedy_equals_naive": bool((codes == plain).all()),
                }
            )
    return {
        "decoder": decoder,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "tokens": len(vocabulary.tokens),
        "max_length": vocabulary.max_length,
        "results": results,
    }


def figures_table(figures: dict[str, Any]) -> Table:
    """The figures of [`measure`][benchmarks.gor_decode.measure]."""
    table = Table(title=f"Rows per second, {figures['decoder']} decoder, {figures['device']}")
    ways = list(figures["results"][0]["rows_per_second"])
    for name in ("batch", *ways, "quantile / greedy time", "greedy / naive", "same codes"):
        table.add_column(name, justify="right")
    for result in figures["results"]:
        table.add_row(
            f"{result['batch']:,}",
            *(f"{result['rows_per_second'][way]:,.0f}" for way in ways),
            f"{result['quantile_over_greedy_time']:.2f}",
            f"{result['greedy_over_naive_speed']:.1f}",
            "yes" if result["greedy_equals_naive"] else "NO",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description="Rows per second of GoR's decoders.", allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--decoder", default="transformer", choices=["rnn", "gru", "lstm", "transformer"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4096], help="batch sizes")
    parser.add_argument("--repeats", type=int, default=7, help="timed calls; the median counts")
    arguments = parser.parse_args()
    if min(arguments.batch) < 1 or arguments.repeats < 1:
        parser.error("--batch and --repeats must be at least 1")
    with Console(stderr=True).status("training and decoding"):
        figures = measure(arguments.decoder, arguments.batch, arguments.repeats)
    if arguments.json:
        print(json.dumps(figures))
        return
    Console().print(figures_table(figures))


if __name__ == "__main__":
    replace_unprintable()
    main()
