"""Commands and options -> calls. Nothing here computes; torch is imported only by commands that need it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from vidattr_bench import __version__, gate_cli
from vidattr_bench.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

OK, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 130


class _Parser(argparse.ArgumentParser):
    """Argparse without abbreviations, that answers an unknown option with the nearest known ones."""

    def __init__(self, **options: object) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"error: {message}\n(see {self.prog} --help)\n")

    def options(self) -> list[str]:
        return [text for action in self._actions for text in action.option_strings]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0, 1 (a cell failed), 2 (bad usage), 130 (stopped), or compare's."""
    parser, commands = _build()
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        _refuse(unknown[0], commands[known.command])
    try:
        return int(known.call(known))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED if known.command in ("run", "compare", "accept") else OK


def _refuse(option: str, parser: _Parser) -> NoReturn:
    name = option.partition("=")[0]
    hint = did_you_mean(name, parser.options()) if name.startswith("-") else "this word belongs to no option"
    parser.error(f"unknown option {name}; {hint}")


def _build() -> tuple[_Parser, dict[str, _Parser]]:
    parser = _Parser(
        prog="python -m vidattr_bench", description="Which attribution method should you believe on video?"
    )
    parser.add_argument("--version", action="version", version=f"vidattr_bench {__version__}")
    group = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    commands = {
        "run": group.add_parser("run", help="explain and score clips, then show the table"),
        "list": group.add_parser("list", help="what methods, metrics, data sets and models there are"),
        "sheet": group.add_parser("sheet", help="draw the maps of all methods on a few clips, without scoring them"),
        "check-data": group.add_parser("check-data", help="what of a data set is missing, corrupt or unannotated"),
        "train": group.add_parser("train", help="train or fine-tune a network on a data set"),
        "table": group.add_parser("table", help="print and write the tables of a run again"),
        "plot": group.add_parser("plot", help="draw the plots and pictures of a run again"),
        **{name: group.add_parser(name, help=text, description=text) for name, text in gate_cli.HELP.items()},
    }
    gate_cli.add_options(commands)
    _run_options(commands["run"])
    _sheet_options(commands["sheet"])
    _list_options(commands["list"])
    _check_data_options(commands["check-data"])
    _train_options(commands["train"])
    _table_options(commands["table"])
    _plot_options(commands["plot"])
    return parser, commands


def _run_options(parser: _Parser) -> None:
    """The options of `run`; absent ones stay absent, so that run.yaml and the defaults fill them."""
    add = parser.add_argument
    add("--dataset", metavar="SPEC", help="data set, as ucf101:root=DIR,split=1 (default: planted_actions)")
    add("--model", metavar="SPEC", help="model, as r3d_18 or pkg.mod:factory (default: tiny3d)")
    add("--methods", nargs="+", metavar="SPEC", help="attribution methods, separated by spaces (default: all)")
    add("--metrics", nargs="+", metavar="SPEC", help="metrics or presets, separated by spaces (default: default)")
    add("--target", help="class explained: label, predicted or a class name (default: label)")
    add("--stream", help="rgb or flow: explain one stream of a model that takes both (default: both together)")
    add("--limit", type=int, metavar="N", help="this many clips, evenly spaced over the split")
    add("--seed", type=int, metavar="N", help="seed of every draw (default: 0)")
    add("--output", type=Path, metavar="DIR", help="run folder (default: results/<dataset>-<model>-<hash>)")
    add("--config", type=Path, metavar="FILE", help="options from a run.yaml; those given here win")
    add("--class-map", type=Path, metavar="FILE", help="maps the data set's class names to the model's")
    add("--batch-size", type=int, metavar="N", help="clips explained together (default: 4)")
    add("--forward-batch", type=int, metavar="N", help="perturbed clips per forward (default: measured, then kept)")
    add("--workers", type=int, metavar="N", help="processes that decode (default: 0, in the main one)")
    add("--shard", metavar="i/n", help="do part i of n of the plan, i from 1")
    add("--save-maps", action="store_true", help="keep every map under maps/")
    add("--sample", type=int, metavar="N", help="clips for metrics that explain again (default: 8, evenly spaced)")
    add("--pictures", type=int, metavar="N", help="clips to draw (default: 3)")
    add("--accelerator", help="as Lightning's Trainer: auto, cpu, gpu, ...")
    add("--devices", help="as Lightning's Trainer: auto, 2, 0,1, ...")
    add("--num-nodes", type=int, metavar="N", help="as Lightning's Trainer")
    add("--strategy", help="as Lightning's Trainer: auto, ddp, ...")
    add("--precision", help="32-true (default), bf16-mixed or 16-mixed")
    add("--dry-run", action="store_true", help="print cells, forwards and estimated minutes, compute nothing")
    parser.argument_default = argparse.SUPPRESS
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    parser.set_defaults(call=_run)


