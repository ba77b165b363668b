"""The metrics of a training run, as a table and as curves."""

from __future__ import annotations

from typing import Any

from hooked_whisper._support.showing import Summary, Tabular, counted, spread

SHOWN = ("step", "explained_variance", "l0", "dead", "reconstruction", "sparsity", "gradient_norm", "lr")
_CURVES = {"explained_variance": "explained variance", "l0": "active features (L0)", "dead": "share of dead features"}
_ROWS = 12


class TrainingLog(Tabular, list[dict[str, Any]]):
    """The lines of ``metrics.jsonl``: a list of dictionaries that shows itself as a table.

    ``log.to_pandas()`` is the whole table, ``log.plot()`` the curves.
    """

    def to_rows(self) -> list[dict[str, Any]]:
        return list(self)

    def summary(self) -> Summary:
        if not self:
            return Summary("TrainingLog: no lines")
        columns = tuple(name for name in SHOWN if any(line.get(name) is not None for line in self))
        lines = [self[k] for k in spread(len(self), _ROWS)]
        title = f"TrainingLog: {counted(len(self), 'line')}, steps {self[0]['step']} to {self[-1]['step']}"
        return Summary(title, (), columns, tuple(tuple(line.get(name) for name in columns) for line in lines))

    def plot(self) -> Any:
        """Draw explained variance, L0 and the share of dead features over the steps (matplotlib)."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 2.6), layout="constrained")
        for axes, (name, title) in zip(figure.subplots(1, len(_CURVES)), _CURVES.items(), strict=True):
            points = [(line["step"], line[name]) for line in self if line.get(name) is not None]
            axes.plot([step for step, _ in points], [value for _, value in points])
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("step")
            axes.grid(alpha=0.3)
            if name != "explained_variance":
                axes.set_ylim(bottom=0)
        return figure
