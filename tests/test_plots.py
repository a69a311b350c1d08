import math

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vidattr_bench import plots

EVIL = "_evil$x$\\input{x}<script>[bold]"
METHODS = {"grad_cam": True, EVIL: True, "random": False}


def facts_of(methods):
    return {
        "methods": {label: {"informed": informed} for label, informed in methods.items()},
        "metrics": {
            "srg": {"family": "faithfulness", "higher_is_better": True},
            "insertion": {"family": "faithfulness", "higher_is_better": True},
            "srg:substrate=freeze": {"family": "faithfulness", "higher_is_better": True},
            "roc_auc": {"family": "localisation", "higher_is_better": True},
        },
    }


def curves_of(methods, clips=6, substrates=("blur3d",)):
    """Curves that fall from 0.8 to 0.2, the earlier in `methods` the faster when the most relevant go first."""
    rows = []
    for rank, method in enumerate(methods):
        for substrate in substrates:
            for order, power in (("morf", 0.3 + 0.1 * rank), ("lerf", 3.0 - 0.1 * rank)):
                for clip in range(clips):
                    for fraction in np.linspace(0, 1, 5):
                        key = {"clip": f"c{clip}", "method": method, "unit": "tubelet", "substrate": substrate}
                        score = 0.8 - 0.6 * fraction**power + 0.01 * clip * fraction * (1 - fraction)
                        rows.append({**key, "order": order, "seed": 0, "fraction": fraction, "score": score})
    return pd.DataFrame(rows)


def scores_of(clips=6):
    return pd.DataFrame(
        {"clip": [f"c{clip}" for clip in range(clips)], "group": [f"g{clip // 2}" for clip in range(clips)]}
    )