def _list_options(parser: _Parser) -> None:
    parser.add_argument("kind", choices=("methods", "metrics", "datasets", "models"))
    parser.add_argument("--format", choices=("text", "md", "json"), default="text")
    parser.set_defaults(call=_list)


def _sheet_options(parser: _Parser) -> None:
    parser.argument_default = argparse.SUPPRESS
    add = parser.add_argument
    add("--dataset", metavar="SPEC", help="data set (default: planted_actions)")
    add("--model", metavar="SPEC", help="network of the zoo, or pkg.mod:factory (default: tiny3d)")
    add("--methods", nargs="+", metavar="SPEC", help="attribution methods, or all (default)")
    add("--clips", nargs="+", metavar="ID", help="clips of the split (default: --limit of them)")
    add("--limit", type=int, metavar="N", help="clips, evenly spaced over the split, where none is named (default: 1)")
    add("--target", metavar="CLASS", help="label (default), predicted, or a class")
    add("--stream", help="rgb or flow, of a model that takes both (default: both together)")
    add("--class-map", type=Path, metavar="FILE", help="maps the data set's class names to the model's")
    add("--seed", type=int, metavar="N", help="seed of every draw")
    add("--output", type=Path, metavar="DIR", required=True, help="folder for a PNG a clip")
    parser.set_defaults(call=_sheet)


def _check_data_options(parser: _Parser) -> None:
    parser.epilog = "exit status: 0 every listed clip is usable, 1 some are not, 2 none is"
    add = parser.add_argument
    add("dataset", metavar="SPEC", help="data set, as ucf101:root=DIR,split=1")
    add("--decode", action="store_true", help="decode every clip (minutes to hours); else only what listing shows")
    add("--workers", type=int, metavar="N", default=0, help="processes that decode (default: 0, in the main one)")
    add("--controls", action="store_true", help="pointing game of centre, random and oracle, from the annotation alone")
    add("--format", choices=("text", "json"), default="text")
    parser.set_defaults(call=_check_data)


def _table_options(parser: _Parser) -> None:
    add = parser.add_argument
    add("run", type=Path, nargs="+", metavar="RUN", help="run folders, a group of columns each")
    add("--metrics", nargs="+", metavar="SPEC", default=(), help="columns in order: labels, names, families, presets")
    add("--methods", nargs="+", metavar="SPEC", default=(), help="rows in order: labels, names or families")
    add("--format", choices=("console", "latex", "markdown", "csv", "html"), help="default: what --output ends in")
    add("--output", type=Path, metavar="FILE", help="write there instead of printing")
    add("--uncertainty", choices=("interval", "plusminus", "none"), default="interval")
    add("--subset", choices=("all", "correct", "shared"), help="the clips that means are over")
    add("--mean", choices=("clip", "class"), default="clip", help="mean over clips, or over classes")
    add("--decimals", type=int, metavar="N", help="of every number")
    parser.set_defaults(call=_table)


_KINDS = "curves, overview, forest, ranks, correlation, cost, reliability, clips"


def _plot_options(parser: _Parser) -> None:
    add = parser.add_argument
    add("run", type=Path, nargs="+", metavar="RUN", help="run folders")
    add("--kind", nargs="+", metavar="KIND", default=(), help=f"{_KINDS} (default: all that apply)")
    add("--metrics", nargs="+", metavar="SPEC", default=(), help="labels, names, families or presets")
    add("--methods", nargs="+", metavar="SPEC", default=(), help="labels, names or families")
    add("--output", type=Path, metavar="DIR", help="folder for the files (default: plots/ of the run)")
    parser.set_defaults(call=_plot)


