"""Many methods on many tables over many seeds: measured, kept in files, and summed up."""

from gor_head.compare.cells import Cell, Method, Result
from gor_head.compare.run import Run, run
from gor_head.compare.summary import Comparison, Entry, Overall, summarize

__all__ = ["Cell", "Comparison", "Entry", "Method", "Overall", "Result", "Run", "run", "summarize"]