def summary_of(methods):
    rows = [
        {
            "method": method,
            "metric": metric,
            "subset": "all",
            "clips": 6,
            "mean": 0.1 * rank,
            "low": 0.1 * rank - 0.05,
            "high": 0.1 * rank + 0.05,
            "chance": 0.5 if metric == "roc_auc" else math.nan,
        }
        for rank, method in enumerate(methods)
        for metric in ("srg", "insertion", "srg:substrate=freeze", "roc_auc", "seconds")
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would be saved."""
    figures = []
    save = plots.save
    monkeypatch.setattr(plots, "save", lambda figure, stem: figures.append(figure) or save(figure, stem))
    return figures


def test_curves_are_written_for_every_substrate(tmp_path):
    curves = curves_of(METHODS, substrates=("blur3d", "../freeze"))
    files = plots.draw_curves(curves, scores_of(), facts_of(METHODS), tmp_path)
    assert len(files) == 4
    assert {path.suffix for path in files} == {".png", ".pdf"}
    assert all(path.parent == tmp_path and path.stat().st_size > 5000 for path in files)
    with Image.open(files[0]) as image:
        assert image.size[0] == 1440
    assert files[1].read_bytes().startswith(b"%PDF")


def test_insertion_is_the_least_relevant_first_curve_read_backwards(tmp_path, drawn):
    plots.draw_curves(curves_of(["grad_cam"]), scores_of(), facts_of(METHODS), tmp_path)
    deletion, insertion = (axes.lines[0].get_xydata() for axes in drawn[0].axes)
    curves = curves_of(["grad_cam"])
    means = curves.groupby(["order", "fraction"])["score"].mean()
    for fraction in (0.0, 0.25, 0.5, 1.0):
        at = round(fraction * 32)
        assert deletion[at] == pytest.approx((fraction, means["morf", fraction]))
        assert insertion[at] == pytest.approx((fraction, means["lerf", 1 - fraction]))


def test_draws_of_a_clip_are_averaged_before_clips(tmp_path, drawn):
    first = curves_of(["random"], clips=2)
    more = first[first["clip"] == "c0"].assign(seed=1, score=0.0)
    plots.draw_curves(pd.concat([first, more]), scores_of(2), facts_of(METHODS), tmp_path)
    start = drawn[0].axes[0].lines[0].get_ydata()[0]
    assert start == pytest.approx(((0.8 + 0.0) / 2 + 0.8) / 2)


def test_legend_names_every_method_as_it_is_and_sorts_by_area(tmp_path, drawn):
    plots.draw_curves(curves_of(METHODS), scores_of(), facts_of(METHODS), tmp_path)
    texts = drawn[0].legends[0].get_texts()
    assert [text.get_text() for text in texts] == ["grad_cam", EVIL, "random"]
    assert not any(text.get_parse_math() for text in texts)


def test_controls_are_grey_and_dashed_and_methods_keep_their_colour(tmp_path, drawn):
    plots.draw_curves(curves_of(METHODS, substrates=("blur3d", "freeze")), scores_of(), facts_of(METHODS), tmp_path)
    colours = [[line.get_color() for line in figure.axes[0].lines] for figure in drawn]
    assert colours[0] == colours[1]
    assert len(set(map(str, colours[0]))) == 3
    control = drawn[0].axes[0].lines[-1]
    assert control.get_color() == "0.45"
    assert control.get_linestyle() != "-"


def test_more_than_eight_methods_take_more_figures_each_with_the_controls(tmp_path, drawn):
    methods = {**{f"method_{at}": True for at in range(9)}, "random": False}
    files = plots.draw_curves(curves_of(methods), scores_of(), facts_of(methods), tmp_path)
    assert [path.stem for path in files[::2]] == ["curves-tubelet-blur3d", "curves-tubelet-blur3d-2"]
    labels = [[text.get_text() for text in figure.legends[0].get_texts()] for figure in drawn]
    assert [len(names) for names in labels] == [9, 2]
    assert all(names[-1] == "random" for names in labels)


def test_overview_shows_the_first_metric_of_each_family_and_substrate(tmp_path, drawn):
    files = plots.draw_overview(summary_of(METHODS), facts_of(METHODS), tmp_path)
    assert [path.name for path in files] == ["overview.png", "overview.pdf"]
    panels = drawn[0].axes
    assert [axes.get_title() for axes in panels] == ["srg ↑", "srg:substrate=freeze ↑", "roc_auc ↑"]
    assert [tick.get_text() for tick in panels[0].get_yticklabels()] == [EVIL, "grad_cam", "random"]
    assert panels[2].lines[-1].get_xdata()[0] == 0.5


def test_a_long_overview_takes_pages_of_one_scale_and_loses_no_method(tmp_path, drawn):
    methods = {**{f"method_{at:02d}": True for at in range(40)}, "random": False}
    files = plots.draw_overview(summary_of(methods), facts_of(methods), tmp_path)
    assert [path.name for path in files[::2]] == ["overview.png", "overview-2.png"]
    shown = [tick.get_text() for figure in drawn for tick in figure.axes[0].get_yticklabels()]
    assert shown == [*sorted(set(methods) - {"random"}, reverse=True), "random"]
    for first, second in zip(*(figure.axes for figure in drawn), strict=True):
        assert first.get_xlim() == second.get_xlim()


def test_no_two_controls_look_alike_and_pages_of_curves_share_a_scale(tmp_path, drawn):
    controls = [f"control_{at}" for at in range(9)]
    methods = {**{f"method_{at}": True for at in range(9)}, **dict.fromkeys(controls, False)}
    plots.draw_curves(curves_of(methods), scores_of(), facts_of(methods), tmp_path)
    lines = [line for line in drawn[0].axes[0].lines if line.get_color() == "0.45"]
    assert len({(str(line._dash_pattern), line.get_marker()) for line in lines}) == len(controls)
    assert len({figure.axes[1].get_ylim() for figure in drawn}) == 1
    assert drawn[0].get_suptitle().endswith("mean over 6 clips in 3 groups, band: pointwise 95 % interval")


def test_overview_of_a_chosen_metric_and_of_nothing(tmp_path, drawn):
    plots.draw_overview(summary_of(METHODS), facts_of(METHODS), tmp_path, metrics=["insertion"])
    assert [axes.get_title() for axes in drawn[0].axes] == ["insertion ↑"]
    assert plots.draw_overview(summary_of(METHODS).iloc[:0], facts_of(METHODS), tmp_path) == []


def test_global_state_of_matplotlib_is_left_alone(tmp_path):
    before, backend, figures = dict(mpl.rcParams), mpl.get_backend(), plt.get_fignums()
    plots.draw_curves(curves_of(["grad_cam"]), scores_of(), facts_of(METHODS), tmp_path)
    plots.draw_overview(summary_of(METHODS), facts_of(METHODS), tmp_path)
    assert dict(mpl.rcParams) == before
    assert (mpl.get_backend(), plt.get_fignums()) == (backend, figures)


def test_the_same_data_give_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        plots.draw_overview(summary_of(METHODS), facts_of(METHODS), tmp_path / folder)
    for name in ("overview.png", "overview.pdf"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