def _train_options(parser: _Parser) -> None:
    add = parser.add_argument
    add("--dataset", metavar="SPEC", default="planted_actions", help="data set whose training part is learnt")
    add("--model", metavar="SPEC", default="tiny3d", help="network of the zoo, or pkg.mod:factory")
    add("--output", type=Path, metavar="FILE", required=True, help="safetensors file to write")
    add("--epochs", type=int, metavar="N", help="passes over the training part")
    add("--lr", type=float, metavar="X", help="peak learning rate (default: 4e-3, from a checkpoint 4e-4)")
    add("--batch-size", type=int, metavar="N", help="clips per step on each device")
    add("--seed", type=int, metavar="N", help="seed of initial weights and order")
    add("--mask-augment", type=float, metavar="X", help="share of the clips of which random tubelets are removed")
    add("--workers", type=int, metavar="N", help="processes that decode or render")
    add("--accelerator", help="as Lightning's Trainer")
    add("--devices", help="as Lightning's Trainer")
    add("--precision", help="as Lightning's Trainer")
    parser.set_defaults(call=_train)


def _run(arguments: argparse.Namespace) -> int:
    from vidattr_bench import dry_run, runner
    from vidattr_bench.settings import from_mapping
    from vidattr_bench.store import read_yaml

    given = {key: value for key, value in vars(arguments).items() if key not in ("call", "command")}
    dry, config = given.pop("dry_run", False), given.pop("config", None)
    console = _console()
    options = {**(read_yaml(config) if config else {}), **given}
    settings = from_mapping(options, str(config or "run"))
    if config is not None:
        _announce_code(settings.model, config)
    if dry:
        dry_run.show(settings, console)
        return OK
    return FAILED if runner.execute(settings, console).failed else OK


def _console() -> Console:
    """The terminal; where there is none, wide enough for the tables."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=112)


def _announce_code(model: str, config: Path) -> None:
    """Say which callable a configuration makes this process import."""
    from vidattr_bench.zoo import imported_by

    code = imported_by(model)
    if code:
        print(f"note: {config} imports and runs {code}", file=sys.stderr)


def _sheet(arguments: argparse.Namespace) -> int:
    from vidattr_bench import contact_sheet
    from vidattr_bench.settings import from_mapping

    given = {key: value for key, value in vars(arguments).items() if key not in ("call", "command")}
    clips, folder = given.pop("clips", ()), given.pop("output")
    settings = from_mapping({"limit": 1, **given}, "sheet")
    return OK if contact_sheet.write(settings, clips, folder, _console()) else FAILED


def _list(arguments: argparse.Namespace) -> int:
    from vidattr_bench import listing

    print(listing.render(arguments.kind, arguments.format))
    return OK


def _check_data(arguments: argparse.Namespace) -> int:
    from vidattr_bench import check_data, plugins

    data = plugins.create("datasets", arguments.dataset)
    report = check_data.check(data, arguments.dataset, decode=arguments.decode, workers=arguments.workers)
    if arguments.controls:
        report = check_data.with_controls(report, data)
    check_data.show(report, _console(), arguments.format)
    return report.status


def _train(arguments: argparse.Namespace) -> int:
    from vidattr_bench import plugins, training, zoo

    options = {k: v for k, v in vars(arguments).items() if v is not None}
    for key in ("call", "command"):
        del options[key]
    dataset = plugins.create("datasets", options.pop("dataset"))
    figures = training.train(
        dataset, zoo.create_model(options.pop("model")), options.pop("output"), say=_note, **options
    )
    for name, value in figures.items():
        print(f"{name}: {value}")
    return OK


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _table(arguments: argparse.Namespace) -> int:
    from vidattr_bench import report
    from vidattr_bench.selection import Choice

    runs = report.open_runs(arguments.run)
    given = {key: getattr(arguments, key) for key in ("subset", "mean", "uncertainty", "decimals")}
    choice = Choice(tuple(arguments.metrics), tuple(arguments.methods), **given)
    style = arguments.format or report.format_of(arguments.output)
    report.write_choice(runs, choice, style, arguments.output, _console())
    if len(runs) == 1 and choice == Choice() and style == "console" and arguments.output is None:
        report.print_failures(runs[0], _console())
        report.write_tables(runs[0])
    return OK


def _plot(arguments: argparse.Namespace) -> int:
    from vidattr_bench import gallery, report
    from vidattr_bench.selection import Choice

    runs = report.open_runs(arguments.run)
    choice = Choice(tuple(arguments.metrics), tuple(arguments.methods))
    for path in gallery.draw(runs, choice, arguments.kind, arguments.output):
        print(path)
    return OK
