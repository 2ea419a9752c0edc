"""Lines that come one at a time: in columns, with colours and a spinner on a terminal; plain in a pipe."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from workers.cli import output
from workers.cli.output import Cell

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

_GAP = "  "
_REFRESH_PER_SECOND = 8
# A UUID as a site's id fits into 80 columns beside its sentence; anything longer is folded.
_WIDEST_PERCENT = 45


class AlignedLines:
    """Columns of fixed widths and a last one that takes the rest of the line and folds under itself."""

    def __init__(self, widths: Sequence[int], console: "Console | None" = None) -> None:
        """Describe the columns.

        Args:
            widths: least width of every column but the last; on a terminal a column grows with what it has to hold.
            console: where a spinner is shown as well; None prints directly.
        """
        self._widths = list(widths)
        self._console = console

    def heading(self, text: str) -> None:
        """Print a line across the columns."""
        self._print(output.styled(Cell(text, "bold")))

    def write(self, *cells: Cell) -> None:
        """Print one line; one cell for each column."""
        *first, last = [Cell(output.visible(cell.text), cell.style) for cell in cells]
        if not output.is_terminal():
            padded = [cell.text.ljust(width) for cell, width in zip(first, self._widths, strict=True)]
            output.write_line(_GAP.join([*padded, last.text]).rstrip(), flush=True)
            return
        self._print(self._grid(first, last))

    def _grid(self, first: Sequence[Cell], last: Cell) -> Any:
        from rich.table import Table  # noqa: PLC0415  # only a terminal needs it

        widest = (self._console or output.rich_console()).width * _WIDEST_PERCENT // 100
        grid = Table.grid(padding=(0, 2, 0, 0))
        for position, cell in enumerate(first):
            width = max(self._widths[position], min(len(cell.text), widest))
            self._widths[position] = width
            grid.add_column(width=width, overflow="fold")
        grid.add_column(ratio=1, overflow="fold")
        grid.add_row(*map(output.styled, (*first, last)))
        return grid

    def _print(self, renderable: Any) -> None:
        if self._console is None:
            output.print_rich(renderable)
        else:
            self._console.print(renderable)


class Spinner:
    """On a terminal: a last line that moves and says what is going on. Elsewhere: nothing.

    Attributes:
        console: where lines above the spinner have to be printed; None where there is no terminal.
    """

    def __init__(self, text: Callable[[], str]) -> None:
        """Describe it; it starts with the block.

        Args:
            text: asked eight times a second, from another thread.
        """
        self._text = text
        self._live: Live | None = None
        self.console: Console | None = None
        if output.is_terminal():
            self._live = self._make_live()

    def _make_live(self) -> "Live":
        from rich.live import Live  # noqa: PLC0415  # only a terminal needs it
        from rich.spinner import Spinner as Frames  # noqa: PLC0415

        self.console = output.rich_console()
        unicode = output.shows_unicode()
        frames = Frames("dots" if unicode else "line", style="cyan")

        def picture() -> Any:
            frames.update(text=output.styled(Cell(output.visible(self._text()), "dim")))
            return frames

        return Live(
            console=self.console,
            get_renderable=picture,
            refresh_per_second=_REFRESH_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
