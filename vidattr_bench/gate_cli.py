"""The commands of the regression gate: compare, accept, history."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from vidattr_bench.compare import Comparison

HELP = {
    "compare": "tell whether a run is worse than the accepted one; the exit status says",
    "accept": "make a run the one that later ones are compared with",
    "history": "show the accepted runs and what moved since the anchored one",
}
_COMPARE_STATUS = "exit status: 0 pass, 1 regressed, 2 not comparable, 3 improved, 4 inconclusive"


def add_options(parsers: dict[str, Any]) -> None:
    """Give the parsers of `HELP` their options and what they call."""
    _compare_options(parsers["compare"])
    _accept_options(parsers["accept"])
    _history_options(parsers["history"])


def _compare_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.epilog = _COMPARE_STATUS
    add("reference", type=Path, metavar="REFERENCE", help="folder of the accepted run")
    add("new", type=Path, metavar="NEW", help="folder of the new run")
    add("--margins", type=Path, metavar="FILE", help="margins (default: margins.yaml beside REFERENCE or above)")
    add(
        "--allow-missing",
        nargs="+",
        choices=("methods", "metrics", "clips"),
        default=(),
        metavar="WHAT",
        help="of what NEW may hold only a part: methods, metrics, clips",
    )
    add("--anchor", type=Path, metavar="DIR", help="run that drift is measured from (default: the accepted anchor)")
    add("--all", action="store_true", help="print the cells that passed, too")
    add("--markdown", type=Path, metavar="FILE", help="write a comment for a pull request")
    add("--junit", type=Path, metavar="FILE", help="write JUnit XML for CI")
    add("--json", type=Path, metavar="FILE", help="write JSON for programs")
    parser.set_defaults(call=_compare)


def _accept_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("new", type=Path, metavar="NEW", help="folder of the run")
    add("--as", dest="name", default="", metavar="NAME", help="name of the reference (default: <dataset>-<model>)")
    add("--note", default="", metavar="TEXT", help="why, for the history")
    add("--date", default="", metavar="DATE", help="date in the history (default: of the run's commit)")
    add("--force", action="store_true", help="accept a run that regressed or cannot be compared; needs --note")
    add("--anchor", action="store_true", help="measure drift from this run on")
    add("--margins", type=Path, metavar="FILE", help="as for compare")
    _folders(parser)
    parser.set_defaults(call=_accept)


def _history_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--run", default="", metavar="NAME", help="the accepted runs of this name (default: the one name there is)")
    add("--methods", nargs="+", default=(), metavar="LABEL", help="only these rows")
    add("--metrics", nargs="+", default=(), metavar="LABEL", help="only these metrics")
    add("--all", action="store_true", help="show means that have not moved, too")
    add("--plot", type=Path, metavar="FILE", help="draw means over accepted runs into a .png, .pdf or .svg")
    _folders(parser)
    parser.set_defaults(call=_history)


def _folders(parser: argparse.ArgumentParser) -> None:
    default = Path("results/reference")
    parser.add_argument(
        "--references", type=Path, default=default, metavar="DIR", help=f"folder of accepted runs (default: {default})"
    )


def _console() -> Console:
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=150)


def _compare(arguments: argparse.Namespace) -> int:
    from vidattr_bench import verdicts
    from vidattr_bench.compare import compare

    found: Comparison = compare(
        arguments.reference,
        arguments.new,
        margins=arguments.margins,
        allow_missing=arguments.allow_missing,
        anchor=arguments.anchor,
    )
    _console().print(verdicts.console(found, everything=arguments.all))
    for name, write in (("markdown", verdicts.markdown), ("junit", verdicts.junit), ("json", verdicts.as_json)):
        path = getattr(arguments, name)
        if path is not None:
            _write(path, write(found))
    return found.exit_status


def _write(path: Path, content: str) -> None:
    from vidattr_bench.errors import RunError
    from vidattr_bench.store import write_atomically

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make {path.parent}: {error.strerror or error}") from error
    write_atomically(path, content.encode())


def _accept(arguments: argparse.Namespace) -> int:
    from vidattr_bench import history, verdicts

    names = ("name", "note", "date", "force", "anchor", "references", "margins")
    accepted = history.accept(arguments.new, **{name: getattr(arguments, name) for name in names})
    if accepted.comparison is not None:
        print(verdicts.headline(accepted.comparison))
    print(f"accepted as {accepted.folder}; commit {arguments.references}")
    return 0


def _history(arguments: argparse.Namespace) -> int:
    from vidattr_bench import history, timeline

    entries = history.of_one_run(arguments.references, arguments.run)
    table = timeline.chosen(entries, arguments.methods, arguments.metrics)
    _console().print(timeline.console(entries, table, everything=arguments.all))
    if arguments.plot is not None:
        print(timeline.draw(entries, table, arguments.plot))
    return 0
